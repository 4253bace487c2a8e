"""Plain text: a language model learns every token of it, to continue texts like these.

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
from miaobi.tune.heads import CausalHead as Config
from miaobi.tune.learner import Evaluation, Example, Features, Metric, Piece
from miaobi.tune.text.heads import padding_of
from miaobi.tune.text.packing import PackedLearner, by_sequence, layers_of, pack

NAME = "causal"
SUMMARY = "go on writing in the manner of these texts", "仿照这些文本续写"
MODALITY = "text"
READER = "labelled/texts"
MAKES = "text"
ASK = "--prompt ..."
EXAMPLE = '{"text": "..."}'


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    document = to_document(record, None, {})
    text = document.text
    if [message.role for message in document.messages] == ["assistant"]:
        # ms-swift's way to write a text.
        text = document.messages[0].content
    elif document.messages:
        raise Unusable(
            say("this is a dialogue.", "这是一段对话。"),
            say("Tune it with --task chat.", "请使用 --task chat 微调。"),
        )
    if not text.strip():
        raise Unusable(say("the text is empty.", "文本为空。"), EXAMPLE)
    return {"prompt": document.prompt, "text": text}


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the prompt; a text without one differs from others by all of it."""
    name = "prompt" if columns["prompt"] else "text"
    return {name: columns[name]}


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    return {}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Every text can be learned."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Writer:
    return Writer(writing_model(base), base.tokenizer, config.max_new_tokens)


def writing_model(base: Base) -> nn.Module:
    """Return the base as a causal language model.

    Raises Unsupported for a base that does not write.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = base.config.get("model_type")
    encoder_decoder = base.config.get("is_encoder_decoder")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or encoder_decoder:
        kind = kind or base.weights.format
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
    net: nn.Module = base.model(AutoModelForCausalLM)
    return net


class TextLearner(PackedLearner):
    """A causal language model and the tokens that it learns from.

    Features: ids int64 [T], learned bool [T].
    """

    unit = "tokens"
    writes = True
    may_teach_nothing = True
    neftune_alpha: float | None = 0.0

    def __init__(self, net: nn.Module, tokenizer: Any, max_new_tokens: int) -> None:
        super().__init__(net)
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.blocks = layers_of(net)

    @abstractmethod
    def tokens(self, columns: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        """Return (ids, which are learned) of an example, uncut."""

    def length(self, columns: Mapping[str, Any]) -> int:
        ids, _ = self.tokens(columns)
        return len(ids)

    def shortened(
        self, columns: Mapping[str, Any], max_length: int
    ) -> Mapping[str, Any]:
        """Return an example with less to read, as far as that can be said in columns."""
        return columns

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        """Encode an example; too long a one loses the beginning of what it reads.

        What is learned stays whole, unless it is too long by itself.
        """
        if max_length:
            columns = self.shortened(columns, max_length)
        tokens, learned = self.tokens(columns)
        ids = np.array(tokens, dtype=np.int64)
        length = max_length or len(ids)
        start, removable = self._removable(ids, learned)
        excess = max(len(ids) - length, 0)
        # Where the answer has to lose its end too, what is read keeps half the length.
        too_long = excess > removable
        removed = max(removable - length // 2, 0) if too_long else excess
        return {
            "ids": np.delete(ids, slice(start, start + removed))[:length],
            "learned": np.delete(learned, slice(start, start + removed))[:length],
        }

    def _removable(self, ids: np.ndarray, learned: np.ndarray) -> tuple[int, int]:
        """Return (the first, the number) of the tokens that an example may lose.

        They stand behind the token that begins a text, and before the last one that is
        read ahead of what is learned.
        """
        start = int(len(ids) > 0 and ids[0] == self.tokenizer.bos_token_id)
        read = int(learned.argmax()) if learned.any() else 0
        return start, max(read - start - 1, 0)

    def loses_answer(self, columns: Mapping[str, Any], max_length: int) -> bool:
        ids, learned = self.tokens(self.shortened(columns, max_length))
        _, removable = self._removable(np.array(ids), learned)
        return len(ids) - removable > max_length

    def learned(self, features: Features) -> int:
        return int(features["learned"].sum())

    def collate(self, features: Sequence[Features]) -> Batch:
        rows = [(item["ids"], item["learned"]) for item in features]
        return pack(rows, share=self.shares_prefix)

    def loss(self, batch: Batch) -> Loss:
        alpha = (self.neftune_alpha or 0.0) if self.training else 0.0
        nats = self.reader.nats(batch, alpha)
        return Loss(nats.sum(), len(nats))

    def metrics(self) -> Sequence[Metric]:
        return [
            Metric(
                "loss",
                _mean,
                "lower",
                ("Loss", "损失"),
                say("nats/token", "奈特/词元"),
            ),
            Metric(
                "perplexity",
                lambda counts: np.exp(_mean(counts)),
                "lower",
                ("Perplexity", "困惑度"),
                say("per token", "每词元"),
            ),
            Metric(
                "token_accuracy",
                _mean,
                "higher",
                ("Next token right", "下一词元准确率"),
            ),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        nats, best = self.reader.scores(batch)
        targets = batch["targets"][batch["targets"] >= 0]
        right = (best == targets).double()
        evaluations = list[Evaluation]()
        for own_nats, own_right in zip(
            by_sequence(batch, nats.double()), by_sequence(batch, right)
        ):
            total = float(own_nats.sum())
            count = float(len(own_nats))
            sums = np.array([total, count])
            counts = {
                "loss": sums,
                "perplexity": sums,
                "token_accuracy": np.array([float(own_right.sum()), count]),
            }
            evaluations.append(Evaluation(total / max(count, 1), counts))
        return evaluations

    def preview(self, features: Features) -> list[Piece]:
        """Return runs of tokens that are learned, or not, as text."""
        ids = features["ids"]
        learned = features["learned"]
        changes = np.flatnonzero(np.diff(learned)) + 1
        edges = [0, *changes.tolist(), len(ids)]
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
        """Return how the model continues, by greedy search.

        Args:
            prompt: Token ids.
            eos_ids: Any of them ends the text, which has at most max_new_tokens.
        """
        net: Any = self.net
        training = net.training
        net.eval()
        ids = torch.tensor([list(prompt)], device=self.device)
        output = net.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            eos_token_id=list(eos_ids) or None,
            pad_token_id=padding_of(self.tokenizer),
        )
        net.train(training)
        new_ids = output[0, len(prompt) :]
        return str(self.tokenizer.decode(new_ids, skip_special_tokens=True)).strip()

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


def _mean(counts: np.ndarray) -> np.ndarray:
    """Return sums over numbers of [..., (sum, number)]."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 1], 1))


