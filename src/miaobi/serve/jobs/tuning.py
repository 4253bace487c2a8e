"""The fields of a fine-tuning job, checked before it is accepted: OpenAI's, and those of
our own settings that a job may set.

No field is a path, or a name of anything but a served model. A setting that is not in
SETTINGS does not reach the tuner.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from miaobi.core.errors import nearest
from miaobi.core.language import say
from miaobi.serve.pages import Metadata

SUFFIX = re.compile(r"[a-z0-9][a-z0-9._-]{0,29}")
BASE_LETTERS = 20
ID_LETTERS = 8
"""Of the base's name and of the job's id, in a tuned model's name of at most 64."""


def number(**bounds: Any) -> TypeAdapter[Any]:
    """Return the type of a finite number within `bounds` (ge, gt, le, lt)."""
    return TypeAdapter(
        Annotated[float, Field(strict=True, allow_inf_nan=False, **bounds)]
    )


def count(**bounds: Any) -> TypeAdapter[Any]:
    """Return the type of a whole number within `bounds` (ge, gt, le, lt)."""
    return TypeAdapter(Annotated[int, Field(strict=True, **bounds)])


SETTINGS: dict[str, TypeAdapter[Any]] = {
    "task": TypeAdapter(
        Literal[
            "chat",
            "causal",
            "preference",
            "seq2seq",
            "text-classification",
            "token-classification",
            "extractive-questions",
            "embedding",
        ]
    ),
    "tune.method": TypeAdapter(Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]),
    "tune.lora_rank": count(ge=1, le=512),
    "tune.lora_alpha": number(gt=0, le=4096),
    "tune.lora_dropout": number(ge=0, lt=1),
    "tune.gradient_checkpointing": TypeAdapter(Annotated[bool, Field(strict=True)]),
    "tune.neftune_alpha": number(ge=0, le=100),
    "train.max_steps": count(ge=1, le=1_000_000),
    "train.batch_size": count(ge=1, le=1024),
    "train.microbatches": count(ge=1, le=1024),
    "train.accumulation": count(ge=1, le=1024),  # its earlier name
    "train.learning_rate": number(gt=0, le=1),
    "train.weight_decay": number(ge=0, le=10),
    "train.warmup": number(ge=0, le=1),
    "train.clip": number(ge=0, le=1000),
    "train.patience": count(ge=0, le=1000),
    "train.max_minutes": number(gt=0, le=100_000),
    **{
        f"train.{name}": count(ge=0, le=1_000_000)
        for name in (
            "validate_every",
            "validation_batches",
            "checkpoint_every",
            "sample_every",
        )
    },
    "train.log_every": count(ge=1, le=1_000_000),
    "data.max_length": count(ge=0, le=1 << 20),
    "data.max_examples": count(ge=0, le=1 << 31),
    "data.validation": number(ge=0, lt=1),
    "data.test": number(ge=0, lt=1),
    "data.too_long": TypeAdapter(Literal["truncate", "split", "drop"]),
    "data.strict": TypeAdapter(Annotated[bool, Field(strict=True)]),
    "head.loss": TypeAdapter(Literal["dpo", "orpo", "kto"]),
    "head.beta": number(gt=0, le=100),
    "head.template": TypeAdapter(Literal["", "chatml", "plain"]),
    "head.max_new_tokens": count(ge=1, le=4096),
    "report.limit": count(ge=1, le=100_000),
    "report.answers": count(ge=0, le=100),
    **{
        f"report.{name}": TypeAdapter(Annotated[bool, Field(strict=True)])
        for name in ("forgetting", "memorisation")
    },
}
"""Keys of `miaobi finetune` that a job may set, with their types."""

Auto = Literal["auto"]


class Fields(BaseModel):
    """Refuses every field that is not written down."""

    model_config = ConfigDict(extra="forbid")


def _suffix(value: str | None) -> str | None:
    if value and not SUFFIX.fullmatch(value):
        raise ValueError(
            say(
                f"{value!r} cannot be part of a model's name; use up to 30 "
                "lower-case letters, digits, '.', '_' and '-'.",
                f"{value!r} 不能用于模型名；请使用最多 30 个小写字母、数字、'.'、'_' 和 '-'。",
            )
        )
    return value or None


def check_settings(
    value: dict[str, Any] | None, allowed: Mapping[str, TypeAdapter[Any]]
) -> dict[str, Any] | None:
    """Return `value`, if each setting is one of `allowed` and of its type. Raise ValueError."""
    for key, setting in (value or {}).items():
        if key not in allowed:
            raise ValueError(
                say(
                    f"{key[:64]!r} is no setting of a job. ",
                    f"{key[:64]!r} 不是任务的设置。",
                )
                + nearest(key[:64], allowed)
            )
        try:
            allowed[key].validate_python(setting)
        except ValidationError as error:
            raise ValueError(f"{key}: {error.errors()[0]['msg']}") from None
    return value


Suffix = Annotated[Annotated[str, Field(max_length=64)] | None, AfterValidator(_suffix)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Hyperparameters(Fields):
    n_epochs: Auto | Annotated[int, Field(ge=1, le=100)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=1024)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=100)] = "auto"


class DpoHyperparameters(Hyperparameters):
    beta: Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


class Supervised(Fields):
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)


class Dpo(Fields):
    hyperparameters: DpoHyperparameters = Field(default_factory=DpoHyperparameters)


class Method(Fields):
    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None


class Create(Fields):
    """A fine-tuning job, in OpenAI's fields; `miaobi` holds settings of
    `miaobi finetune` beside them.
    """

    model: Annotated[str, Field(max_length=128)]
    training_file: str
    validation_file: str | None = None
    suffix: Suffix = None
    seed: Seed | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    metadata: Metadata | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None
    miaobi: Annotated[dict[str, Any], Field(max_length=len(SETTINGS))] | None = None

    @field_validator("miaobi")
    @classmethod
    def _settings(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return check_settings(value, SETTINGS)

    @property
    def effective_hyperparameters(self) -> Hyperparameters:
        """Those of the method, or the older field of the job."""
        part: Supervised | Dpo | None = None
        if self.method is not None:
            is_dpo = self.method.type == "dpo"
            part = self.method.dpo if is_dpo else self.method.supervised
        if part is not None:
            return part.hyperparameters
        return self.hyperparameters or Hyperparameters()

    @property
    def kind(self) -> str:
        return self.method.type if self.method else "supervised"


def tuned_name(model: str, suffix: str | None, job_id: str) -> str:
    """Return the name of the tuned model. A job has one name, so that a job that is run
    again after a crash makes no second model.
    """
    base = model.partition("@")[0].partition("-ft-")[0][:BASE_LETTERS]
    parts = (base, "ft", suffix, job_id[-ID_LETTERS:])
    return "-".join(part for part in parts if part)
