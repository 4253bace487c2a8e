"""Fill in the middle: texts rearranged so that a model that reads from left to right
learns to write what stands between two parts.

    PSM   <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle <|endoftext|>
    SPM   <|fim_prefix|> <|fim_suffix|> suffix <|fim_middle|> prefix middle <|endoftext|>

Bavarian et al. 2022 (arXiv:2207.14255): a share of the texts is cut at two characters
drawn evenly, so that a cut may fall inside a token, and the three parts are tokenised
one by one. The end token behind the middle is what teaches a fill to end. As in their
context-level variant, what is rearranged is the part of a document that a window holds,
so that no part of an example is ever beyond the context.

The three tokens stand behind the vocabulary, and only `Filling` inserts them: text that
spells one is text.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from miaobi.data.text.config import IGNORED
from miaobi.data.text.tokenizer import SPECIALS, extended

if TYPE_CHECKING:
    from miaobi.data.text.tokenizer import Tokenizer

PREFIX, SUFFIX, MIDDLE = FILL_TOKENS = (
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
)
"""As Qwen2.5-Coder and CodeGemma spell them; llama.cpp knows them by these names."""
MARGIN = 12
"""Tokens kept free for the four special ones, and for what two cuts inside tokens add."""
SHORTEST = 8
"""Tokens of a text that is rearranged."""


def for_filling(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that has the three tokens, added where it lacks them."""
    missing = [
        token for token in FILL_TOKENS if tokenizer.backend.token_to_id(token) is None
    ]
    return extended(tokenizer, missing) if missing else tokenizer


@dataclass(frozen=True)
class Filling:
    """Rearranges the texts of training windows.

    Args:
        tokenizer: has FILL_TOKENS (`for_filling`)
        rate: share of the texts that are rearranged
        suffix_first: share of these in the order SPM
    """

    tokenizer: Tokenizer
    rate: float
    suffix_first: float

    def rearranged(self, window: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Return a window with some of its texts rearranged.

        A text never grows beyond the window: its end goes first, then its parts are cut.

        Args:
            window: token numbers int64 [T], documents between end tokens
            draw: decides which texts, and where they are cut

        Returns:
            int64 [T]; IGNORED behind texts that became shorter.
        """
        end = self.tokenizer.end_id
        bounds = [-1, *np.flatnonzero(window == end).tolist(), len(window)]
        parts = list[np.ndarray]()
        used = 0
        for before, stop in pairwise(bounds):
            text = window[before + 1 : stop]
            left = len(window) - used
            if self._takes(text, left) and draw.random() < self.rate:
                part = self._rearrange(text[: left - MARGIN], draw)
            else:
                part = window[before + 1 : stop + 1]
            parts.append(part)
            used += len(part)
        full = np.full(len(window), IGNORED, dtype=np.int64)
        tokens = np.concatenate(parts)[: len(window)]
        full[: len(tokens)] = tokens
        return full

    def _takes(self, text: np.ndarray, left: int) -> bool:
        """Whether a text can be rearranged: not one of turns, nor one too short."""
        if min(len(text), left - MARGIN) < SHORTEST:
            return False
        return not np.isin(text, self._never_cut).any()

    @property
    def _never_cut(self) -> list[int]:
        """What stands in no plain text: special tokens, and the end of the data."""
        ids = (self.tokenizer.backend.token_to_id(token) for token in SPECIALS)
        return [IGNORED, *(number for number in ids if number is not None)]

    def _rearrange(self, text: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """One text as prefix, suffix and middle, int64 [tokens]."""
        characters = self.tokenizer.decode(text)
        first, second = np.sort(draw.integers(0, len(characters) + 1, 2)).tolist()
        prefix, middle, suffix = self.tokenizer.encode_batch(
            [
                [characters[:first]],
                [characters[first:second]],
                [characters[second:]],
            ]
        )
        to_prefix, to_suffix, to_middle = (
            np.array([self.tokenizer.backend.token_to_id(token)])
            for token in FILL_TOKENS
        )
        end = np.array([self.tokenizer.end_id])
        if draw.random() < self.suffix_first:
            parts = [to_prefix, to_suffix, suffix, to_middle, prefix, middle, end]
        else:
            parts = [to_prefix, prefix, to_suffix, suffix, to_middle, middle, end]
        return np.concatenate(parts)
