"""Exports to GGUF: whole weights, compared before the file gets its name."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.files import write_beside, write_text
from miaobi.models.convert.quantise import Dtype
from miaobi.verbs.export.exported import Exported
from miaobi.verbs.export.folder import merged
from miaobi.verbs.export.parity import measure

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.models.tuned import Tuned


def to_gguf(
    weights: Weights, adapter: Tuned | None, target: Path, dtype: Dtype, text: str
) -> Exported:
    """Write a GGUF, compare its answers, and measure its perplexity.

    Nothing is left of a file that cannot be written whole or answers differently.

    Args:
        weights: the model.
        adapter: the same as a tuned model, where its adapter is to be merged.
        target: the file to write.
        dtype: number format of its matrices.
        text: what the perplexities are measured on.
    """
    from miaobi.models import convert
    from miaobi.models.convert.modelfile import modelfile

    folder = adapter.base.folder if adapter else weights.path
    has_tokenizer = (weights.path / "tokenizer.json").exists()
    # Before a merge, which takes long.
    convert.check(folder, dtype, weights.path if has_tokenizer else folder)
    whole = merged(adapter, target) if adapter else nullcontext(weights.path)
    with whole as folder, write_beside(target) as draft:
        convert.to_gguf(folder, draft, dtype)
        size = draft.stat().st_size
        parity, perplexity = measure(weights, draft, dtype, text)
    companion = target.with_suffix(".Modelfile")
    write_text(companion, modelfile(target))
    return Exported(
        model=weights.label,
        path=target,
        format="gguf",
        dtype=dtype,
        bytes=size,
        parity=parity,
        perplexity=perplexity,
        modelfile=companion,
    )
