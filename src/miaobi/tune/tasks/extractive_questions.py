"""Extractive questions: the answer to a question is a stretch of the text that comes with it.

    P(s) = softmax over all places of all windows of the text,   P(e) likewise
    L = -log Σ_{s right} P(s) - log Σ_{e right} P(e)
A text longer than the model holds is read in overlapping windows, whose scores are
normalised together (Clark and Gardner 2018, arXiv:1710.10723), so windows can be
compared and no mark for "not in here" is needed. Judged by exact match and token F1, as
SQuAD is (Rajpurkar et al. 2016, arXiv:1606.05250); each Chinese character counts as a
token, as in CMRC (Cui et al. 2019, arXiv:1810.07366).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
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

NAME = "extractive-questions"
SUMMARY = "answers to questions, found in a text", "在文本中找出问题的答案"
MODALITY, READER, MAKES = "text", "squad", "labels"
EXAMPLE = '{"question": "Where does Ada live?", "context": "Ada lives in Paris.", "answer": "Paris"}'
WINDOW = 384
"""Tokens of a window unless told otherwise."""
BARRED = -1e9


@dataclass(frozen=True)
class Config:
    overlap: int = 64
    """Tokens that two windows of a text share."""
    longest_answer: int = 64
    """Tokens that an answer may have."""
    dropout: float | None = None
    """Share of what the head sees that is left out while training; the base's own
    setting if not given (tune.dropout is the base's).
    """


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    for key in ("question", "context"):
        if not str(record.get(key) or "").strip():
            raise Unusable(say(f"no {key}.", f"缺少 {key}。"), EXAMPLE)
    context = str(record["context"])
    answers = [
        {"text": text, "start": _start(context, text, start)}
        for text, start in _answers(record)
    ]
    return {
        "question": str(record["question"]).strip(),
        "context": context,
        "answers": answers,
    }


def _answers(record: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    """(text, where it starts if that is told), from "answer" or from SQuAD's "answers"."""
    given = record.get("answers", record.get("answer"))
    if isinstance(given, Mapping):
        texts, starts = given.get("text"), given.get("answer_start", given.get("start"))
        texts = [texts] if isinstance(texts, str) else texts or []
        starts = (
            [starts]
            if isinstance(starts, int)
            else starts
            if starts is not None
            else [None] * len(texts)
        )
        found = list(zip(texts, starts))
    elif isinstance(given, list):
        found = [
            (item["text"], item.get("answer_start", item.get("start")))
            if isinstance(item, Mapping) and "text" in item
            else (item, None)
            for item in given
        ]
    else:
        found = [(given, record.get("answer_start"))] if given not in (None, "") else []
    if not found or any(
        not isinstance(text, str) or not text.strip() for text, _ in found
    ):
        raise Unusable(
            say("no answer.", "缺少 answer。"),
            f"{EXAMPLE} "
            + say(
                "Leave out questions that the text does not answer.",
                "请去掉文本无法回答的问题。",
            ),
        )
    return [(text, None if start is None else int(start)) for text, start in found]


def _start(context: str, text: str, start: int | None) -> int:
    place = context.find(text) if start is None else start
    if place < 0 or context[place : place + len(text)] != text:
        at = "" if start is None else say(f" at {start}", f"（位置 {start}）")
        raise Unusable(
            say(
                f"the answer {text!r:.60} does not stand in the context{at}.",
                f"答案 {text!r:.60} 不在 context 中{at}。",
            ),
            say(
                "An answer is a stretch of the context, letter for letter; answer_start counts characters from 0.",
                "答案必须是 context 中一字不差的一段；answer_start 从 0 起按字符计数。",
            ),
        )
    return place


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"question": columns["question"], "context": columns["context"]}


