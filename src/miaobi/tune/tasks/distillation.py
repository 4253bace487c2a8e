"""Distillation: a small model learns from a larger one.

logits    L = Σ_t α T² KL(p_T(·|x_<t) ‖ q_T(·|x_<t)) - (1 - α) log q(x_t|x_<t)         (Hinton et al. 2015, arXiv:1503.02531)
          p the teacher, q the student, both softened by the temperature T; a local
          teacher with the same vocabulary
answers   L = -Σ_t log q(y_t | y_<t, x), y what the teacher answers to x                (Kim and Rush 2016, arXiv:1606.07947)
          any teacher that writes, also a remote one; it is asked once, and its answers
          are kept (tune/text/teacher.py)

`head.layers` makes the student out of the base by keeping only so many of its layers,
evenly spaced (Sanh et al. 2019, arXiv:1910.01108).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable, to_document
from miaobi.models.base import Base, open_base
from miaobi.models.weights import find
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch, Loss, Phase
from miaobi.tune.learner import Evaluation, Example, Features, Metric
from miaobi.tune.tasks.causal import TextLearner, writing_model
from miaobi.tune.text.packing import Reader, by_sequence, layers_of
from miaobi.tune.text.prompts import (
    PromptFormat,
    fit,
    generate,
    prompt_format_of,
    row,
)
from miaobi.tune.text.teacher import Opener, Teacher, current_opener

NAME = "distillation"
SUMMARY = "learn from a larger model", "向更大的模型学习"
MODALITY, READER, MAKES = "text", "texts", "text"
EXAMPLE = '{"prompt": "..."} / {"prompt": "...", "completion": "..."} / {"text": "..."}'


@dataclass(frozen=True)
class Config:
    teacher: str = ""
    """A starter pack, a model in the store, a path, a hub id; for answers also the URL
    of a server.
    """
    teacher_model: str = ""
    """The teacher's name on a server that offers several."""
    loss: Literal["logits", "answers"] = "logits"
    """logits: imitate every probability of a local teacher with the same vocabulary.
    answers: learn what a teacher writes.
    """
    temperature: float = 2.0
    """For logits: softens both models, so that unlikely tokens count too."""
    alpha: float = 0.9
    """For logits: the weight of the teacher's probabilities; the rest goes to the text itself."""
    layers: int = 0
    """Make the student out of the base by keeping so many of its layers (with --method
    full); 0 keeps all.
    """
    max_new_tokens: int = 128
    """Longest answer, of the teacher and of those that are shown."""
    streams: int = 4
    """Questions that the teacher is asked at the same time."""

    def __post_init__(self) -> None:
        for name, good in (
            ("temperature", self.temperature > 0),
            ("alpha", 0 <= self.alpha <= 1),
            ("layers", self.layers >= 0),
            ("streams", self.streams > 0),
        ):
            if not good:
                raise BadInput(
                    say(
                        f"head.{name} is {getattr(self, name)}.",
                        f"head.{name} 为 {getattr(self, name)}。",
                    ),
                    say(
                        "temperature is above 0, alpha within [0, 1], layers at least 0, streams at least 1.",
                        "temperature 应大于 0，alpha 在 [0, 1] 之间，layers 不小于 0，streams 至少为 1。",
                    ),
                )


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """{"prompt": text or messages, "completion": text}; without a completion the
    teacher answers, without a prompt the text is read whole.
    """
    if (
        isinstance(record.get("prompt"), str)
        and record["prompt"].strip()
        and not record.get("completion")
    ):
        return {"prompt": record["prompt"].strip(), "completion": ""}
    document = to_document(record, None, {})
    turns = [message._asdict() for message in document.messages]
    last = max(
        (place for place, turn in enumerate(turns) if turn["role"] == "assistant"),
        default=len(turns),
    )
    prompt = turns[:last] if turns else document.prompt.strip()
    completion = (
        turns[last]["content"] if last < len(turns) else document.text
    ).strip()
    if not prompt and not completion:
        raise Unusable(say("the text is empty.", "文本为空。"), EXAMPLE)
    if not prompt and config.loss == "answers":
        raise Unusable(
            say(
                "there is no question that the teacher could answer.",
                "没有可供教师回答的问题。",
            ),
            '{"prompt": "..."}',
        )
    return {"prompt": prompt, "completion": completion}


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return (
        {"prompt": columns["prompt"]}
        if columns["prompt"]
        else {"completion": columns["completion"]}
    )


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    """Has the teacher answer what it is to answer; what was answered in an earlier run
    is not asked again.
    """
    if not config.teacher:
        raise BadInput(
            say("There is no teacher.", "没有指定教师模型。"), "--head.teacher smollm2"
        )
    asked = [
        example.columns["prompt"]
        for example in examples
        if _taught(example.columns, config)
    ]
    if asked:
        teacher = _teacher(config, current_opener())
        teacher.ask(asked, progress=True)
        teacher.close()
    return {"examples": len(examples), "answered": len(asked)}


