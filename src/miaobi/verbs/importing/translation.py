"""Settings of another program as a recipe: each key is taken as a key of ours, or not
taken and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miaobi.core.config import plain, set_key
from miaobi.core.language import say

DIRECT = {
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.microbatches",
    "learning_rate": "train.learning_rate",
    "max_steps": "train.max_steps",
    "warmup_ratio": "train.warmup",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.clip",
    "seed": "train.seed",
    "logging_steps": "train.log_every",
    "save_steps": "train.checkpoint_every",
    "eval_steps": "train.validate_every",
    "save_total_limit": "train.keep",
    "gradient_checkpointing": "tune.gradient_checkpointing",
    "neftune_noise_alpha": "tune.neftune_alpha",
    "lora_rank": "tune.lora_rank",
    "lora_alpha": "tune.lora_alpha",
    "lora_dropout": "tune.lora_dropout",
}
"""Keys of both programs that mean the same here."""
COUNTS = {"logging_steps", "save_steps", "eval_steps"}
"""Of them those that are shares of a run below 1."""
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}
NEEDLESS = frozenset(
    {
        "attn_impl",
        "dataloader_num_workers",
        "dataset_num_proc",
        "ddp_timeout",
        "deepspeed",
        "do_train",
        "eval_strategy",
        "flash_attn",
        "logging_strategy",
        "overwrite_cache",
        "overwrite_output_dir",
        "packing",
        "neat_packing",
        "per_device_eval_batch_size",
        "plot_loss",
        "preprocessing_num_workers",
        "save_only_model",
        "save_strategy",
        "trust_remote_code",
    }
)
"""Keys that need no counterpart."""


@dataclass
class Translation:
    """What becomes of the settings of another program."""

    settings: Mapping[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """By their key: what it was taken as, or why it was not."""

    def get(self, key: str, default: Any = None) -> Any:
        return self.settings.get(key, default)

    def take(self, key: str, target: str, value: Any) -> None:
        """Take a key as a key of the recipe."""
        set_key(self.recipe, target, value)
        self.notes[key] = say(
            f"taken as {target} = {plain(value)}", f"写为 {target} = {plain(value)}"
        )

    def refuse(self, key: str, english: str, chinese: str) -> None:
        """Note why a key was not taken."""
        self.notes[key] = say(f"not taken: {english}", f"未采用：{chinese}")

    def note(self, key: str, english: str, chinese: str) -> None:
        """Note what became of a key that stands in no key of the recipe alone."""
        self.notes[key] = say(english, chinese)


def located(name: str, folder: Path) -> Path | None:
    """Return a path of another program's file: from where one stands, beside the file in
    `folder`, or above it; None for one that is not there.
    """
    if Path(name).exists():
        return Path(name)
    for parent in (folder, *folder.parents):
        if (parent / name).exists():
            return parent / name
    return None


def take_common(translation: Translation) -> None:
    """Take what both programs have from Transformers."""
    for key, target in DIRECT.items():
        value = translation.get(key)
        if value is None:
            continue
        if key == "max_steps" and value <= 0:
            translation.refuse(key, "it says none", "其值表示不限")
        elif key in COUNTS and value < 1:
            translation.refuse(key, "a share of the run", "按训练比例给出")
        else:
            translation.take(key, target, value)
    _take_schedule(translation)
    _take_precision(translation)
    _take_method(translation)
    _take_betas(translation)
    _take_trackers(translation)


def take_name(translation: Translation) -> None:
    """Take the folder of its output as the model's name."""
    folder = translation.get("output_dir")
    if folder:
        name = Path(str(folder)).name
        translation.take("output_dir", "name", name.replace("_", "-").lower())


def _take_trackers(translation: Translation) -> None:
    value = translation.get("report_to")
    names = [value] if isinstance(value, str) else list(value or ())
    if names and set(names) <= {"none", "tensorboard", "wandb"}:
        trackers = [name for name in names if name != "none"]
        translation.take("report_to", "train.trackers", trackers)


def _take_schedule(translation: Translation) -> None:
    name = translation.get("lr_scheduler_type")
    if name in SCHEDULES:
        translation.take("lr_scheduler_type", "train.schedule", SCHEDULES[name])
    elif name is not None:
        translation.refuse(
            "lr_scheduler_type", f"there is no schedule {name}", f"没有 {name} 调度"
        )


def _take_precision(translation: Translation) -> None:
    if translation.get("bf16"):
        translation.take("bf16", "train.precision", "bfloat16")
    if translation.get("fp16"):
        translation.refuse("fp16", "float16 is not offered", "不提供 float16")
    for key in ("torch_dtype", "quantization_bit", "quant_bits"):
        value = translation.get(key)
        if key == "torch_dtype" and value in ("bfloat16", "float32"):
            translation.take(key, "train.precision", value)
        elif key != "torch_dtype" and value in (4, 8):
            translation.take(key, "tune.quantise", f"int{value}")


def _take_method(translation: Translation) -> None:
    """Take the variants of LoRA, and the layers that get an adapter."""
    for key, method in (("use_dora", "dora"), ("use_rslora", "rslora")):
        if translation.get(key):
            translation.take(key, "tune.method", method)
    for key in ("lora_target", "target_modules"):
        value = translation.get(key)
        names = value.split(",") if isinstance(value, str) else list(value or ())
        names = [name.strip() for name in names if name.strip()]
        if names in (["all"], ["all-linear"]):
            translation.note(
                key, "taken: all linear layers, as here", "已采用：所有线性层"
            )
        elif names:
            pattern = "|".join(names)
            translation.take(key, "tune.targets", rf".*\.({pattern})")


def _take_betas(translation: Translation) -> None:
    betas = [translation.get("adam_beta1", 0.9), translation.get("adam_beta2", 0.999)]
    for key in ("adam_beta1", "adam_beta2"):
        if key in translation.settings:
            translation.take(key, "train.betas", betas)


def take_epochs(translation: Translation, examples: int | None) -> None:
    """Take epochs, and steps of warm-up, as far as the number of examples is known."""
    train = translation.recipe.get("train", {})
    epochs = translation.get("num_train_epochs")
    if epochs is not None and "max_steps" in train:
        translation.refuse("num_train_epochs", "max_steps decides", "以 max_steps 为准")
    elif epochs is not None and examples:
        batch = train.get("batch_size", 8) * train.get("microbatches", 1)
        held_out = translation.recipe.get("data", {}).get("validation", 0.1)
        steps = max(round(examples * (1 - held_out) * epochs / batch), 1)
        translation.take("num_train_epochs", "train.max_steps", steps)
    elif epochs is not None:
        translation.refuse(
            "num_train_epochs",
            "the examples cannot be counted; give --train.max_steps",
            "无法统计样本数；请给出 --train.max_steps",
        )
    warmup = translation.get("warmup_steps")
    max_steps = translation.recipe.get("train", {}).get("max_steps")
    if warmup and max_steps:
        translation.take(
            "warmup_steps", "train.warmup", round(min(warmup / max_steps, 1), 4)
        )


def note_the_rest(translation: Translation) -> None:
    """Note every key that nothing was made of."""
    for key, value in translation.settings.items():
        if key in translation.notes:
            continue
        if key in NEEDLESS:
            translation.refuse(key, "not needed here", "此处不需要")
        elif value in (None, False, "", [], 0):
            translation.refuse(key, "it is off", "未启用")
        else:
            translation.refuse(key, "there is no such setting here", "此处没有这项设置")
