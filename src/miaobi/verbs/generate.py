"""Write with a model: `miaobi generate text --model poet --prompt "春" --n 3`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from miaobi.core.artifacts import Text
from miaobi.core.config import flat
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import TextRequest
from miaobi.engines.load import Collected, Model, changed, load
from miaobi.provenance.publish import NOTICE, WRITERS, publish


@dataclass(frozen=True)
class Generated:
    texts: list[Text]
    out: Path | None = None
    shown: bool = False
    """Whether the text already went to the terminal, piece by piece."""

    def __str__(self) -> str:
        if self.shown:
            return ""
        numbered = [f"[{at}] {text}" for at, text in enumerate(self.texts, 1)] if len(self.texts) > 1 else map(str, self.texts)
        return "\n\n".join(numbered)


def text(*, model: str, request: Annotated[TextRequest, flat], out: Path | None = None, raw: bool = False,
         engine: str = "auto") -> Generated:
    """Write with a model.

    Args:
        model: A name in the store, a starter pack (smollm2), a GGUF file, a model folder, a URL or a hub id.
        out: Also write the answers, labelled, to this .txt, .md, .json or .jsonl file.
        raw: Continue the prompt as it stands, even where the model has a chat template.
        engine: native, openvino, llamacpp, remote, or auto for what was measured to be quickest.
    """
    if out is not None and out.suffix.lower() not in WRITERS:
        raise BadInput(say(f"--out {out} has no known ending.", f"--out {out} 的扩展名无法识别。"),
                       say(f"Choose one of {', '.join(WRITERS)}.", f"请选用 {'、'.join(WRITERS)}。"))
    live = request.n == 1 and sys.stdout.isatty() and "--json" not in sys.argv
    with load(model, engine=engine, streams=max(request.n, request.num_beams), needs=changed(request)) as opened:
        ask = request.prompt if request.messages is None else request.messages
        full = opened.request(ask or "", raw=raw, seed=request.seed, **changed(request))
        start = time.perf_counter()
        texts, tokens = _collect(opened, full, live)
        print(_summary(opened, full, tokens, time.perf_counter() - start), file=sys.stderr)
    if out is not None:
        publish(texts, out)
    return Generated(texts, out, live)


def _collect(model: Model, request: TextRequest, live: bool) -> tuple[list[Text], int]:
    """The answers and their number of tokens; shown on the way when `live`."""
    collected, tokens = Collected(request), 0
    for chunk in model.stream(request):
        collected.add(chunk)
        tokens += chunk.tokens
        if live:
            print(chunk.text, end="", flush=True)
    if live:
        print()
    return collected.texts(model), tokens


def _summary(model: Model, request: TextRequest, tokens: int, seconds: float) -> str:
    version = f"@{model.weights.version}" if model.weights.version else ""
    speed = f"{tokens / seconds:.0f}" if seconds else "-"
    return say(f"{NOTICE} · {model.name}{version} · {model.engine_name} · seed {request.seed} · {tokens} tokens in {seconds:.1f} s ({speed}/s)",
               f"{NOTICE} · {model.name}{version} · {model.engine_name} · seed {request.seed} · {tokens} 个词元，{seconds:.1f} 秒（{speed}/秒）")
