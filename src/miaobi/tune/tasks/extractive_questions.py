"""Extractive questions: the answer to a question is a span of the text that comes with
it.

    P(s) = softmax over all tokens of all windows of the text,   P(e) likewise
    L = -log Σ_{s right} P(s) - log Σ_{e right} P(e)

A text longer than the model holds is read in overlapping windows, whose scores are
normalised together (Clark and Gardner 2018, arXiv:1710.10723), so windows can be
compared and no mark for "not in here" is needed. Evaluated by exact match and token F1,
as SQuAD is (Rajpurkar et al. 2016, arXiv:1606.05250); each Chinese character counts as
a token, as in CMRC (Cui et al. 2019, arXiv:1810.07366).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from miaobi.core.language import in_each, say
from miaobi.data.text.shapes import Unusable, written_text
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import ExtractiveQuestionsHead as Config
from miaobi.tune.learner import (
    Evaluation,
    Example,
    Features,
    Learner,
    Metric,
    Piece,
    padded,
)
from miaobi.tune.text.characters import CJK, code_points, text_of
from miaobi.tune.text.heads import (
    blocks_of,
    context_length,
    fresh_of,
    in_groups,
    padding_of,
    pieces_of,
    with_head,
)
from miaobi.tune.text.metrics import mean

NAME = "extractive-questions"
SUMMARY = "answers to questions, found in a text", "在文本中找出问题的答案"
MODALITY = "text"
READER = "labelled/squad"
MAKES = "labels"
ASK = "--prompt ..."
EXAMPLE = '{"question": "Where does Ada live?", "context": "Ada lives in Paris.", "answer": "Paris"}'
WINDOW = 384
"""Tokens of a window, where the model holds as many."""
IMPOSSIBLE = -1e9
"""A logit that no softmax gives a share."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    for key in ("question", "context"):
        if not written_text(record.get(key) or "", key).strip():
            raise Unusable(say(f"no {key}.", f"缺少 {key}。"), EXAMPLE)
    context = written_text(record["context"], "context")
    answers = [
        {"text": text, "start": _position_of(context, text, start)}
        for text, start in _answers(record)
    ]
    return {
        "question": written_text(record["question"], "question").strip(),
        "context": context,
        "answers": answers,
    }


