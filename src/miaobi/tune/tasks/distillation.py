"""Distillation: a small model learns from a larger one.

logits    L = Σ_t α T² KL(p_T(·|x_<t) ‖ q_T(·|x_<t)) - (1 - α) log q(x_t|x_<t)
          p the teacher, q the student, both softened by the temperature T; a local
          teacher with the same vocabulary (Hinton et al. 2015, arXiv:1503.02531)
answers   L = -Σ_t log q(y_t | y_<t, x), y what the teacher answers to x
          any teacher that writes, also a remote one; it is asked once, and its answers
          are stored (tune/text/teacher.py; Kim and Rush 2016, arXiv:1606.07947)

`head.layers` makes the student from the base with only so many of its layers, evenly
spaced (Sanh et al. 2019, arXiv:1910.01108).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.data.text.shapes import Record, Unusable, check_not_judged, to_document
from miaobi.data.text.shapes.layouts import ANSWERS, CHOSEN, REJECTED
from miaobi.models.base import Base, open_base
from miaobi.models.weights import find
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch, Loss, Phase
from miaobi.tune.heads import DistillationHead as Config
from miaobi.tune.learner import Evaluation, Example, Metric
from miaobi.tune.tasks.causal import TextLearner, writing_model
from miaobi.tune.text.metrics import mean
from miaobi.tune.text.packing import Reader, by_sequence, layers_of
from miaobi.tune.text.prompts import (
    PromptFormat,
    generate,
    prompt_format_of,
)
from miaobi.tune.text.teacher import Opener, Teacher, current_opener

NAME = "distillation"
SUMMARY = "learn from a larger model", "向更大的模型学习"
MODALITY = "text"
READER = "labelled/texts"
MAKES = "text"
ASK = "--prompt ..."
EXAMPLE = '{"prompt": "..."} / {"prompt": "...", "completion": "..."} / {"text": "..."}'
TEXT_PROMPT = 8
"""Tokens of a text without a prompt that are given when it is to be continued."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """Return {"prompt": text or messages, "completion": text}.

    Without a completion the teacher answers, without a prompt the text is read whole.
    """
    record = Record.of(record)
    if _is_question_alone(record):
        return {"prompt": record["prompt"].strip(), "completion": ""}
    prompt, completion = _prompt_and_completion(record)
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


def _is_question_alone(record: Record) -> bool:
    prompt = record.peek("prompt")
    is_text = isinstance(prompt, str) and bool(prompt.strip())
    return is_text and not record.first((*ANSWERS, *CHOSEN, *REJECTED))


def _prompt_and_completion(record: Record) -> tuple[Any, str]:
    """Return what comes before the assistant's last turn, and that turn.

    Of records without turns, the prompt and the text.
    """
    document = to_document(record, None, {})
    check_not_judged(document)
    for key in document.only_chat:
        record.leave_over(key)
    turns = [message._asdict() for message in document.messages]
    if not turns:
        return document.prompt.strip(), document.text.strip()
    roles = [turn["role"] for turn in turns]
    if "assistant" not in roles:
        return turns, document.text.strip()
    last = len(roles) - 1 - roles[::-1].index("assistant")
    return turns[:last], turns[last]["content"].strip()


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    name = "prompt" if columns["prompt"] else "completion"
    return {name: columns[name]}


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    """Have the teacher answer what it is to answer.

    What it answered in an earlier run is not asked again.
    """
    if not config.teacher:
        raise BadInput(
            say("There is no teacher.", "没有指定教师模型。"), "--head.teacher smollm2"
        )
    prompts = [
        example.columns["prompt"]
        for example in examples
        if _needs_teacher(example.columns, config)
    ]
    if prompts:
        teacher = _teacher(config, current_opener())
        teacher.ask(prompts, progress=True)
        teacher.close()
    return {"examples": len(examples), "answered": len(prompts)}


def _needs_teacher(columns: Mapping[str, Any], config: Config) -> bool:
    """Return whether the answer to be learned is the teacher's."""
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
    kind = LogitsStudent if config.loss == "logits" else Student
    return kind(net, prompt_format_of(base), config)


def keep_layers(net: Any, count: int) -> None:
    """Leave `count` layers of a model, evenly spaced, with the first and the last."""
    name = layers_of(net)
    layers = net.get_submodule(name)
    config = net.config.get_text_config()
    if count > len(layers):
        raise BadInput(
            say(
                f"head.layers is {count}; the base has {len(layers)}.",
                f"head.layers 为 {count}；基础模型只有 {len(layers)} 层。",
            ),
            say(f"Give at most {len(layers)}.", f"请不要超过 {len(layers)}。"),
        )
    indices = np.linspace(0, len(layers) - 1, count).round().astype(int).tolist()
    remaining = nn.ModuleList(layers[index] for index in indices)
    net.set_submodule(name, remaining)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in indices]
    for index, layer in enumerate(remaining):
        for module in layer.modules():
            # Transformers' index into the cache of keys and values.
            if getattr(module, "layer_idx", None) is not None:
                setattr(module, "layer_idx", index)  # noqa: B010 - not declared