def _taught(columns: Mapping[str, Any], config: Config) -> bool:
    """Whether the answer to be learned is the teacher's."""
    return config.loss == "answers" or not columns["completion"]


def _teacher(config: Config, opener: Opener | None) -> Teacher:
    return Teacher(
        config.teacher,
        opener,
        config.teacher_model,
        config.max_new_tokens,
        config.streams,
    )


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Everything can be learned."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Student:
    net = writing_model(base)
    if config.layers:
        keep_layers(net, config.layers)
    kind = Imitator if config.loss == "logits" else Student
    return kind(net, prompt_format_of(base), config)


def keep_layers(net: Any, count: int) -> None:
    """Leave `count` layers of a model, evenly spaced, the first and the last among them."""
    name = layers_of(net)
    layers, settings = net.get_submodule(name), net.config.get_text_config()
    if count > len(layers):
        raise BadInput(
            say(
                f"head.layers is {count}; the base has {len(layers)}.",
                f"head.layers 为 {count}；基础模型只有 {len(layers)} 层。",
            ),
            say(f"Give at most {len(layers)}.", f"请不要超过 {len(layers)}。"),
        )
    kept = np.linspace(0, len(layers) - 1, count).round().astype(int).tolist()
    net.set_submodule(name, nn.ModuleList(layers[place] for place in kept))
    settings.num_hidden_layers = count
    if getattr(settings, "layer_types", None):
        settings.layer_types = [settings.layer_types[place] for place in kept]
    for place, layer in enumerate(net.get_submodule(name)):
        for module in layer.modules():
            if (
                getattr(module, "layer_idx", None) is not None
            ):  # Transformers' place in the cache of keys and values
                module.layer_idx = place


