"""Token classification: names in a text, where they begin and end, and of what kind they
are.

    L = -Σ_t log softmax(W h_t)_{y_t},   y_t in {O, B-k, I-k}

In answers the tags are the likeliest sequence in which I-k follows only B-k or I-k
(Viterbi), so every answer is a set of spans. A name counts as right when its ends and
its kind are (Tjong Kim Sang and De Meulder 2003, CoNLL).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable, unseen, written_text
from miaobi.models.base import Base
from miaobi.nn.graphs import Graph
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import TokenClassificationHead as Config
from miaobi.tune.learner import (
    Evaluation,
    Example,
    Features,
    Learner,
    Metric,
    Piece,
    padded,
)
from miaobi.tune.text.characters import code_points, is_cjk, split_chinese, text_of
from miaobi.tune.text.graphs import text_graph
from miaobi.tune.text.heads import (
    blocks_of,
    context_length,
    fresh_of,
    in_groups,
    padding_of,
    pieces_of,
    with_head,
)
from miaobi.tune.text.metrics import f1

NAME = "token-classification"
SUMMARY = "names in a text and their kinds", "标出文本中的实体及其类别"
MODALITY = "text"
READER = "labelled/tagged"
MAKES = "labels"
ASK = "--prompt ..."
EXAMPLE = '{"text": "Ada lives in Paris", "entities": [{"start": 0, "end": 3, "label": "person"}]}'
NO_LIMIT = 1 << 30
IMPOSSIBLE = -1e9
"""The score of a step that no answer takes."""
TOKENS_EXAMPLE = '{"tokens": ["Ada", "lives"], "tags": ["B-person", "O"]}'


class Span(NamedTuple):
    """A name: characters `start` up to `end`."""

    start: int
    end: int
    label: str


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    if isinstance(record.get("tokens"), list):
        tags = record.get("tags", record.get("ner_tags"))
        text, spans = _join(record["tokens"], tags)
    else:
        text = written_text(record.get("text") or "", "text")
        if not text.strip():
            raise Unusable(say("no text.", "缺少 text。"), EXAMPLE)
        entities = record.get("entities")
        if entities is None and isinstance(record.get("label"), Mapping):
            entities = _entities_by_kind(record["label"], text)
        spans = _spans_of(entities, text)
    return {"text": text, "entities": [span._asdict() for span in spans]}


def _entities_by_kind(kinds: Mapping[str, Any], text: str) -> list[dict[str, Any]]:
    """Return CLUENER's {kind: {name: [[first, last], ...]}} as entities.

    Its ends are those of the last character. Raises Unusable where the text holds
    something else there.
    """
    entities = list[dict[str, Any]]()
    for kind, names in kinds.items():
        for name, places in (names or {}).items():
            for first, last in places or ():
                if text[first : last + 1] != name:
                    raise Unusable(
                        say(
                            f"the {kind} {name!r} is not at {first} to {last}.",
                            f"{kind} {name!r} 不在位置 {first} 至 {last}。",
                        ),
                        '"label": {"name": {"...": [[0, 2]]}}',
                    )
                entities.append({"start": first, "end": last + 1, "label": kind})
    return entities


def _join(tokens: Sequence[Any], tags: Any) -> tuple[str, list[Span]]:
    """Return words with tags (BIO, BIOES, or bare kinds) as a text with spans.

    Spaces stand between words but not between Chinese characters.
    """
    _check_tags(tokens, tags)
    words = [written_text(token, "tokens") for token in tokens]
    text = ""
    spans = list[Span]()
    open_kind = ""
    for token, tag in zip(words, tags):
        if text and token and not (is_cjk(text[-1]) or is_cjk(token[0])):
            text += " "
        start = len(text)
        text += token
        position, kind = _position_and_kind(tag)
        if position in ("I", "E") and kind == open_kind:
            spans[-1] = spans[-1]._replace(end=len(text))
        elif position != "O":
            spans.append(Span(start, len(text), kind))
        open_kind = kind if position in ("B", "I") else ""
    return text, spans


def _check_tags(tokens: Sequence[Any], tags: Any) -> None:
    if not isinstance(tags, list) or len(tags) != len(tokens):
        english = len(tags) if isinstance(tags, list) else "no"
        chinese = len(tags) if isinstance(tags, list) else "没有"
        raise Unusable(
            say(
                f"{len(tokens)} tokens and {english} tags.",
                f"有 {len(tokens)} 个 tokens，{chinese}个 tags。",
            ),
            TOKENS_EXAMPLE,
        )
    if not tokens or not all(isinstance(tag, str) and tag for tag in tags):
        raise Unusable(
            say(
                f"tags are {tags!r:.60}, not names of tags.",
                f"tags 为 {tags!r:.60}，不是标签名。",
            ),
            TOKENS_EXAMPLE,
        )


def _position_and_kind(tag: str) -> tuple[str, str]:
    """Return the B, I, E, S or O of a tag, and its kind; a bare kind is an I."""
    if tag == "O":
        return "O", ""
    if tag[1:2] != "-":
        return "I", tag
    position, _, kind = tag.partition("-")
    if position not in ("B", "I", "E", "S", "O"):
        raise Unusable(
            say(
                f"the tag {tag!r} is of no known scheme.",
                f"标签 {tag!r} 不属于已知的标注方案。",
            ),
            TOKENS_EXAMPLE,
        )
    return position, kind


def _spans_of(entities: Any, text: str) -> list[Span]:
    """Return the spans of a text in order, none of which overlap."""
    if not isinstance(entities, list):
        raise Unusable(
            say("no entities.", "缺少 entities。"),
            f"{EXAMPLE} " + say("([] where there are none.)", "（没有实体时写 []。）"),
        )
    spans = sorted(_span_of(item) for item in entities)
    for span in spans:
        if not 0 <= span.start < span.end <= len(text):
            raise Unusable(
                say(
                    f"an entity goes from {span.start} to {span.end} in a text of {len(text)} characters.",
                    f"实体范围为 {span.start} 至 {span.end}，而文本只有 {len(text)} 个字符。",
                ),
                say(
                    "start counts from 0, end is one past the last character.",
                    "start 从 0 起算，end 为最后一个字符之后的位置。",
                ),
            )
    for first, second in itertools.pairwise(spans):
        if second.start < first.end:
            first_text = text[first.start : first.end]
            second_text = text[second.start : second.end]
            raise Unusable(
                say(
                    f"the entities {first_text!r} and {second_text!r} overlap.",
                    f"实体 {first_text!r} 与 {second_text!r} 重叠。",
                ),
                say("Keep one of them.", "请只保留其中之一。"),
            )
    return spans


def _span_of(item: Any) -> Span:
    try:
        return Span(int(item["start"]), int(item["end"]), str(item["label"]))
    except (KeyError, TypeError, ValueError):
        raise Unusable(
            say(f"an entity is {item!r:.80}.", f"实体为 {item!r:.80}。"), EXAMPLE
        ) from None


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
    """Return O, and for each label B and I: tag 2k + 1 begins label k, 2k + 2 continues
    it.
    """
    return ["O", *(f"{position}-{label}" for label in labels for position in "BI")]


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Tagger:
    from transformers import AutoModelForTokenClassification

    tags = tags_of(spec["labels"])
    net = with_head(
        base,
        AutoModelForTokenClassification,
        config.dropout,
        num_labels=len(tags),
        id2label=dict(enumerate(tags)),
        label2id={tag: index for index, tag in enumerate(tags)},
    )
    tokenizer = split_chinese(base.tokenizer) if config.characters else base.tokenizer
    return Tagger(net, tokenizer, context_length(base), spec["labels"], config)


class Tagger(Learner):
    """A net that gives every token a tag.

    Batches: ids, mask and tags [B, T]; offsets [B, T, 2], each token's characters, 0
    for marks of the tokenizer; spans [B, N, 3], (start, end, label), -1 for none;
    characters [B, C], the texts.
    """

    adapter_kind = "TOKEN_CLS"
    unit = "tokens"

    def __init__(
        self,
        net: nn.Module,
        tokenizer: Any,
        max_tokens: int,
        labels: Sequence[str],
        config: Config,
    ) -> None:
        super().__init__(net)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        """What the base can hold; 0 for no limit."""
        self.labels = list(labels)
        self.config = config
        self.tags = tags_of(labels)
        self.fresh = fresh_of(net)
        self.blocks = blocks_of(net)
        self.step_scores, self.first_scores = transition_scores(len(self.tags))

    def length(self, columns: Mapping[str, Any]) -> int:
        return len(self.tokenizer(columns["text"], verbose=False).input_ids)

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        limit = max_length or self.max_tokens
        cut = {"truncation": True, "max_length": limit} if limit else {}
        encoded = self.tokenizer(
            columns["text"], return_offsets_mapping=True, verbose=False, **cut
        )
        ids = encoded.input_ids or [padding_of(self.tokenizer)]
        offset_pairs = encoded.offset_mapping or [(0, 0)]
        offsets = np.array(offset_pairs, dtype=np.int64).reshape(-1, 2)
        spans = [
            (item["start"], item["end"], self.labels.index(item["label"]))
            for item in columns.get("entities") or ()
            if item["label"] in self.labels
        ]
        return {
            "ids": np.array(ids, dtype=np.int64),
            "offsets": offsets,
            "tags": _tags(offsets, spans),
            "spans": np.array(spans, dtype=np.int64).reshape(-1, 3),
            "characters": code_points(columns["text"]),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        ids = padded([item["ids"] for item in features], padding_of(self.tokenizer))
        most = max(len(item["spans"]) for item in features)
        offsets = torch.zeros(*ids.shape, 2, dtype=torch.int64)
        spans = torch.full((len(features), most, 3), -1)
        for index, item in enumerate(features):
            offsets[index, : len(item["offsets"])] = torch.from_numpy(item["offsets"])
            spans[index, : len(item["spans"])] = torch.from_numpy(item["spans"])
        return {
            "ids": ids,
            "mask": padded([np.ones(len(item["ids"])) for item in features], 0),
            "tags": padded([item["tags"] for item in features], MASKED),
            "offsets": offsets,
            "spans": spans,
            "characters": padded([item["characters"] for item in features], 0),
        }

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, T, tags]."""
        return in_groups(
            lambda rows: (
                self.net(input_ids=rows["ids"], attention_mask=rows["mask"]).logits
            ),
            batch,
            by_token=True,
        ).float()

    def graphs(self) -> Sequence[Graph]:
        """Return the tagger: ids and mask to logits [B, T, tags]."""
        return [text_graph("tagger", self._logits, self.net, "logits")]

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.net(input_ids=ids, attention_mask=mask).logits
        return logits.float()

    def _loss(self, batch: Batch, smoothing: float) -> Loss:
        total = F.cross_entropy(
            self.logits(batch).flatten(0, 1),
            batch["tags"].flatten(),
            ignore_index=MASKED,
            reduction="sum",
            label_smoothing=smoothing,
        )
        return Loss(total, int((batch["tags"] != MASKED).sum()))

    def loss(self, batch: Batch) -> Loss:
        return self._loss(batch, self.config.label_smoothing)

    def validate(self, batch: Batch) -> Loss:
        """Return the loss without smoothing, whose least value is not 0."""
        return self._loss(batch, 0.0)

    def metrics(self) -> Sequence[Metric]:
        of_labels = [
            Metric(f"f1/{label}", f1, "higher", (f"F1 of {label}", f"{label} 的 F1"))
            for label in self.labels
        ]
        return [
            Metric("f1", f1, "higher", ("Span F1", "实体 F1")),
            Metric("precision", _precision, "higher", ("Precision", "精确率")),
            Metric("recall", _recall, "higher", ("Recall", "召回率")),
            Metric("accuracy", _accuracy, "higher", ("Tags right", "标签正确率")),
            *of_labels,
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        logits = self.logits(batch)
        token_losses = F.cross_entropy(
            logits.transpose(1, 2),
            batch["tags"],
            ignore_index=MASKED,
            reduction="none",
        )
        losses = token_losses.sum(1).tolist()
        scores = logits.log_softmax(-1).double().cpu().numpy()
        all_offsets = batch["offsets"].cpu().numpy()
        all_tags = batch["tags"].cpu().numpy()
        evaluations = list[Evaluation]()
        for index, loss in enumerate(losses):
            offsets = all_offsets[index]
            in_text = offsets[:, 1] > offsets[:, 0]
            text = text_of(batch["characters"][index])
            tags = viterbi(scores[index][in_text], self.step_scores, self.first_scores)
            spans = self._spans(tags, offsets[in_text], text)
            true_tags = all_tags[index][in_text]
            has_tag = true_tags != MASKED
            right = (tags == true_tags)[has_tag].sum()
            counts = {
                "accuracy": np.array([float(right), float(has_tag.sum())]),
                **span_counts(
                    spans, self._true_spans(batch["spans"][index]), self.labels
                ),
            }
            answer = [
                {"text": text[span.start : span.end], **span._asdict()}
                for span in spans
            ]
            evaluations.append(Evaluation(loss, counts, answer))
        return evaluations

    def _true_spans(self, rows: Tensor) -> set[Span]:
        return {
            Span(start, end, self.labels[label])
            for start, end, label in rows.tolist()
            if label >= 0
        }

    def _spans(self, tags: np.ndarray, offsets: np.ndarray, text: str) -> list[Span]:
        """Return tags of tokens as spans of the text, without blanks at their ends."""
        spans = list[Span]()
        for tag, (start, end) in zip(tags.tolist(), offsets.tolist()):
            if tag % 2:
                spans.append(Span(start, end, self.labels[tag // 2]))
            elif tag:
                spans[-1] = spans[-1]._replace(end=end)
        trimmed = [_trim(span, text) for span in spans]
        return [span for span in trimmed if span.end > span.start]

    def answer(self, columns: Mapping[str, Any]) -> Any:
        """Return [{"text", "start", "end", "label"}], for any length of text."""
        whole = {"text": columns["text"], "entities": []}
        answers = list[dict[str, Any]]()
        for part in self._parts(whole, self.max_tokens or NO_LIMIT):
            columns = {"text": part.text, "entities": []}
            answers += [_moved(item, part.start) for item in super().answer(columns)]
        return answers

    def split(
        self, columns: Mapping[str, Any], max_length: int
    ) -> list[Mapping[str, Any]]:
        return [
            {
                "text": part.text,
                "entities": [
                    _moved(item, -part.start)
                    for item in columns["entities"]
                    if part.start <= item["start"] and item["end"] <= part.end
                ],
            }
            for part in self._parts(columns, max_length)
        ]

    def _parts(self, columns: Mapping[str, Any], max_length: int) -> list[Part]:
        """Return the text in parts of at most `max_length` tokens, cut between names."""
        text = columns["text"]
        offsets = self.tokenizer(
            text, return_offsets_mapping=True, add_special_tokens=False, verbose=False
        ).offset_mapping
        ends = [end for _, end in offsets]
        marks = self.tokenizer.num_special_tokens_to_add(pair=False)
        # Cut anew, the end of a part may become two tokens more.
        size = max(max_length - marks - 2, 1)
        parts = list[Part]()
        start = 0
        token = 0
        while start < len(text):
            token = min(token + size, len(ends))
            end = ends[token - 1] if 0 < token < len(ends) else len(text)
            end = _before_name(columns["entities"], start, end)
            token = sum(token_end <= end for token_end in ends)
            parts.append(Part(text[start:end], start))
            start = end
        return parts

    def preview(self, features: Features) -> list[Piece]:
        pieces = pieces_of(self.tokenizer, features["ids"])
        return [
            Piece(
                f"{piece.text}[{self.tags[tag]}]" if tag > 0 else piece.text,
                tag != MASKED,
            )
            for piece, tag in zip(pieces, features["tags"].tolist())
        ]

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        labels = json.dumps(self.labels, ensure_ascii=False)
        (folder / "labels.json").write_text(labels, encoding="utf-8")


class Part(NamedTuple):
    """A part of a text."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def _before_name(entities: Sequence[Mapping[str, Any]], start: int, end: int) -> int:
    """Return `end`, or where the name begins that it would cut.

    A name that begins at `start` is cut.
    """
    for item in entities:
        if start < item["start"] < end < item["end"]:
            return int(item["start"])
    return end


def _moved(item: Mapping[str, Any], by: int) -> dict[str, Any]:
    """Return a name whose text begins `by` characters earlier."""
    return {**item, "start": item["start"] + by, "end": item["end"] + by}


def _tags(offsets: np.ndarray, spans: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Return the tag of each token, int64 [T]; MASKED for marks of the tokenizer.

    Args:
        offsets: Each token's characters, [T, 2].
        spans: (start, end, label) in characters.
    """
    starts, ends = offsets.T
    tags = np.where(ends > starts, 0, MASKED)
    for start, end, label in spans:
        inside = np.flatnonzero((starts < end) & (ends > start) & (tags != MASKED))
        tags[inside[:1]] = 2 * label + 1
        tags[inside[1:]] = 2 * label + 2
    return tags


def _trim(span: Span, text: str) -> Span:
    """Return the span without blanks at its ends."""
    piece = text[span.start : span.end]
    start = span.start + len(piece) - len(piece.lstrip())
    return Span(start, start + len(piece.strip()), span.label)


def span_counts(
    spans: Sequence[Span], true_spans: set[Span], labels: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return (right, wrong, missed) for each metric of spans."""
    names = ("f1", "precision", "recall")
    counts = dict.fromkeys(names, _counts(set(spans), true_spans))
    for label in labels:
        own = {span for span in spans if span.label == label}
        true = {span for span in true_spans if span.label == label}
        counts[f"f1/{label}"] = _counts(own, true)
    return counts


def _counts(spans: set[Span], true_spans: set[Span]) -> np.ndarray:
    """Return (right, wrong, missed)."""
    right = len(spans & true_spans)
    return np.array([right, len(spans) - right, len(true_spans) - right], dtype=float)


def _precision(counts: np.ndarray) -> np.ndarray:
    """Return right / (right + wrong) of [..., (right, wrong, missed)]."""
    right = counts[..., 0]
    return np.asarray(right / np.maximum(right + counts[..., 1], 1e-12))


def _recall(counts: np.ndarray) -> np.ndarray:
    """Return right / (right + missed) of [..., (right, wrong, missed)]."""
    right = counts[..., 0]
    return np.asarray(right / np.maximum(right + counts[..., 2], 1e-12))


def _accuracy(counts: np.ndarray) -> np.ndarray:
    """Return right / all of [..., (right, all)]."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 1], 1e-12))


def transition_scores(tags: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of steps between tags, [K, K], and of first tags, [K].

    0 for what an answer may do, IMPOSSIBLE for the rest: tag 2k + 2 follows only itself
    and 2k + 1.
    """
    numbers = np.arange(tags)
    continues = (numbers > 0) & (numbers % 2 == 0)
    before = numbers[:, None]
    after = numbers[None, :]
    forbidden = continues[None, :] & (before != after) & (before != after - 1)
    steps = np.where(forbidden, IMPOSSIBLE, 0.0)
    return steps, np.where(continues, IMPOSSIBLE, 0.0)


def viterbi(scores: np.ndarray, steps: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the sequence y of greatest Σ_t scores[t, y_t] + steps[y_{t-1}, y_t] +
    first[y_0], int64 [T].

    Args:
        scores: Of each tag at each position, [T, K].
        steps: Of each tag after each other, [K, K].
        first: Of each tag at the beginning, [K].
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    best = scores[0] + first
    pointers = list[np.ndarray]()
    for row in scores[1:]:
        paths = best[:, None] + steps
        pointers.append(paths.argmax(0))
        best = paths.max(0) + row
    tags = [int(best.argmax())]
    for pointer in reversed(pointers):
        tags.append(int(pointer[tags[-1]]))
    return np.array(tags[::-1])
