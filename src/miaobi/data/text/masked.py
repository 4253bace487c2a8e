"""The `masked` data set: documents with some of their tokens hidden, for models that
read a text from both sides.

    [CLS] 白 日 依 [MASK] 尽 [SEP]                     sentences: none
    [CLS] first half [SEP] second half [SEP]         sentences: nsp, sop

Of the words that are chosen, 80 % become [MASK], 10 % another token, 10 % stay as they
are, and all are to be found again (Devlin et al. 2019, arXiv:1810.04805). With whole
words (github.com/google-research/bert, May 2019) the pieces of a word are hidden
together. For the second task the halves come from one document or two (nsp, the same
paper), or in their order or swapped (sop, Lan et al. 2020, arXiv:1909.11942).

The tokens are those of the `tokens` data set (packing.py). Its text never holds a mask:
[MASK] written by somebody is six letters. Which tokens are hidden is another draw in
every epoch, and a pure function of the batch's number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.text import config, tokens
from miaobi.data.text.bucketing import Buckets, padded
from miaobi.data.text.tokens import CONTENT, IGNORED, Tokens, holds, inspect

if TYPE_CHECKING:
    from torch import Tensor

    from miaobi.data.text.tokenizer import Tokenizer

__all__ = ["CONTENT", "Config", "Masked", "MaskedSpec", "holds", "inspect", "prepare"]

PAD, CLS, SEP, MASK = "[PAD]", "[CLS]", "[SEP]", "[MASK]"
SPECIALS = (PAD, CLS, SEP, MASK)
"""They stand behind the vocabulary, in this order."""
ROLES = {
    "bos_token": "",
    "eos_token": "",
    "pad_token": PAD,
    "cls_token": CLS,
    "sep_token": SEP,
    "mask_token": MASK,
}
SHARE_MASKED, SHARE_RANDOM = 0.8, 0.1
SENTENCE_ENDS = "。！？；.!?;\n"
SHORTEST = 2
"""Tokens of a document that has two halves."""
VALIDATION_SEED = 0


@dataclass(frozen=True)
class Config(config.Config):
    mask: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the words that are hidden; one at least in every row."""
    whole_words: bool = False
    """Hide all pieces of a word together. A Chinese character is a word of its own."""
    sentences: Literal["none", "nsp", "sop"] = "none"
    """A second task: does the second half follow the first (nsp), or were they swapped (sop)?"""


@dataclass(frozen=True)
class MaskedSpec:
    """What a family needs to build a model for this data."""

    vocab_size: int
    context_length: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    tokenizer: str
    """Name of the tokenizer, for reports."""
    sentences: str
    """The second task, as in Config."""


def prepare(
    config_: Config, *, cache: Path | None = None, progress: bool = True
) -> Masked:
    """Return the prepared data of this configuration, made now or by an earlier run.

    Args:
        config_: the source of the text, how it becomes tokens and which are hidden
        cache: where prepared data is kept; $MIAOBI_HOME/prepared by default
        progress: show a bar on stderr
    """
    names = [item.name for item in fields(config.Config)]
    plain = config.Config(**{name: getattr(config_, name) for name in names})
    prepared = tokens.prepare(plain, cache=cache, progress=progress)
    return Masked(prepared, config_.mask, config_.whole_words, config_.sentences)


class Piece(NamedTuple):
    """A document, or a part of one that fits the context."""

    start: int
    stop: int
    document: int