class Student(TextLearner):
    """Learns the tokens of answers: the teacher's, or those that the data gives."""

    def __init__(
        self, net: nn.Module, prompt_format: PromptFormat, config: Config
    ) -> None:
        super().__init__(net, prompt_format.tokenizer, config.max_new_tokens)
        self.prompt_format = prompt_format
        self.config = config
        self._opener = current_opener()

    @cached_property
    def _answers(self) -> Teacher:
        return _teacher(self.config, self._opener)

    def phases(self) -> list[Phase]:
        """Raise Unsupported for an adapter on a base that has lost layers.

        The saved adapter could not name that base.
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
        """Return the answer to be learned."""
        if _needs_teacher(columns, self.config):
            return self._answers[columns["prompt"]]
        return str(columns["completion"])

    def parts(self, columns: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """Return (tokens that are read, tokens that are learned)."""
        prompt = columns["prompt"]
        text = self.completion(columns)
        if prompt:
            question_ids = self.prompt_format.question(prompt)
            return question_ids, self.prompt_format.answer(prompt, text)
        ids = PromptFormat(self.tokenizer, None).question(text)
        if self.tokenizer.eos_token_id is not None:
            ids = [*ids, self.tokenizer.eos_token_id]
        return ids[:1], ids[1:]

    def tokens(self, columns: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        read, learned = self.parts(columns)
        ids = read + learned
        return ids, np.arange(len(ids)) >= len(read)

    def answer(self, columns: Mapping[str, Any]) -> str:
        if columns.get("prompt"):
            prompt = self.prompt_format.question(columns["prompt"])
        else:
            _, learned = self.parts({"prompt": "", **columns})
            prompt = learned[:TEXT_PROMPT]
        answers = generate(
            self.net,
            [np.array(prompt)],
            self.prompt_format,
            self.config.max_new_tokens,
        )
        return answers[0]


class LogitsStudent(Student):
    """Learns a teacher's probabilities of every learned token, not of the right one
    alone.
    """

    def __init__(
        self, net: nn.Module, prompt_format: PromptFormat, config: Config
    ) -> None:
        super().__init__(net, prompt_format, config)
        base = _local_teacher(config.teacher)
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
        teacher = writing_model(base).requires_grad_(False).eval()
        self._teacher_readers = (Reader(teacher),)

    @property
    def teacher(self) -> Reader:
        """The teacher, on the student's device."""
        (reader,) = self._teacher_readers
        reader.net.to(self.device)
        return reader

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with the teacher's logits [N, V] of learned tokens."""
        return {**batch, "teacher": self.teacher.logits(batch)}

    def compare(self, batch: Batch) -> Comparison:
        """Return how the student differs from the teacher on a prepared batch."""
        student = self.reader.logits(batch).float()
        teacher = batch["teacher"].float()
        # Vocabularies are sometimes filled up to a round number, each model's to its
        # own.
        size = min(student.shape[-1], teacher.shape[-1])
        student = student[:, :size]
        teacher = teacher[:, :size]
        temperature = self.config.temperature
        divergence = F.kl_div(
            (student / temperature).log_softmax(-1),
            (teacher / temperature).log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(-1)
        targets = batch["targets"]
        tokens = targets[targets != MASKED]
        nats = F.cross_entropy(student, tokens, reduction="none")
        return Comparison(divergence, nats, student.argmax(-1) == teacher.argmax(-1))

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a prepared batch."""
        divergence, nats, agreement = self.compare(batch)
        alpha = self.config.alpha
        imitation = alpha * self.config.temperature**2 * divergence.sum()
        return Loss(
            imitation + (1 - alpha) * nats.sum(),
            len(nats),
            {"divergence": divergence.detach().sum(), "agreement": agreement.sum()},
        )

    def metrics(self) -> Sequence[Metric]:
        unit = say("nats/token", "奈特/词元")
        return [
            Metric(
                "divergence",
                mean,
                "lower",
                ("Divergence from the teacher (softened)", "与教师的散度（软化后）"),
                unit,
            ),
            Metric(
                "agreement",
                mean,
                "higher",
                ("Same likeliest token as the teacher", "最可能词元与教师一致的比例"),
            ),
            Metric("loss", mean, "lower", ("Loss on the text", "文本损失"), unit),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        comparison = self.compare(batch)
        sequences = zip(
            by_sequence(batch, comparison.divergence.double()),
            by_sequence(batch, comparison.nats.double()),
            by_sequence(batch, comparison.agreement.double()),
            strict=True,
        )
        return [
            Evaluation(
                float(divergence.mean()),
                {
                    "divergence": _sum_and_number(divergence),
                    "agreement": _sum_and_number(agreement),
                    "loss": _sum_and_number(nats),
                },
            )
            for divergence, nats, agreement in sequences
        ]


class Comparison(NamedTuple):
    """Of each learned token, [N] each."""

    divergence: Tensor
    """KL(p_T ‖ q_T)."""
    nats: Tensor
    """-log q of the token."""
    agreement: Tensor
    """bool: whether teacher and student predict the same token."""


def _sum_and_number(values: Tensor) -> np.ndarray:
    return np.array([float(values.sum()), float(len(values))])


def _local_teacher(name: str) -> Base:
    """Return a teacher whose logits can be read. Raises Unsupported for a server."""
    if find(name).format == "url":
        raise Unsupported(
            say(
                f"{name} is a server: it gives what it writes, not every probability.",
                f"{name} 是服务器：只给出文本，不给出全部概率。",
            ),
            "--head.loss answers",
        )
    return open_base(name)