class Writer(TextLearner):
    """A causal language model of plain text, and of prompts with completions."""

    def tokens(self, columns: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        prompt = columns["prompt"]
        encoded = self.tokenizer(
            prompt + columns["text"], return_offsets_mapping=bool(prompt)
        )
        ids = list(encoded.input_ids)
        eos_id = self.tokenizer.eos_token_id
        ends_here = not columns.get("continues")
        if eos_id is not None and ends_here and ids[-1:] != [eos_id]:
            ids.append(eos_id)
        learned = np.ones(len(ids), dtype=bool)
        if prompt:
            # Special tokens that were added in front lie at (0, 0).
            for index, (_, end) in enumerate(encoded.offset_mapping):
                learned[index] = end > len(prompt)
        return ids, learned

    def split(
        self, columns: Mapping[str, Any], max_length: int
    ) -> list[Mapping[str, Any]]:
        """Return windows of at most `max_length` tokens, cut between tokens.

        A prompt's part of a window stays a prompt.
        """
        whole = columns["prompt"] + columns["text"]
        border = len(columns["prompt"])
        offsets = self.tokenizer(whole, return_offsets_mapping=True).offset_mapping
        spans = [(start, end) for start, end in offsets if end > start]
        size = max(max_length - 2, 1)  # leaves two for tokens that begin and end a text
        windows = list[Mapping[str, Any]]()
        for first in range(0, len(spans), size):
            last = first + size
            start = spans[first][0] if first else 0
            end = spans[last][0] if last < len(spans) else len(whole)
            text_start = max(start, border)
            if end <= text_start:
                continue
            window = {"prompt": whole[start:border], "text": whole[text_start:end]}
            if end < len(whole):
                window["continues"] = True
            windows.append(window)
        return windows

    def answer(self, columns: Mapping[str, Any]) -> str:
        """Return how the model continues the prompt, or the first half of a text."""
        text = columns.get("text", "")
        prompt = columns.get("prompt") or text[: math.ceil(len(text) / 2)]
        eos_id = self.tokenizer.eos_token_id
        eos_ids = [] if eos_id is None else [eos_id]
        return self.write(self.tokenizer(prompt).input_ids, eos_ids)
