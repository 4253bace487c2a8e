"""Token classification: names in a text, where they begin and end, and of what kind they are.

    L = -Σ_t log softmax(W h_t)_{y_t},   y_t in {O, B-k, I-k}
At rest the tags are the likeliest sequence in which I-k follows only B-k or I-k
(Viterbi), so every answer is a set of spans. A name counts as right when its ends and
its kind are (Tjong Kim Sang and De Meulder 2003, CoNLL).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable, unseen
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
from miaobi.tune.tasks.text_classification import f1
from miaobi.tune.text.characters import code_points, is_cjk, split_chinese, text_of
from miaobi.tune.text.heads import (
    blocks_of,
    context_length,
    fresh_of,
    in_groups,
    padding_of,
    pieces_of,
    with_head,
)

NAME = "token-classification"
SUMMARY = "names in a text and their kinds", "标出文本中的实体及其类别"
MODALITY, READER, MAKES = "text", "tagged", "labels"
EXAMPLE = '{"text": "Ada lives in Paris", "entities": [{"start": 0, "end": 3, "label": "person"}]}'
IGNORED = -100


class Span(NamedTuple):
    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Config:
    characters: bool = True
    """Give every Chinese character a token of its own, so that a name can begin and end
    anywhere.
    """
    label_smoothing: float = 0.0
    """Share of certainty that is spread over all tags."""
    dropout: float | None = None
    """Share of what the head sees that is left out while training; the base's own
    setting if not given (tune.dropout is the base's).
    """


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    if isinstance(record.get("tokens"), list):
        text, spans = _joined(
            record["tokens"], record.get("tags", record.get("ner_tags"))
        )
    else:
        text = str(record.get("text") or "")
        if not text.strip():
            raise Unusable(say("no text.", "缺少 text。"), EXAMPLE)
        spans = _checked(record.get("entities"), text)
    return {"text": text, "entities": [span._asdict() for span in spans]}


def _joined(tokens: Sequence[Any], tags: Any) -> tuple[str, list[Span]]:
    """Words and their tags (BIO, BIOES, or bare kinds) as a text with spans. Spaces
    stand between words but not between Chinese characters.
    """
    shape = '{"tokens": ["Ada", "lives"], "tags": ["B-person", "O"]}'
    if not isinstance(tags, list) or len(tags) != len(tokens):
        raise Unusable(
            say(
                f"{len(tokens)} tokens and {len(tags) if isinstance(tags, list) else 'no'} tags.",
                f"有 {len(tokens)} 个 tokens，{len(tags) if isinstance(tags, list) else '没有'}个 tags。",
            ),
            shape,
        )
    if not tokens or not all(isinstance(tag, str) and tag for tag in tags):
        raise Unusable(
            say(
                f"tags are {tags!r:.60}, not names of tags.",
                f"tags 为 {tags!r:.60}，不是标签名。",
            ),
            shape,
        )
    text, spans, open_kind = "", list[Span](), ""
    for token, tag in zip(map(str, tokens), tags):
        if text and token and not (is_cjk(text[-1]) or is_cjk(token[0])):
            text += " "
        start, text = len(text), text + token
        place, _, kind = (
            tag.partition("-")
            if tag[1:2] == "-"
            else ("O", "", "")
            if tag == "O"
            else ("I", "-", tag)
        )
        if place not in ("B", "I", "E", "S", "O"):
            raise Unusable(
                say(
                    f"the tag {tag!r} is of no known scheme.",
                    f"标签 {tag!r} 不属于已知的标注方案。",
                ),
                shape,
            )
        if place in ("I", "E") and kind == open_kind:
            spans[-1] = spans[-1]._replace(end=len(text))
        elif place != "O":
            spans.append(Span(start, len(text), kind))
        open_kind = kind if place in ("B", "I") else ""
    return text, spans


def _checked(entities: Any, text: str) -> list[Span]:
    if not isinstance(entities, list):
        raise Unusable(
            say("no entities.", "缺少 entities。"),
            f"{EXAMPLE} " + say("([] where there are none.)", "（没有实体时写 []。）"),
        )
    spans = list[Span]()
    for item in entities:
        try:
            spans.append(Span(int(item["start"]), int(item["end"]), str(item["label"])))
        except (KeyError, TypeError, ValueError):
            raise Unusable(
                say(f"an entity is {item!r:.80}.", f"实体为 {item!r:.80}。"), EXAMPLE
            ) from None
    spans.sort()
    for span in spans:
        if not 0 <= span.start < span.end <= len(text):
            raise Unusable(
                say(
                    f"an entity goes from {span.start} to {span.end} in a text of {len(text)} characters.",
                    f"实体范围为 {span.start} 至 {span.end}，而文本只有 {len(text)} 个字符。",
                ),
                say(
                    "start counts from 0, end stands behind the last character.",
                    "start 从 0 起算，end 为最后一个字符之后的位置。",
                ),
            )
    for first, second in itertools.pairwise(spans):
        if second.start < first.end:
            raise Unusable(
                say(
                    f"the entities {text[first.start : first.end]!r} and {text[second.start : second.end]!r} overlap.",
                    f"实体 {text[first.start : first.end]!r} 与 {text[second.start : second.end]!r} 重叠。",
                ),
                say("Keep one of them.", "请只保留其中之一。"),
            )
    return spans


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"text": columns["text"]}


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    counts = Counter(
        item["label"] for example in examples for item in example.columns["entities"]
    )
    if not counts:
        raise BadInput(
            say("No example has an entity.", "没有一个样本含有实体。"),
            say("Mark some.", "请先标注一些。") + f" {EXAMPLE}",
        )
    return {
        "labels": sorted(counts),
        "counts": {label: counts[label] for label in sorted(counts)},
    }


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    for item in example.columns["entities"]:
        if item["label"] not in spec["labels"]:
            raise unseen(item["label"], spec["labels"])


def tags_of(labels: Sequence[str]) -> list[str]:
    return ["O", *(f"{place}-{label}" for label in labels for place in "BI")]


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Tagger:
    from transformers import AutoModelForTokenClassification

    tags = tags_of(spec["labels"])
    net = with_head(
        base,
        AutoModelForTokenClassification,
        config.dropout,
        num_labels=len(tags),
        id2label=dict(enumerate(tags)),
        label2id={tag: at for at, tag in enumerate(tags)},
    )
    tokenizer = split_chinese(base.tokenizer) if config.characters else base.tokenizer
    return Tagger(net, tokenizer, context_length(base), spec["labels"], config)


class Tagger(Learner):
    adapter_kind = "TOKEN_CLS"
    unit = "tokens"

    def __init__(
        self,
        net: nn.Module,
        tokenizer: Any,
        room: int,
        labels: Sequence[str],
        config: Config,
    ) -> None:
        super().__init__(net)
        self.tokenizer, self.room, self.labels, self.config = (
            tokenizer,
            room,
            list(labels),
            config,
        )
        self.tags, self.fresh, self.blocks = (
            tags_of(labels),
            fresh_of(net),
            blocks_of(net),
        )
        # Tag 2k + 1 begins label k, 2k + 2 goes on with it.
        tags = np.arange(len(self.tags))
        goes_on = (tags > 0) & (tags % 2 == 0)
        self.barred = np.where(
            goes_on[None, :]
            & (tags[:, None] != tags[None, :])
            & (tags[:, None] != tags[None, :] - 1),
            -1e9,
            0.0,
        )
        self.barred_first = np.where(goes_on, -1e9, 0.0)

    def length(self, columns: Mapping[str, Any]) -> int:
        return len(self.tokenizer(columns["text"], verbose=False).input_ids)

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        """ids [T], offsets [T, 2] (characters; 0, 0 for marks of the tokenizer), tags
        [T], spans [N, 3], letters [characters].
        """
        limit = max_length or self.room
        found = self.tokenizer(
            columns["text"],
            return_offsets_mapping=True,
            verbose=False,
            **({"truncation": True, "max_length": limit} if limit else {}),
        )
        ids = np.array(found.input_ids or [padding_of(self.tokenizer)], dtype=np.int64)
        offsets = np.array(found.offset_mapping or [(0, 0)], dtype=np.int64).reshape(
            -1, 2
        )
        spans = [
            (item["start"], item["end"], self.labels.index(item["label"]))
            for item in columns.get("entities") or ()
            if item["label"] in self.labels
        ]
        tags = np.where(offsets[:, 1] > offsets[:, 0], 0, IGNORED)
        for start, end, label in spans:
            inside = np.flatnonzero(
                (offsets[:, 0] < end) & (offsets[:, 1] > start) & (tags != IGNORED)
            )
            tags[inside[:1]], tags[inside[1:]] = 2 * label + 1, 2 * label + 2
        return {
            "ids": ids,
            "offsets": offsets,
            "tags": tags,
            "spans": np.array(spans, dtype=np.int64).reshape(-1, 3),
            "letters": code_points(columns["text"]),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        ids = padded([item["ids"] for item in features], padding_of(self.tokenizer))
        offsets, width = (
            torch.zeros(*ids.shape, 2, dtype=torch.int64),
            max(len(item["spans"]) for item in features),
        )
        spans = torch.full((len(features), width, 3), -1)
        for place, item in enumerate(features):
            offsets[place, : len(item["offsets"])] = torch.from_numpy(item["offsets"])
            spans[place, : len(item["spans"])] = torch.from_numpy(item["spans"])
        return {
            "ids": ids,
            "mask": padded([np.ones(len(item["ids"])) for item in features], 0),
            "tags": padded([item["tags"] for item in features], IGNORED),
            "offsets": offsets,
            "spans": spans,
            "letters": padded([item["letters"] for item in features], 0),
        }

    def logits(self, batch: Batch) -> Tensor:
        """[B, T, tags]"""
        return in_groups(
            lambda rows: (
                self.net(input_ids=rows["ids"], attention_mask=rows["mask"]).logits
            ),
            batch,
            by_token=True,
        ).float()

    def _loss(self, batch: Batch, smoothing: float) -> Loss:
        total = F.cross_entropy(
            self.logits(batch).flatten(0, 1),
            batch["tags"].flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=smoothing,
        )
        return Loss(total, int((batch["tags"] != IGNORED).sum()))

    def loss(self, batch: Batch) -> Loss:
        return self._loss(batch, self.config.label_smoothing)

    def validate(self, batch: Batch) -> Loss:
        return self._loss(batch, 0.0)

    def metrics(self) -> Sequence[Metric]:
        return [
            Metric("f1", f1, "higher", ("Span F1", "实体 F1")),
            Metric(
                "precision",
                lambda c: c[..., 0] / np.maximum(c[..., 0] + c[..., 1], 1e-12),
                "higher",
                ("Precision", "精确率"),
            ),
            Metric(
                "recall",
                lambda c: c[..., 0] / np.maximum(c[..., 0] + c[..., 2], 1e-12),
                "higher",
                ("Recall", "召回率"),
            ),
            Metric(
                "accuracy",
                lambda c: c[..., 0] / np.maximum(c[..., 1], 1e-12),
                "higher",
                ("Tags right", "标签正确率"),
            ),
            *(
                Metric(
                    f"f1/{label}", f1, "higher", (f"F1 of {label}", f"{label} 的 F1")
                )
                for label in self.labels
            ),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        logits = self.logits(batch)
        losses = (
            F.cross_entropy(
                logits.transpose(1, 2),
                batch["tags"],
                ignore_index=IGNORED,
                reduction="none",
            )
            .sum(1)
            .tolist()
        )
        scores = logits.log_softmax(-1).double().cpu().numpy()
        offsets, wanted, spans = (
            batch[name].cpu().numpy() for name in ("offsets", "tags", "spans")
        )
        found = list[Evaluation]()
        for place, loss in enumerate(losses):
            text = text_of(batch["letters"][place])
            real = offsets[place, :, 1] > offsets[place, :, 0]
            tags = viterbi(scores[place][real], self.barred, self.barred_first)
            said = self._spans(tags, offsets[place][real], text)
            gold = {
                Span(int(start), int(end), self.labels[label])
                for start, end, label in spans[place]
                if label >= 0
            }
            known = wanted[place][real] != IGNORED
            counts = {
                "accuracy": np.array(
                    [
                        float((tags == wanted[place][real])[known].sum()),
                        float(known.sum()),
                    ]
                )
            }
            counts |= {
                name: _counts(said, gold, "") for name in ("f1", "precision", "recall")
            }
            counts |= {
                f"f1/{label}": _counts(said, gold, label) for label in self.labels
            }
            found.append(
                Evaluation(
                    loss,
                    counts,
                    [
                        {"text": text[span.start : span.end], **span._asdict()}
                        for span in said
                    ],
                )
            )
        return found

    def _spans(self, tags: np.ndarray, offsets: np.ndarray, text: str) -> list[Span]:
        """Tags of tokens as stretches of the text, without blanks at their ends."""
        spans = list[Span]()
        for tag, (start, end) in zip(tags.tolist(), offsets.tolist()):
            if tag % 2:
                spans.append(Span(start, end, self.labels[tag // 2]))
            elif tag:
                spans[-1] = spans[-1]._replace(end=end)
        whole = [(span, text[span.start : span.end]) for span in spans]
        return [
            Span(
                span.start + len(part) - len(part.lstrip()),
                span.end - len(part) + len(part.rstrip()),
                span.label,
            )
            for span, part in whole
            if part.strip()
        ]

    def answer(self, columns: Mapping[str, Any]) -> Any:
        """[{"text", "start", "end", "label"}], in any length of text."""
        found = list[dict[str, Any]]()
        for part in self._windows(
            {"text": columns["text"], "entities": []}, self.room or 1 << 30
        ):
            for item in super().answer(part):
                found.append(
                    item
                    | {
                        "start": item["start"] + part["at"],
                        "end": item["end"] + part["at"],
                    }
                )
        return found

    def split(
        self, columns: Mapping[str, Any], max_length: int
    ) -> list[Mapping[str, Any]]:
        return [
            {"text": part["text"], "entities": part["entities"]}
            for part in self._windows(columns, max_length)
        ]

    def _windows(
        self, columns: Mapping[str, Any], max_length: int
    ) -> list[dict[str, Any]]:
        """The text in parts of at most `max_length` tokens, cut between names."""
        text, entities = columns["text"], columns["entities"]
        ends = [
            end
            for start, end in self.tokenizer(
                text,
                return_offsets_mapping=True,
                add_special_tokens=False,
                verbose=False,
            ).offset_mapping
        ]
        room = max(
            max_length - self.tokenizer.num_special_tokens_to_add(pair=False) - 2, 1
        )  # cut anew, an end may become two tokens more
        parts, at, token = list[dict[str, Any]](), 0, 0
        while at < len(text):
            token = min(token + room, len(ends))
            cut = ends[token - 1] if 0 < token < len(ends) else len(text)
            whole = next(
                (
                    item["start"]
                    for item in entities
                    if item["start"] < cut < item["end"] and item["start"] > at
                ),
                cut,
            )
            token = sum(end <= whole for end in ends)
            inside = [
                item | {"start": item["start"] - at, "end": item["end"] - at}
                for item in entities
                if at <= item["start"] and item["end"] <= whole
            ]
            parts.append({"text": text[at:whole], "entities": inside, "at": at})
            at = whole
        return parts

    def preview(self, features: Features) -> list[Piece]:
        pieces, tags = pieces_of(self.tokenizer, features["ids"]), features["tags"]
        return [
            Piece(
                f"{piece.text}[{self.tags[tag]}]" if tag > 0 else piece.text,
                tag != IGNORED,
            )
            for piece, tag in zip(pieces, tags.tolist())
        ]

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        (folder / "labels.json").write_text(
            json.dumps(self.labels, ensure_ascii=False), encoding="utf-8"
        )


def _counts(said: Sequence[Span], gold: set[Span], label: str) -> np.ndarray:
    """(right, wrong, missed), of one label or of all."""
    mine = {span for span in said if label in ("", span.label)}
    theirs = {span for span in gold if label in ("", span.label)}
    return np.array(
        [len(mine & theirs), len(mine - theirs), len(theirs - mine)], dtype=float
    )


def viterbi(scores: np.ndarray, steps: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The sequence of greatest Σ_t scores[t, y_t] + steps[y_{t-1}, y_t] + first[y_0].
    scores [T, K] -> int64 [T].
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    best, came = scores[0] + first, list[np.ndarray]()
    for row in scores[1:]:
        paths = best[:, None] + steps
        came.append(paths.argmax(0))
        best = paths.max(0) + row
    tags = [int(best.argmax())]
    for pointers in reversed(came):
        tags.append(int(pointers[tags[-1]]))
    return np.array(tags[::-1])