class Student(TextLearner):
    """Learns the tokens of answers: the teacher's, or those that the data gives."""

    def __init__(
        self, net: nn.Module, prompt_format: PromptFormat, config: Config
    ) -> None:
        super().__init__(net, prompt_format.tokenizer, config.max_new_tokens)
        self.prompt_format, self.config = prompt_format, config
        self._answers: tuple[Teacher, ...] = ()
        self._opener = current_opener()

    def phases(self) -> list[Phase]:
        """Raises Unsupported for an adapter on a base that has lost layers: nobody
        could find that base again.
        """
        if self.config.layers and self.adapter:
            raise Unsupported(
                say(
                    "head.layers makes a new base, which an adapter alone cannot be put beside.",
                    "head.layers 会得到新的基础模型，单独的适配器无从依附。",
                ),
                "--method full",
            )
        return super().phases()

    def completion(self, columns: Mapping[str, Any]) -> str:
        if not _taught(columns, self.config):
            return str(columns["completion"])
        self._answers = self._answers or (_teacher(self.config, self._opener),)
        return self._answers[0][columns["prompt"]]

    def parts(self, columns: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """(tokens that are read, tokens that are learned)."""
        prompt, text = columns["prompt"], self.completion(columns)
        if prompt:
            return self.prompt_format.question(prompt), self.prompt_format.answer(
                prompt, text
            )
        ids = [
            *PromptFormat(self.tokenizer, None).question(text),
            *(
                []
                if self.tokenizer.eos_token_id is None
                else [self.tokenizer.eos_token_id]
            ),
        ]
        return ids[:1], ids[1:]

    def tokens(self, columns: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        asked, answered = self.parts(columns)
        return asked + answered, np.arange(len(asked) + len(answered)) >= len(asked)

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        ids, learned = row(*fit(*self.parts(columns), max_length))
        return {"ids": ids, "learned": learned}

    def answer(self, columns: Mapping[str, Any]) -> str:
        asked = (
            self.prompt_format.question(columns["prompt"])
            if columns.get("prompt")
            else self.parts({"prompt": "", **columns})[1][:8]
        )
        return generate(
            self.net, [np.array(asked)], self.prompt_format, self.config.max_new_tokens
        )[0]


class Imitator(Student):
    """Learns a teacher's probabilities: of every learned token, not of the right one alone."""

    def __init__(
        self, net: nn.Module, prompt_format: PromptFormat, config: Config
    ) -> None:
        super().__init__(net, prompt_format, config)
        base = _local(config.teacher)
        if base.tokenizer.get_vocab() != prompt_format.tokenizer.get_vocab():
            raise Unsupported(
                say(
                    f"{config.teacher} has another vocabulary: its probabilities are for other tokens.",
                    f"{config.teacher} 的词表不同，其概率对应另外的词元。",
                ),
                say(
                    "Learn from what it writes: --head.loss answers",
                    "请学习它写出的回答：--head.loss answers",
                ),
            )
        # In a tuple, so that the teacher is no part of what is trained and saved.
        self._model = (Reader(writing_model(base).requires_grad_(False).eval()),)

    @property
    def teacher(self) -> Reader:
        reader = self._model[0]
        reader.net.to(self.device)
        return reader

    def prepare(self, batch: Batch) -> Batch:
        """Adds the teacher's logits [N, V] of learned tokens."""
        with torch.no_grad():
            return {**batch, "teacher": self.teacher.logits(batch)}

    def parted(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(KL(p_T ‖ q_T), -log q of the token, whether both find the same token
        likeliest), each [N].
        """
        student, teacher = (
            self.reader.logits(batch).float(),
            batch["teacher"].float(),
        )
        # Vocabularies are sometimes filled up to a round number, each model's to its
        # own.
        size = min(student.shape[-1], teacher.shape[-1])
        student, teacher, heat = (
            student[:, :size],
            teacher[:, :size],
            self.config.temperature,
        )
        divergence = F.kl_div(
            (student / heat).log_softmax(-1),
            (teacher / heat).log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(-1)
        nats = F.cross_entropy(
            student, batch["targets"][batch["targets"] != MASKED], reduction="none"
        )
        return divergence, nats, student.argmax(-1) == teacher.argmax(-1)

    def loss(self, batch: Batch) -> Loss:
        divergence, nats, agreed = self.parted(batch)
        alpha = self.config.alpha
        total = (
            alpha * self.config.temperature**2 * divergence.sum()
            + (1 - alpha) * nats.sum()
        )
        return Loss(
            total,
            len(nats),
            {"divergence": divergence.detach().sum(), "agreement": agreed.sum()},
        )

    def metrics(self) -> Sequence[Metric]:
        def mean(sums: np.ndarray) -> np.ndarray:
            return np.asarray(sums[..., 0] / sums[..., 1])

        return [
            Metric(
                "divergence",
                mean,
                "lower",
                ("Divergence from the teacher (softened)", "与教师的散度（软化后）"),
                say("nats/token", "奈特/词元"),
            ),
            Metric(
                "agreement",
                mean,
                "higher",
                ("Same likeliest token as the teacher", "最可能词元与教师一致的比例"),
            ),
            Metric(
                "loss",
                mean,
                "lower",
                ("Loss on the text", "文本损失"),
                say("nats/token", "奈特/词元"),
            ),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        parts = [
            by_sequence(batch, values.double())
            for values in self.parted(self.prepare(batch))
        ]
        judged = list[Evaluation]()
        for divergence, nats, agreed in zip(*parts):
            sums = {
                name: np.array([float(values.sum()), float(len(values))])
                for name, values in (
                    ("divergence", divergence),
                    ("agreement", agreed),
                    ("loss", nats),
                )
            }
            judged.append(Evaluation(float(divergence.mean()), sums))
        return judged


def _local(name: str) -> Base:
    """A teacher whose logits can be looked at. Raises Unsupported for a server."""
    if find(name).format == "url":
        raise Unsupported(
            say(
                f"{name} is a server: it tells what it writes, not every probability.",
                f"{name} 是服务器：只给出文本，不给出全部概率。",
            ),
            "--head.loss answers",
        )
    return open_base(name)
