"""Generate text: `miaobi generate text --model poet --prompt "春"`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

from miaobi.core.artifacts import Text
from miaobi.core.config import Noted, flat
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import TextRequest
from miaobi.engines.auto import why
from miaobi.engines.collected import Collected
from miaobi.engines.load import load
from miaobi.engines.model import Model
from miaobi.provenance.publish import publish
from miaobi.provenance.text import ENDINGS
from miaobi.verbs.generate.making import offers, origin


@dataclass(frozen=True)
class Generated:
    """Generated texts."""

    texts: list[Text]
    out: Path | None = None
    shown: bool = False
    """Whether the text was already printed, piece by piece."""

    def __str__(self) -> str:
        if self.shown:
            return ""
        if len(self.texts) == 1:
            return str(self.texts[0])
        numbered = [f"[{number}] {text}" for number, text in enumerate(self.texts, 1)]
        return "\n\n".join(numbered)


def text(
    *,
    model: Annotated[str, Noted(offers)],
    request: Annotated[TextRequest, flat],
    out: Path | None = None,
    raw: bool = False,
    engine: str = "auto",
) -> Generated:
    """Generate text with a model.

    Args:
        model: A name in the store, a starter pack (smollm2), a GGUF file, a model
            folder, a URL or a hub id. With --adapter, the base.
        out: Also write the answers, labelled, to this .txt, .md, .json or .jsonl file.
        raw: Continue the prompt as it stands, even where the model has a chat template.
        engine: native, openvino, llamacpp, remote, or auto for the one that was measured to be fastest.
    """
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise BadInput(
            say(
                f"--out {out} has no known ending.",
                f"--out {out} 的扩展名无法识别。",
            ),
            say(
                f"Choose one of {', '.join(ENDINGS)}.", f"请选用 {'、'.join(ENDINGS)}。"
            ),
        )
    live = request.n == 1 and sys.stdout.isatty() and "--json" not in sys.argv
    options = {"adapters": request.adapter} if request.adapter else {}
    controls = dict(request.controls())
    if request.suffix is not None:
        controls["suffix"] = request.suffix
    with load(
        model,
        engine=engine,
        streams=max(request.n, request.num_beams),
        needs=controls,
        **options,
    ) as opened:
        prompt = request.prompt if request.messages is None else request.messages
        full = opened.request(prompt, raw=raw, seed=request.seed, **controls)
        began = time.perf_counter()
        texts, tokens = _write(opened, full, live)
        seconds = time.perf_counter() - began
        print(_text_summary(opened, full, tokens, seconds), file=sys.stderr)
        reason = why(opened.weights, opened.engine_name) if engine == "auto" else ""
        if reason:
            print(reason, file=sys.stderr)
    if out is not None:
        publish(texts, out)
    return Generated(texts, out, live)


def _write(model: Model, request: TextRequest, live: bool) -> tuple[list[Text], int]:
    """Return the answers and their number of tokens; `live` prints them as they come."""
    collected = Collected(request)
    tokens = 0
    for chunk in model.stream(request):
        collected.add(chunk)
        tokens += chunk.tokens
        if live:
            print(chunk.text, end="", flush=True)
    if live:
        print()
    return cast(list[Text], collected.artifacts(model.facts(request))), tokens


def _text_summary(
    model: Model, request: TextRequest, tokens: int, seconds: float
) -> str:
    speed = f"{tokens / seconds:.0f}" if seconds else "-"
    where = origin(model, request.seed)
    return say(
        f"{where} · {tokens} tokens in {seconds:.1f} s ({speed}/s)",
        f"{where} · {tokens} 个词元，{seconds:.1f} 秒（{speed}/秒）",
    )