def group(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """All questions about a text stand on one side of a split."""
    return {"context": columns["context"]}


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    return {
        "examples": len(examples),
        "texts": len({example.columns["context"] for example in examples}),
    }


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Any answer will do."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Reader:
    from transformers import AutoModelForQuestionAnswering

    net = with_head(base, AutoModelForQuestionAnswering, config.dropout)
    return Reader(net, base.tokenizer, context_length(base), config)


class Reader(Learner):
    adapter_kind = "QUESTION_ANS"

    def __init__(
        self, net: nn.Module, tokenizer: Any, room: int, config: Config
    ) -> None:
        super().__init__(net)
        self.tokenizer, self.room, self.config = tokenizer, room, config
        self.fresh, self.blocks = fresh_of(net), blocks_of(net)
        self.paired = tokenizer.num_special_tokens_to_add(
            pair=True
        ) > tokenizer.num_special_tokens_to_add(pair=False)

    def length(self, columns: Mapping[str, Any]) -> int:
        """Tokens of the longest window: longer texts are not cut but read in several."""
        return max(
            map(len, self._windows(columns, min(self.room or WINDOW, WINDOW))[0])
        )

    def _windows(
        self, columns: Mapping[str, Any], limit: int
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Token ids of each window, and for each token where in the context it stands
        ([T, 2]; -1 for the question and marks).
        """
        asked = self.tokenizer(
            columns["question"], add_special_tokens=False, verbose=False
        ).input_ids
        told = self.tokenizer(
            columns["context"],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        before, between, after = self._marks()
        asked = asked[: max(limit // 2, 1)]
        ahead = [*before, *asked, *between]
        room = max(limit - len(ahead) - len(after), 1)
        step = max(room - self.config.overlap, 1)
        ids, places = list[np.ndarray](), list[np.ndarray]()
        for start in (
            range(0, max(len(told.input_ids) - self.config.overlap, 1), step)
            if len(told.input_ids) > room
            else (0,)
        ):
            inside = told.input_ids[start : start + room]
            ids.append(np.array([*ahead, *inside, *after], dtype=np.int64))
            places.append(
                np.array(
                    [
                        *[(-1, -1)] * len(ahead),
                        *told.offset_mapping[start : start + room],
                        *[(-1, -1)] * len(after),
                    ],
                    dtype=np.int64,
                )
            )
        return ids, places

    def _marks(self) -> tuple[list[int], list[int], list[int]]:
        """What the tokenizer puts before the question, between it and the text, and
        after that; a line break where it has no mark.
        """
        if not self.paired:
            return (
                [],
                self.tokenizer("\n", add_special_tokens=False).input_ids
                or [padding_of(self.tokenizer)],
                [],
            )
        probe = self.tokenizer("a", add_special_tokens=False).input_ids
        whole, width = self.tokenizer("a", "a").input_ids, len(probe)
        first = next(at for at in range(len(whole)) if whole[at : at + width] == probe)
        last = next(
            at
            for at in range(len(whole) - width, -1, -1)
            if whole[at : at + width] == probe
        )
        return whole[:first], whole[first + width : last], whole[last + width :]

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        ids, places = self._windows(
            columns, max_length or min(self.room or WINDOW, WINDOW)
        )
        spans = [
            (item["start"], item["start"] + len(item["text"]))
            for item in columns.get("answers") or ()
        ]
        return {
            "ids": np.concatenate(ids),
            "sizes": np.array([len(row) for row in ids]),
            "places": np.concatenate(places),
            "spans": np.array(spans, dtype=np.int64).reshape(-1, 2),
            "letters": code_points(columns["context"]),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        """Windows of all examples as rows; `example` tells whose each is."""
        rows, places, example = list[np.ndarray](), list[np.ndarray](), list[int]()
        for number, item in enumerate(features):
            ends = np.cumsum(item["sizes"])[:-1]
            rows += np.split(item["ids"], ends)
            places += np.split(item["places"], ends)
            example += [number] * len(item["sizes"])
        ids = padded(rows, padding_of(self.tokenizer))
        where = torch.full((*ids.shape, 2), -1)
        for number, place in enumerate(places):
            where[number, : len(place)] = torch.from_numpy(place)
        spans = torch.full(
            (len(features), max(len(item["spans"]) for item in features), 2), -1
        )
        for number, item in enumerate(features):
            spans[number, : len(item["spans"])] = torch.from_numpy(item["spans"])
        return {
            "ids": ids,
            "mask": padded([np.ones(len(row)) for row in rows], 0),
            "places": where,
            "example": torch.tensor(example),
            "spans": spans,
            "letters": padded([item["letters"] for item in features], 0),
        }

    def logits(self, batch: Batch) -> Tensor:
        """[windows, T, (start, end)]; nothing but tokens of the text can be chosen."""

        def run(rows: Batch) -> Tensor:
            found = self.net(input_ids=rows["ids"], attention_mask=rows["mask"])
            return torch.stack([found.start_logits, found.end_logits], dim=-1)

        return (
            in_groups(run, batch, by_token=True)
            .float()
            .masked_fill((batch["places"][..., :1] < 0), BARRED)
        )

    def _targets(self, batch: Batch) -> Tensor:
        """bool [windows, T, (start, end)]: the token in which an answer begins, and
        that in which it ends.
        """
        places, spans = (
            batch["places"],
            batch["spans"][batch["example"]],
        )  # [W, T, 2], [W, A, 2]
        starts, ends = places[:, :, None, 0], places[:, :, None, 1]
        known = (spans[:, None, :, 0] >= 0) & (ends > 0)
        begins = (
            known & (starts <= spans[:, None, :, 0]) & (ends > spans[:, None, :, 0])
        )
        closes = (
            known & (starts < spans[:, None, :, 1]) & (ends >= spans[:, None, :, 1])
        )
        return torch.stack([begins.any(-1), closes.any(-1)], dim=-1)

    def _losses(self, logits: Tensor, batch: Batch) -> list[Tensor]:
        """Of each example; 0 where no window holds a token of the answer."""
        targets, found = self._targets(batch), list[Tensor]()
        for number in range(len(batch["spans"])):
            rows = batch["example"] == number
            own, right = (
                logits[rows].flatten(0, 1),
                targets[rows].flatten(0, 1),
            )  # [windows * T, 2]
            reached = torch.logsumexp(own.masked_fill(~right, BARRED), 0)
            found.append(((torch.logsumexp(own, 0) - reached) * right.any(0)).sum())
        return found

    def loss(self, batch: Batch) -> Loss:
        losses = self._losses(self.logits(batch), batch)
        return Loss(torch.stack(losses).sum(), len(losses))

    def metrics(self) -> Sequence[Metric]:
        mean = lambda c: c[..., 0] / c[..., 1]  # noqa: E731
        return [
            Metric("f1", mean, "higher", ("Token F1", "词元 F1")),
            Metric("exact", mean, "higher", ("Exact match", "完全匹配")),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        logits = self.logits(batch)
        losses, found = self._losses(logits, batch), list[Evaluation]()
        for number, loss in enumerate(losses):
            context, rows = (
                text_of(batch["letters"][number]),
                batch["example"] == number,
            )
            start, end, score = self._best(logits[rows], batch["places"][rows])
            said = context[start:end].strip()
            gold = [
                context[first:last]
                for first, last in batch["spans"][number].tolist()
                if first >= 0
            ]
            counts = {
                "f1": np.array(
                    [max((overlap(said, text) for text in gold), default=0.0), 1.0]
                ),
                "exact": np.array(
                    [
                        max(
                            (float(words(said) == words(text)) for text in gold),
                            default=0.0,
                        ),
                        1.0,
                    ]
                ),
            }
            at = start + len(context[start:end]) - len(context[start:end].lstrip())
            found.append(
                Evaluation(
                    float(loss),
                    counts,
                    {
                        "answer": said,
                        "start": at,
                        "end": at + len(said),
                        "score": round(score, 6),
                    },
                )
            )
        return found

    def _best(self, logits: Tensor, places: Tensor) -> tuple[int, int, float]:
        """Characters (start, end) of the likeliest stretch of at most `longest_answer`
        tokens in one window, and P(start) P(end).
        """
        shares = torch.log_softmax(logits.flatten(0, 1), 0).view_as(logits)
        pairs = shares[:, :, None, 0] + shares[:, None, :, 1]  # [windows, start, end]
        band = (
            torch.ones(pairs.shape[1:], dtype=torch.bool, device=pairs.device)
            .triu()
            .tril(self.config.longest_answer - 1)
        )
        pairs = pairs.masked_fill(~band, 3 * BARRED)
        row, first, last = np.unravel_index(int(pairs.argmax()), pairs.shape)
        return (
            max(int(places[row, first, 0]), 0),
            max(int(places[row, last, 1]), 0),
            float(pairs[row, first, last].exp()),
        )

    def preview(self, features: Features) -> list[Piece]:
        """The first window in which the answer stands."""
        batch = self.collate([features])
        targets = self._targets(batch)
        row = int(targets.any(-1).any(-1).int().argmax())
        starts, ends = targets[row].T.tolist()
        inside = [any(starts[: at + 1]) and any(ends[at:]) for at in range(len(starts))]
        return pieces_of(
            self.tokenizer,
            batch["ids"][row][batch["mask"][row].bool()].tolist(),
            lambda place: inside[place],
        )

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        (folder / "reader.json").write_text(
            json.dumps(
                {
                    "overlap": self.config.overlap,
                    "longest_answer": self.config.longest_answer,
                }
            ),
            encoding="utf-8",
        )


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and English articles, and Chinese characters
    one by one.
    """
    plain = "".join(
        " " if unicodedata.category(letter)[0] in "PS" else letter
        for letter in text.lower()
    )
    apart = re.sub(f"([{CJK}])", r" \1 ", plain)
    return [word for word in apart.split() if word not in ("a", "an", "the")]


def overlap(said: str, text: str) -> float:
    """F1 of words that two texts share, each as often as it stands in both."""
    mine, theirs = words(said), words(text)
    if not mine or not theirs:
        return float(mine == theirs)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs))
