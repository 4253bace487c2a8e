"""Going on writing: a language model learns plain text, every token of it.

    L = -Σ_t log p(x_t | x_<t)

Of a prompt with its completion, only the completion is learned. Texts end with the
tokenizer's end-of-sequence token, so that the model learns to stop. `TextLearner` is
what `chat` shares.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable, to_document
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.learner import Evaluation, Example, Features, Metric, Piece
from miaobi.tune.text.heads import padding_of
from miaobi.tune.text.packing import PackedLearner, by_sequence, layers_of, pack

NAME = "causal"
SUMMARY = "go on writing in the manner of these texts", "仿照这些文本续写"
MODALITY, READER, MAKES = "text", "texts", "text"
EXAMPLE = '{"text": "..."}'


@dataclass(frozen=True)
class Config:
    max_new_tokens: int = 64
    """Tokens of an answer that is shown beside the base's, at most."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    document = to_document(record, None, {})
    if document.messages:
        raise Unusable(
            say("this is a dialogue.", "这是一段对话。"),
            say("Tune it with --task chat.", "请使用 --task chat 微调。"),
        )
    if not document.text.strip():
        raise Unusable(say("the text is empty.", "文本为空。"), EXAMPLE)
    return {"prompt": document.prompt, "text": document.text}


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """The prompt; a text without one asks nothing, and is told from others by all of it."""
    return (
        {"prompt": columns["prompt"]}
        if columns["prompt"]
        else {"text": columns["text"]}
    )


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    return {}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Every text can be learned."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Writer:
    return Writer(writing_model(base), base.tokenizer, config.max_new_tokens)


