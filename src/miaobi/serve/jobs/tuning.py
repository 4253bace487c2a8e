"""The fields of a fine-tuning job, checked before it is accepted: OpenAI's, and those of
our own settings that a job may set.

No field is a path, or a name of anything but a served model. A setting that is not in
NAMES does not reach the tuner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from miaobi.core import config
from miaobi.core.config import Option
from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.core.requests import EmbeddingRequest, TextRequest
from miaobi.serve.pages import Metadata
from miaobi.train.config import TrainConfig
from miaobi.tune import heads
from miaobi.tune.config import DataConfig, ReportConfig, TuneConfig

SUFFIX = re.compile(r"[a-z0-9][a-z0-9._-]{0,29}")
BASE_LETTERS = 20
ID_LETTERS = 8
"""Of the base's name and of the job's id, in a tuned model's name of at most 64."""


TASKS: Mapping[str, type] = {
    "chat": heads.ChatHead,
    "causal": heads.CausalHead,
    "preference": heads.PreferenceHead,
    "seq2seq": heads.Seq2SeqHead,
    "text-classification": heads.TextClassificationHead,
    "pair-classification": heads.TextClassificationHead,
    "token-classification": heads.TokenClassificationHead,
    "extractive-questions": heads.ExtractiveQuestionsHead,
    "embedding": heads.EmbeddingHead,
    "reranker": heads.RerankerHead,
}
"""The tasks that a job may name, with what can be set of each."""
BASES_MAKE = (TextRequest.makes, EmbeddingRequest.makes, "labels")
"""What the models make that these tasks tune: they write or read texts."""
TRAIN_NAMES = (
    "train.max_steps",
    "train.batch_size",
    "train.microbatches",
    "train.learning_rate",
    "train.weight_decay",
    "train.warmup",
    "train.clip",
    "train.patience",
    "train.max_minutes",
    "train.validate_every",
    "train.validation_batches",
    "train.checkpoint_every",
    "train.sample_every",
    "train.log_every",
)
NAMES = (
    "task",
    "tune.method",
    "tune.lora_rank",
    "tune.lora_alpha",
    "tune.lora_dropout",
    "tune.gradient_checkpointing",
    "tune.neftune_alpha",
    *TRAIN_NAMES,
    "data.max_length",
    "data.max_examples",
    "data.validation",
    "data.test",
    "data.too_long",
    "data.strict",
    "head.loss",
    "head.beta",
    "head.template",
    "head.max_new_tokens",
    "report.limit",
    "report.answers",
    "report.forgetting",
    "report.memorisation",
)
"""Keys of `miaobi finetune` that a job may set."""


@cache
def allowed_settings() -> dict[str, Option]:
    """Return the settings that a job may set; types and bounds are the configs' own."""
    settings = [
        Option("task", Literal[*TASKS], None, "What the model learns to do."),
        *config.options(TuneConfig, "tune."),
        *config.options(TrainConfig, "train."),
        *config.options(DataConfig, "data."),
        *config.options(ReportConfig, "report."),
    ]
    for head in TASKS.values():
        settings += config.options(head, "head.")
    return select(settings, NAMES)


def select(settings: Iterable[Option], names: Iterable[str]) -> dict[str, Option]:
    """Return the settings of these names by key, and under their earlier keys."""
    by_key = {option.key: option for option in settings}
    selected = {name: by_key[name] for name in names}
    for option in list(selected.values()):
        if option.former_key is not None:
            selected[option.former_key] = option
    return selected


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


def check_settings(settings: Mapping[str, Any], allowed: Mapping[str, Option]) -> None:
    """Raise ValueError for a setting of a job that is not one of `allowed`, or whose
    value is none that it takes.
    """
    for key, value in settings.items():
        if key not in allowed:
            raise ValueError(
                say(
                    f"{key[:64]!r} is no setting of a job. ",
                    f"{key[:64]!r} 不是任务的设置。",
                )
                + nearest(key[:64], allowed)
            )
        try:
            allowed[key].convert(value, strict=True)
        except BadInput as error:
            raise ValueError(error.sentence) from None


def describe_settings(allowed: Callable[[], Mapping[str, Option]]) -> Any:
    """Return what the description of the API says of a job's settings: their types,
    bounds and defaults, as `miaobi VERB --help` has them.
    """

    def add_properties(schema: dict[str, Any]) -> None:
        schema["anyOf"] = [
            {
                "type": "object",
                "properties": {
                    key: option.schema() for key, option in allowed().items()
                },
                "additionalProperties": False,
            },
            {"type": "null"},
        ]

    return Field(json_schema_extra=add_properties)


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
    miaobi: Annotated[dict[str, Any] | None, describe_settings(allowed_settings)] = None

    @field_validator("miaobi")
    @classmethod
    def _settings(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        check_settings(value or {}, allowed_settings())
        return value

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