@dataclass(frozen=True, eq=False)
class Masked:
    """Prepared splits; batches are a pure function of (split, index, size, seed)."""

    text: Tokens
    mask: float
    whole_words: bool
    sentences: str

    @property
    def folder(self) -> Path:
        return self.text.folder

    @property
    def fingerprint(self) -> str:
        return self.text.fingerprint

    @cached_property
    def spec(self) -> MaskedSpec:
        plain = self.text.spec
        first = plain.vocab_size
        return MaskedSpec(
            vocab_size=first + len(SPECIALS),
            context_length=plain.context_length,
            pad_id=first,
            cls_id=first + 1,
            sep_id=first + 2,
            mask_id=first + 3,
            tokenizer=plain.tokenizer,
            sentences=self.sentences,
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from miaobi.data.text.tokenizer import with_specials

        return with_specials(
            self.text.tokenizer,
            SPECIALS,
            ROLES,
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        )

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a bundle."""
        self.tokenizer.save(folder)
        (folder / "chat_template.jinja").unlink(missing_ok=True)

    def count(self, split: str) -> int:
        """Return the examples of a split."""
        return len(self._pieces(split))

    def batch(self, split: str, index: int, size: int, seed: int) -> dict[str, Tensor]:
        """Return batch `index` of the endless shuffled stream, rows of about equal length.

        ids int64 [size, T]; targets int64 [size, T], -100 where nothing was hidden;
        lengths int64 [size], the tokens of each row; types int64 [size, T], 1 in the
        second half; order int64 [size], 1 where the second half does not follow the
        first, -100 for a text without halves.
        """
        self._check(split)
        rows = self._buckets(split).rows(index, size, seed)
        draw = np.random.Generator(np.random.PCG64([seed, index, size]))
        return self._rows(split, rows, draw)

    def batches(self, split: str, size: int) -> Iterator[dict[str, Tensor]]:
        """Yield every example of a split once, with the same tokens hidden every time."""
        if not self.count(split):
            return
        for number, rows in enumerate(self._buckets(split).each_once(size)):
            draw = np.random.Generator(np.random.PCG64([VALIDATION_SEED, number]))
            yield self._rows(split, rows, draw)

    def documents(self, split: str) -> Iterator[str]:
        """Yield the documents of a split as text."""
        return self.text.documents(split)

    def _check(self, split: str) -> None:
        pieces = self._pieces(split)
        if not pieces:
            raise BadInput(
                say(f"The {split} split is empty.", f"{split} 划分为空。"),
                say(
                    "Give more text, or another share for it (data.validation, data.test).",
                    "请增加文本，或调整其比例（data.validation、data.test）。",
                ),
            )
        if self.sentences == "nsp" and pieces[-1].document == pieces[0].document:
            raise BadInput(
                say(
                    f"The {split} split has one document; nsp takes halves from two.",
                    f"{split} 划分只有一个文档；nsp 需要来自两个文档的片段。",
                ),
                say(
                    "Use data.sentences: sop or none, or divide the text with data.separator.",
                    "请使用 data.sentences: sop 或 none，或用 data.separator 分开文档。",
                ),
            )

    @property
    def _longest(self) -> int:
        """Tokens of a text that fit between [CLS] and [SEP]."""
        specials = 2 if self.sentences == "none" else 3
        longest = self.text.context_length - specials
        if longest < SHORTEST:
            raise BadInput(
                say(
                    f"data.context_length is {self.text.context_length}: no text fits.",
                    f"data.context_length 为 {self.text.context_length}，放不下文本。",
                ),
                say("Give at least 16.", "请给出至少 16。"),
            )
        return longest

    @cached_property
    def _cut(self) -> dict[str, list[Piece]]:
        return {split: self._cut_up(split) for split in config.SPLITS}

    def _cut_up(self, split: str) -> list[Piece]:
        """The documents of a split, long ones in parts."""
        stream = self.text.stream(split)
        ends = np.flatnonzero(stream == self.text.spec.eos_id)
        pieces = list[Piece]()
        for number, (before, end) in enumerate(pairwise(ends)):
            for start in range(int(before) + 1, int(end), self._longest):
                stop = min(start + self._longest, int(end))
                pieces.append(Piece(start, stop, number))
        return pieces

    def _pieces(self, split: str) -> list[Piece]:
        return self._cut[split]

    @cached_property
    def _all_buckets(self) -> dict[str, Buckets]:
        return {
            split: Buckets(np.array([piece.stop - piece.start for piece in pieces]))
            for split, pieces in self._cut.items()
        }

    def _buckets(self, split: str) -> Buckets:
        return self._all_buckets[split]

    def _rows(
        self, split: str, rows: np.ndarray, draw: np.random.Generator
    ) -> dict[str, Tensor]:
        import torch

        spec = self.spec
        texts = list[np.ndarray]()
        halves = list[int]()
        """Where the second half begins in each row."""
        order = list[int]()
        for row in rows.tolist():
            first, second, label = self._halves(split, row, draw)
            halves.append(len(first) + 2)
            text = [spec.cls_id, *first, spec.sep_id]
            if len(second):
                text += [*second, spec.sep_id]
            texts.append(np.array(text))
            order.append(label)
        ids = padded(texts, spec.pad_id)
        lengths = np.array([len(text) for text in texts])
        columns = np.arange(ids.shape[1])
        types = (columns >= np.array(halves)[:, None]) & (columns < lengths[:, None])
        hidden, targets = self._hide(ids, draw)
        return {
            "ids": torch.from_numpy(hidden),
            "targets": torch.from_numpy(targets),
            "lengths": torch.from_numpy(lengths),
            "types": torch.from_numpy(types.astype(np.int64)),
            "order": torch.tensor(order),
        }

    def _halves(
        self, split: str, row: int, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """First and second half of an example, and its order; without a second task the
        whole, nothing, and -100.
        """
        stream = self.text.stream(split)
        piece = self._pieces(split)[row]
        text = stream[piece.start : piece.stop].astype(np.int64)
        if self.sentences == "none" or len(text) < SHORTEST:
            return text, text[:0], IGNORED
        middle = self._middle(text)
        first, second = text[:middle], text[middle:]
        if draw.random() < 0.5:
            return first, second, 0
        if self.sentences == "sop":
            return second, first, 1
        return first, self._elsewhere(split, piece, draw)[: self._longest - middle], 1

    def _middle(self, text: np.ndarray) -> int:
        """Where the second half begins: behind the sentence that ends nearest the middle,
        or else at the nearest word.
        """
        places = np.flatnonzero(self._ends_sentence[text[:-1]]) + 1
        half = len(text) // 2
        if not len(places):
            places = np.flatnonzero(~self._continues[text[1:]]) + 1
        return int(places[np.abs(places - half).argmin()]) if len(places) else half

    def _elsewhere(
        self, split: str, piece: Piece, draw: np.random.Generator
    ) -> np.ndarray:
        """The second half of a piece of another document."""
        pieces = self._pieces(split)
        other = piece
        while other.document == piece.document:
            other = pieces[int(draw.integers(len(pieces)))]
        text = self.text.stream(split)[other.start : other.stop].astype(np.int64)
        return text[self._middle(text) if len(text) >= SHORTEST else 0 :]

    def _hide(
        self, ids: np.ndarray, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids with words hidden, and the targets, each int64 [B, T]."""
        spec = self.spec
        is_text = ids < spec.pad_id
        chance = draw.random(ids.shape)
        if self.whole_words:
            words = self._words(ids).cumsum(1) - 1
            chance = np.take_along_axis(chance, words, 1)
        chance = np.where(is_text, chance, 1.0)
        least = chance.min(1, keepdims=True)
        chosen = is_text & (chance <= np.maximum(self.mask, least))
        targets = np.where(chosen, ids, IGNORED)
        fate = draw.random(ids.shape)
        others = draw.choice(self._ordinary, ids.shape)
        hidden = np.where(chosen & (fate < SHARE_MASKED), spec.mask_id, ids)
        swapped = (fate >= SHARE_MASKED) & (fate < SHARE_MASKED + SHARE_RANDOM)
        return np.where(chosen & swapped, others, hidden), targets

    @cached_property
    def _ordinary(self) -> np.ndarray:
        """The tokens that texts are made of: all but the special ones."""
        return np.array([token for token, raw in enumerate(self._spelled) if raw])

    def _words(self, ids: np.ndarray) -> np.ndarray:
        """Whether a word begins at each token, bool [B, T]."""
        continues = self._continues[ids]
        after_letter = np.zeros_like(continues)
        after_letter[:, 1:] = self._is_letters[ids[:, :-1]]
        begins: np.ndarray = ~(continues & after_letter)
        begins[:, 0] = True
        return begins

    @cached_property
    def _spelled(self) -> list[bytes]:
        """The bytes of every token of the vocabulary; a special token has none."""
        from miaobi.data.text.tokenizer import BYTES

        spelled = [b""] * self.spec.vocab_size
        backend = self.text.tokenizer.backend
        special = backend.get_added_tokens_decoder()
        for text, token in backend.get_vocab(with_added_tokens=False).items():
            if token not in special and all(letter in BYTES for letter in text):
                spelled[token] = bytes(BYTES[letter] for letter in text)
        return spelled

    @cached_property
    def _continues(self) -> np.ndarray:
        """Whether each token goes on with a word where letters stand before it: letters
        without a space, or bytes inside a character.
        """
        return np.array([_begins_inside(raw) for raw in self._spelled])

    @cached_property
    def _is_letters(self) -> np.ndarray:
        """Whether a word may go on behind each token."""
        return np.array([_ends_inside(raw) for raw in self._spelled])

    @cached_property
    def _ends_sentence(self) -> np.ndarray:
        ends = tuple(mark.encode() for mark in SENTENCE_ENDS)
        return np.array([raw.endswith(ends) for raw in self._spelled])


def _begins_inside(raw: bytes) -> bool:
    if raw[:1] and 0x80 <= raw[0] < 0xC0:  # the rest of a character
        return True
    return _is_letter(raw.decode(errors="ignore")[:1])


def _ends_inside(raw: bytes) -> bool:
    text = raw.decode(errors="replace")
    return text.endswith("\ufffd") or _is_letter(text[-1:])


def _is_letter(character: str) -> bool:
    """Whether it is a letter of a script that puts spaces between words."""
    return character.isalpha() and character < "\u2e80"