def writing_model(base: Base) -> nn.Module:
    """The base as a causal language model. Raises Unsupported for a base that does not write."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if base.config.get(
        "model_type"
    ) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or base.config.get("is_encoder_decoder"):
        kind = base.config.get("model_type") or base.weights.format
        raise Unsupported(
            say(
                f"{base.name} is of type {kind}, which is no causal language model.",
                f"{base.name} 的类型为 {kind}，不是因果语言模型。",
            ),
            say(
                "Choose one that writes: smollm2, or a Transformers folder of Llama, Qwen, Gemma, Mistral, GPT-2 ...",
                "请选用能写作的模型：smollm2，或 Llama、Qwen、Gemma、Mistral、GPT-2 等的 Transformers 文件夹。",
            ),
        )
    return base.model(AutoModelForCausalLM)


class TextLearner(PackedLearner):
    """A causal language model and the tokens that it learns from. Features: ids int64
    [T], learned bool [T].
    """

    unit = "tokens"
    neftune_alpha: float | None = 0.0

    def __init__(self, net: nn.Module, tokenizer: Any, max_new_tokens: int) -> None:
        super().__init__(net)
        self.tokenizer, self.max_new_tokens = tokenizer, max_new_tokens
        self.blocks = layers_of(net)

    @abstractmethod
    def tokens(self, columns: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        """(ids, which are learned) of an example, whole."""

    def length(self, columns: Mapping[str, Any]) -> int:
        return len(self.tokens(columns)[0])

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        ids, learned = self.tokens(columns)
        kept = max_length or len(ids)
        return {"ids": np.array(ids[:kept], dtype=np.int64), "learned": learned[:kept]}

    def collate(self, features: Sequence[Features]) -> Batch:
        return pack(
            [(item["ids"], item["learned"]) for item in features],
            share=self.shares_prefix,
        )

    def loss(self, batch: Batch) -> Loss:
        nats = self.reader.nats(
            batch, (self.neftune_alpha or 0.0) if self.training else 0.0
        )
        return Loss(nats.sum(), len(nats))

    def metrics(self) -> Sequence[Metric]:
        def ratio(counts: np.ndarray) -> np.ndarray:
            return np.asarray(counts[..., 0] / np.maximum(counts[..., 1], 1))

        return [
            Metric(
                "loss", ratio, "lower", ("Loss", "损失"), say("nats/token", "奈特/词元")
            ),
            Metric(
                "perplexity",
                lambda counts: np.exp(ratio(counts)),
                "lower",
                ("Perplexity", "困惑度"),
                say("per token", "每词元"),
            ),
            Metric(
                "token_accuracy",
                ratio,
                "higher",
                ("Next token right", "下一词元准确率"),
            ),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        nats, best = self.reader.scores(batch)
        right = (best == batch["targets"][batch["targets"] >= 0]).double()
        found = list[Evaluation]()
        for surprise, hits in zip(
            by_sequence(batch, nats.double()), by_sequence(batch, right)
        ):
            total, count = float(surprise.sum()), float(len(surprise))
            sums = np.array([total, count])
            found.append(
                Evaluation(
                    total / max(count, 1),
                    {
                        "loss": sums,
                        "perplexity": sums,
                        "token_accuracy": np.array([float(hits.sum()), count]),
                    },
                )
            )
        return found

    def preview(self, features: Features) -> list[Piece]:
        """Stretches of equal learning, spelled by the tokenizer."""
        ids, learned = features["ids"], features["learned"]
        edges = [0, *(np.flatnonzero(np.diff(learned)) + 1).tolist(), len(ids)]
        return [
            Piece(
                self.tokenizer.decode(
                    ids[start:end], clean_up_tokenization_spaces=False
                ),
                bool(learned[start]),
            )
            for start, end in itertools.pairwise(edges)
            if end > start
        ]

    @torch.no_grad()
    def write(self, prompt: Sequence[int], eos_ids: Sequence[int]) -> str:
        """What the model goes on with, greedily, until one of `eos_ids`, at most max_new_tokens."""
        training = self.net.training
        self.net.eval()
        ids = torch.tensor([list(prompt)], device=self.device)
        made: Any = self.net.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.max_new_tokens,  # type: ignore[operator]
            do_sample=False,
            eos_token_id=list(eos_ids) or None,
            pad_token_id=padding_of(self.tokenizer),
        )
        self.net.train(training)
        return str(
            self.tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True)
        ).strip()

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


class Writer(TextLearner):
    def tokens(self, columns: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        prompt, text = columns["prompt"], columns["text"]
        encoded = self.tokenizer(prompt + text, return_offsets_mapping=bool(prompt))
        ids = list(encoded.input_ids)
        end = self.tokenizer.eos_token_id
        if end is not None and not columns.get("continues") and ids[-1:] != [end]:
            ids.append(end)
        learned = np.ones(len(ids), dtype=bool)
        if prompt:
            # Special tokens that were added in front lie at (0, 0).
            for place, (_, stop) in enumerate(encoded.offset_mapping):
                learned[place] = stop > len(prompt)
        return ids, learned

    def split(
        self, columns: Mapping[str, Any], max_length: int
    ) -> list[Mapping[str, Any]]:
        """Windows of at most `max_length` tokens, cut between tokens; a prompt's part
        of a window stays a prompt.
        """
        whole, border = columns["prompt"] + columns["text"], len(columns["prompt"])
        marks = [
            mark
            for mark in self.tokenizer(
                whole, return_offsets_mapping=True
            ).offset_mapping
            if mark[1] > mark[0]
        ]
        room = max(max_length - 2, 1)  # for the tokens that begin and end a text
        windows = list[Mapping[str, Any]]()
        for first in range(0, len(marks), room):
            last = min(first + room, len(marks))
            start = marks[first][0] if first else 0
            end = marks[last][0] if last < len(marks) else len(whole)
            if end > max(start, border):
                windows.append(
                    {
                        "prompt": whole[start:border],
                        "text": whole[max(start, border) : end],
                        **({"continues": True} if end < len(whole) else {}),
                    }
                )
        return windows

    def answer(self, columns: Mapping[str, Any]) -> str:
        """How the model goes on after the prompt, or after the first half of a text."""
        text = columns.get("text", "")
        asked = columns.get("prompt") or text[: math.ceil(len(text) / 2)]
        end = self.tokenizer.eos_token_id
        return self.write(self.tokenizer(asked).input_ids, [] if end is None else [end])