def _answers(record: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    """Return (text, where it starts or None), from "answer" or SQuAD's "answers"."""
    value = record.get("answers", record.get("answer"))
    if isinstance(value, Mapping):
        answers = _answers_of_columns(value)
    elif isinstance(value, list):
        answers = [_answer_of_item(item) for item in value]
    elif value in (None, ""):
        answers = []
    else:
        answers = [(value, record.get("answer_start"))]
    if not answers or not all(_is_text(text) for text, _ in answers):
        raise Unusable(
            say("no answer.", "缺少 answer。"),
            f"{EXAMPLE} "
            + say(
                "Leave out questions that the text does not answer.",
                "请去掉文本无法回答的问题。",
            ),
        )
    return [(text, None if start is None else int(start)) for text, start in answers]


def _answers_of_columns(value: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return the rows of SQuAD's columns of lists."""
    texts = value.get("text") or []
    if isinstance(texts, str):
        texts = [texts]
    starts = value.get("answer_start", value.get("start"))
    if starts is None:
        starts = [None] * len(texts)
    elif isinstance(starts, int):
        starts = [starts]
    return list(zip(texts, starts))


def _answer_of_item(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping) and "text" in item:
        return item["text"], item.get("answer_start", item.get("start"))
    return item, None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _position_of(context: str, text: str, start: int | None) -> int:
    """Return where an answer starts in the context. Raises Unusable if it does not."""
    position = context.find(text) if start is None else start
    if position >= 0 and context.startswith(text, position):
        return position
    where = "" if start is None else say(f" at {start}", f"（位置 {start}）")
    raise Unusable(
        in_each(
            lambda: say(
                f"the answer {text!r:.60} is not in the context{where}.",
                f"答案 {text!r:.60} 不在 context 中{where}。",
            )
        ),
        say(
            "An answer is a span of the context, letter for letter; answer_start counts characters from 0.",
            "答案必须是 context 中一字不差的一段；answer_start 从 0 起按字符计数。",
        ),
    )


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"question": columns["question"], "context": columns["context"]}


def group(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the text: all questions about it stand on one side of a split."""
    return {"context": columns["context"]}


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    return {
        "examples": len(examples),
        "texts": len({example.columns["context"] for example in examples}),
    }


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Any answer will do."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> SpanReader:
    from transformers import AutoModelForQuestionAnswering

    net = with_head(base, AutoModelForQuestionAnswering, config.dropout)
    return SpanReader(net, base.tokenizer, context_length(base), config)


class Window(NamedTuple):
    """A part of a text, with the question before it, as the model reads it."""

    ids: np.ndarray
    """int64 [T]."""
    offsets: np.ndarray
    """int64 [T, 2]: each token's characters in the text; -1 for the question and
    marks.
    """


class Marks(NamedTuple):
    """Token ids that the tokenizer puts around a question and a text."""

    before: list[int]
    between: list[int]
    after: list[int]


class BestSpan(NamedTuple):
    """The likeliest answer of a text."""

    start: int
    """Characters `start` up to `end`."""
    end: int
    score: float
    """P(start) P(end)."""


class SpanReader(Learner):
    """A net that scores where in a text an answer begins and ends.

    The windows of all examples are the rows of a batch. Keys: ids and mask [windows,
    T]; offsets [windows, T, 2]; example [windows], whose each is; spans [B, answers, 2]
    in characters, -1 for none; characters [B, C], the texts.
    """

    adapter_kind = "QUESTION_ANS"

    def __init__(
        self, net: nn.Module, tokenizer: Any, max_tokens: int, config: Config
    ) -> None:
        super().__init__(net)
        self.tokenizer = tokenizer
        self.window = min(max_tokens or WINDOW, WINDOW)
        """Tokens of a window."""
        self.config = config
        self.fresh = fresh_of(net)
        self.blocks = blocks_of(net)

    def length(self, columns: Mapping[str, Any]) -> int:
        """Return the tokens of the longest window: longer texts are read in several."""
        windows = self._windows(columns, self.window)
        return max(len(window.ids) for window in windows)

    def _windows(self, columns: Mapping[str, Any], limit: int) -> list[Window]:
        """Return the windows of a text, each of at most `limit` tokens."""
        question = self.tokenizer(
            columns["question"], add_special_tokens=False, verbose=False
        ).input_ids
        context = self.tokenizer(
            columns["context"],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        marks = self._marks()
        question = question[: max(limit // 2, 1)]
        head = [*marks.before, *question, *marks.between]
        size = max(limit - len(head) - len(marks.after), 1)
        return [
            _window(
                head,
                context.input_ids[start : start + size],
                context.offset_mapping[start : start + size],
                marks.after,
            )
            for start in self._window_starts(len(context.input_ids), size)
        ]

    def _window_starts(self, tokens: int, size: int) -> Sequence[int]:
        """Return where the windows of a text begin, `size` of its tokens in each."""
        if tokens <= size:
            return (0,)
        overlap = self.config.overlap
        return range(0, max(tokens - overlap, 1), max(size - overlap, 1))

    def _marks(self) -> Marks:
        """Return the tokenizer's marks; a line break where it has none between texts."""
        if not self._marks_pairs():
            line_break = self.tokenizer("\n", add_special_tokens=False).input_ids
            return Marks([], line_break or [padding_of(self.tokenizer)], [])
        probe = self.tokenizer("a", add_special_tokens=False).input_ids
        pair = self.tokenizer("a", "a").input_ids
        size = len(probe)
        positions = [
            start
            for start in range(len(pair) - size + 1)
            if pair[start : start + size] == probe
        ]
        first = positions[0]
        last = positions[-1]
        return Marks(pair[:first], pair[first + size : last], pair[last + size :])

    def _marks_pairs(self) -> bool:
        """Return whether the tokenizer puts marks between two texts."""
        of_pair = self.tokenizer.num_special_tokens_to_add(pair=True)
        of_text = self.tokenizer.num_special_tokens_to_add(pair=False)
        return bool(of_pair > of_text)

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        windows = self._windows(columns, max_length or self.window)
        spans = [
            (answer["start"], answer["start"] + len(answer["text"]))
            for answer in columns.get("answers") or ()
        ]
        return {
            "ids": np.concatenate([window.ids for window in windows]),
            "sizes": np.array([len(window.ids) for window in windows]),
            "offsets": np.concatenate([window.offsets for window in windows]),
            "spans": np.array(spans, dtype=np.int64).reshape(-1, 2),
            "characters": code_points(columns["context"]),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        id_rows = list[np.ndarray]()
        offset_rows = list[np.ndarray]()
        example = list[int]()
        for index, item in enumerate(features):
            borders = np.cumsum(item["sizes"])[:-1]
            id_rows += np.split(item["ids"], borders)
            offset_rows += np.split(item["offsets"], borders)
            example += [index] * len(item["sizes"])
        ids = padded(id_rows, padding_of(self.tokenizer))
        return {
            "ids": ids,
            "mask": padded([np.ones(len(row)) for row in id_rows], 0),
            "offsets": _padded_pairs(offset_rows, ids.shape[1]),
            "example": torch.tensor(example),
            "spans": _padded_pairs([item["spans"] for item in features]),
            "characters": padded([item["characters"] for item in features], 0),
        }

    def logits(self, batch: Batch) -> Tensor:
        """Return [windows, T, (start, end)]; only tokens of the text can be chosen."""

        def run(rows: Batch) -> Tensor:
            output = self.net(input_ids=rows["ids"], attention_mask=rows["mask"])
            return torch.stack([output.start_logits, output.end_logits], dim=-1)

        logits = in_groups(run, batch, by_token=True).float()
        outside = batch["offsets"][..., :1] < 0
        return logits.masked_fill(outside, IMPOSSIBLE)

    def _targets(self, batch: Batch) -> Tensor:
        """Return which tokens an answer begins in and ends in.

        bool [windows, T, (start, end)].
        """
        starts = batch["offsets"][:, :, None, 0]  # [windows, T, 1]
        ends = batch["offsets"][:, :, None, 1]
        spans = batch["spans"][batch["example"]]  # [windows, answers, 2]
        span_starts = spans[:, None, :, 0]  # [windows, 1, answers]
        span_ends = spans[:, None, :, 1]
        in_text = (span_starts >= 0) & (ends > 0)
        begins = in_text & (starts <= span_starts) & (ends > span_starts)
        closes = in_text & (starts < span_ends) & (ends >= span_ends)
        return torch.stack([begins.any(-1), closes.any(-1)], dim=-1)

    def _losses(self, logits: Tensor, batch: Batch) -> list[Tensor]:
        """Return the loss of each example.

        0 where no window holds a token of the answer.
        """
        targets = self._targets(batch)
        losses = list[Tensor]()
        for index in range(len(batch["spans"])):
            rows = batch["example"] == index
            own = logits[rows].flatten(0, 1)  # [windows * T, 2]
            right = targets[rows].flatten(0, 1)
            reached = torch.logsumexp(own.masked_fill(~right, IMPOSSIBLE), 0)
            gaps = torch.logsumexp(own, 0) - reached
            losses.append((gaps * right.any(0)).sum())
        return losses

    def loss(self, batch: Batch) -> Loss:
        losses = self._losses(self.logits(batch), batch)
        return Loss(torch.stack(losses).sum(), len(losses))

    def metrics(self) -> Sequence[Metric]:
        return [
            Metric("f1", mean, "higher", ("Token F1", "词元 F1")),
            Metric("exact", mean, "higher", ("Exact match", "完全匹配")),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        logits = self.logits(batch)
        evaluations = list[Evaluation]()
        for index, loss in enumerate(self._losses(logits, batch)):
            context = text_of(batch["characters"][index])
            rows = batch["example"] == index
            best = self._best_span(logits[rows], batch["offsets"][rows])
            spans = batch["spans"][index].tolist()
            references = [context[start:end] for start, end in spans if start >= 0]
            evaluations.append(_evaluation(float(loss), context, best, references))
        return evaluations

    def _best_span(self, logits: Tensor, offsets: Tensor) -> BestSpan:
        """Return the likeliest span of at most `longest_answer` tokens in one window.

        Args:
            logits: Of the windows of one text, [windows, T, 2].
            offsets: Of their tokens, [windows, T, 2].
        """
        log_shares = torch.log_softmax(logits.flatten(0, 1), 0).view_as(logits)
        pairs = log_shares[:, :, None, 0] + log_shares[:, None, :, 1]
        # pairs: [windows, start, end].
        ones = torch.ones(pairs.shape[1:], dtype=torch.bool, device=pairs.device)
        is_allowed = ones.triu().tril(self.config.longest_answer - 1)
        pairs = pairs.masked_fill(~is_allowed, 3 * IMPOSSIBLE)
        window, first, last = np.unravel_index(int(pairs.argmax()), pairs.shape)
        return BestSpan(
            max(int(offsets[window, first, 0]), 0),
            max(int(offsets[window, last, 1]), 0),
            float(pairs[window, first, last].exp()),
        )

    def preview(self, features: Features) -> list[Piece]:
        """Return the first window in which the answer stands."""
        batch = self.collate([features])
        targets = self._targets(batch)
        has_answer = targets.any(-1).any(-1)
        row = int(has_answer.int().argmax())
        starts, ends = targets[row].T
        begun = starts.cumsum(0) > 0
        not_over = ends.flip(0).cumsum(0).flip(0) > 0
        learned = (begun & not_over).tolist()
        ids = batch["ids"][row][batch["mask"][row].bool()].tolist()
        return pieces_of(self.tokenizer, ids, lambda index: learned[index])

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        settings = {
            "overlap": self.config.overlap,
            "longest_answer": self.config.longest_answer,
        }
        (folder / "reader.json").write_text(json.dumps(settings), encoding="utf-8")


def _window(
    head: Sequence[int],
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    tail: Sequence[int],
) -> Window:
    """Return a window: the question and marks, tokens of the text, marks."""
    nowhere = (-1, -1)
    all_offsets = [*[nowhere] * len(head), *offsets, *[nowhere] * len(tail)]
    return Window(
        np.array([*head, *ids, *tail], dtype=np.int64),
        np.array(all_offsets, dtype=np.int64),
    )


def _padded_pairs(rows: Sequence[np.ndarray], length: int = 0) -> Tensor:
    """Return rows [N, 2] of unequal length as one tensor, filled up with -1.

    Args:
        rows: The rows.
        length: Of the tensor's rows; 0 for the longest.
    """
    length = length or max(map(len, rows))
    result = torch.full((len(rows), length, 2), -1)
    for index, row in enumerate(rows):
        result[index, : len(row)] = torch.from_numpy(row)
    return result


def _evaluation(
    loss: float, context: str, best: BestSpan, references: Sequence[str]
) -> Evaluation:
    """Return how one question goes.

    Args:
        loss: Its loss.
        context: The text.
        best: The likeliest answer.
        references: The right answers; any of them will do.
    """
    span = context[best.start : best.end]
    answer = span.strip()
    start = best.start + len(span) - len(span.lstrip())
    f1 = max((overlap(answer, text) for text in references), default=0.0)
    exact = any(words(answer) == words(text) for text in references)
    return Evaluation(
        loss,
        {"f1": np.array([f1, 1.0]), "exact": np.array([float(exact), 1.0])},
        {
            "answer": answer,
            "start": start,
            "end": start + len(answer),
            "score": round(best.score, 6),
        },
    )


def words(text: str) -> list[str]:
    """Return lower-case words, and Chinese characters one by one.

    Punctuation and English articles are left out.
    """
    plain = "".join(
        " " if unicodedata.category(character)[0] in "PS" else character
        for character in text.lower()
    )
    separated = re.sub(f"([{CJK}])", r" \1 ", plain)
    return [word for word in separated.split() if word not in ("a", "an", "the")]


def overlap(answer: str, reference: str) -> float:
    """Return F1 of the words of two texts, each as often as it stands in both."""
    answer_words = words(answer)
    reference_words = words(reference)
    if not answer_words or not reference_words:
        return float(answer_words == reference_words)
    shared = Counter(answer_words) & Counter(reference_words)
    return 2 * shared.total() / (len(answer_words) + len(reference_words))
