"""The prepared data that a model was trained on, for models that only this evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.evaluate.evaluation import Options

if TYPE_CHECKING:
    from miaobi.core.engine import Weights


def folder_of(weights: Weights, manifest: str) -> tuple[Path, dict[str, Any]]:
    """Return the prepared folder, and the section `data` of the model's recipe.

    Args:
        weights: of a bundle.
        manifest: the file that such a folder holds.

    Raises NotFound where the data is no longer here.
    """
    assert weights.manifest is not None
    folder = Path(str(weights.manifest.data.get("folder", "")))
    if not (folder / manifest).exists():
        raise NotFound(
            say(
                f"The data that {weights.label} was trained on is not here.",
                f"找不到 {weights.label} 的训练数据。",
            ),
            say(
                "Prepare it again: miaobi train with its recipe and --dry-run.",
                "请重新准备：用其配方运行 miaobi train 并加 --dry-run。",
            ),
        )
    return folder, dict(weights.manifest.recipe.get("data", {}))


def refuse_other_data(name: str, options: Options) -> None:
    """Raise BadInput for options that such an evaluation has no use for."""
    for option in ("data", "extractor"):
        if getattr(options, option):
            raise BadInput(
                say(
                    f"{name} is evaluated by its own held-out data, without --{option}.",
                    f"{name} 用自身的留出数据评估，不使用 --{option}。",
                ),
                say(f"Leave --{option} out.", f"请去掉 --{option}。"),
            )
