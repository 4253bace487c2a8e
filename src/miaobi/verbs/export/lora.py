"""Export of a LoRA as GGUF, compared in llama.cpp on top of its base."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from miaobi.core.artifacts import Facts, Text, TokenLogprob
from miaobi.core.files import write_beside, write_text
from miaobi.core.language import say
from miaobi.models.convert import to_gguf
from miaobi.models.convert.lora import lora_to_gguf
from miaobi.models.tuned import Tuned
from miaobi.verbs.export.exported import Exported
from miaobi.verbs.export.parity import (
    COMPARED_TOKENS,
    PROMPTS,
    Parity,
    greedy_answers,
    parity_of,
)


def to_lora_gguf(tuned: Tuned, target: Path) -> Exported:
    """Write the GGUF of an adapter alone, and a Modelfile that puts it on its base.

    Nothing is left of a file that answers differently. Raises what `lora_to_gguf`
    raises, and Damaged.

    Args:
        tuned: the saved adapter.
        target: the file to write.
    """
    with write_beside(target) as draft:
        lora_to_gguf(tuned, draft)
        size = draft.stat().st_size
        parity = _parity(tuned, draft)
    companion = target.with_suffix(".Modelfile")
    write_text(companion, _modelfile(tuned, target))
    return Exported(
        model=tuned.label,
        path=target,
        format="gguf-lora",
        dtype="f32",
        bytes=size,
        parity=parity,
        modelfile=companion,
    )


def _modelfile(tuned: Tuned, target: Path) -> str:
    base = tuned.base.weights
    if base.format == "gguf":
        return f"FROM {base.path}\nADAPTER ./{target.name}\n"
    file = f"{base.name}.f16.gguf"
    note = say(
        f"# Made by: miaobi export {base.name} --to gguf --out {file}",
        f"# 由此命令得到：miaobi export {base.name} --to gguf --out {file}",
    )
    return f"{note}\nFROM ./{file}\nADAPTER ./{target.name}\n"


def _parity(tuned: Tuned, adapter: Path) -> Parity | None:
    """Return how base and adapter answer in llama.cpp; None where it is not installed."""
    if find_spec("xllamacpp") is None:
        return None
    with TemporaryDirectory(dir=adapter.parent, prefix=".base-") as folder:
        base = to_gguf(tuned.base.folder, Path(folder) / "base.gguf", "f16")
        theirs = _answers(base, adapter)
    ours = greedy_answers(tuned.weights, "native")
    return parity_of(tuned.weights, ours, theirs, "f16")


def _answers(base: Path, adapter: Path) -> Sequence[Text]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(base)
    params.n_ctx = 256
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = -1
    params.fit_params = False
    lora = xllamacpp.CommonAdapterLoraInfo()
    lora.path = str(adapter)
    lora.scale = 1.0
    params.lora_adapters = [lora]
    server = xllamacpp.Server(params)
    return [_answer(server, prompt) for prompt in PROMPTS]


def _answer(server: Any, prompt: str) -> Text:
    answer = server.handle_completions(
        {
            "prompt": prompt,
            "max_tokens": COMPARED_TOKENS,
            "temperature": 0,
            "logprobs": 1,
        }
    )
    choice = answer["choices"][0]
    tokens = tuple(
        TokenLogprob(item["token"], item["logprob"])
        for item in choice["logprobs"]["content"]
    )
    return Text(choice["text"], Facts("llama.cpp"), logprobs=tokens)
