"""Ways to tune: which weights move, and what is put beside those that do not.

full        every weight
frozen      the head and what `freeze_*` leaves
lora        low-rank updates beside the matrices: W + (α/r) B A (Hu et al. 2021, arXiv:2106.09685)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from miaobi.tune.learner import Learner


@dataclass(frozen=True)
class TuneConfig:
    """Step 3: how the base is changed."""

    method: str = "lora"
    """full, frozen, lora, ..."""
    lora_rank: int = 8
    """Columns of A and B."""
    lora_alpha: float = 16.0
    """Strength: the update is scaled by lora_alpha / lora_rank."""
    lora_dropout: float = 0.0


def apply(learner: Learner, config: TuneConfig) -> None:
    """Wrap or freeze `learner.net` in place. Raises Unsupported for a method that does not go with this base or task."""
    if config.method == "full":
        return
    from peft import LoraConfig, get_peft_model
    settings = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, target_modules="all-linear",
                          modules_to_save=list(learner.fresh) or None, task_type=learner.adapter_kind)
    learner.net = get_peft_model(learner.net, settings)


def save(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """Weights: the adapter in PEFT's layout, or the whole model in Transformers'."""
    learner.net.save_pretrained(folder)


def restore(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """The weights `save` left, into a fresh learner of the same base to which `apply` was not done yet."""
    from peft import PeftModel
    learner.net = PeftModel.from_pretrained(learner.net, folder, is_trainable=True)
