"""Models that read a source as a whole and then write: the third kind that the native
engine steps.

The source is read once; its keys and values stay as they are while the answer's grow by
a token a step. Rows of unlike length end at the same column, as in decoders.py; sources
begin at the same one, and what is behind a shorter one is masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.errors import ContextExceeded, Unsupported
from miaobi.core.language import say
from miaobi.data.text.pairs import language_token, tagged
from miaobi.engines.text.tokenizer import Tokenizer
from miaobi.families.seq2seq import EncoderDecoder, Source
from miaobi.nn.attention import KeysValues, padding_mask

if TYPE_CHECKING:
    import tokenizers


class SourceTokenizer(Tokenizer):
    """Encodes sources: the token of the wanted language, the text, the end token."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, net: EncoderDecoder) -> None:
        super().__init__(tokenizer)
        self.spec = net.spec

    def encode(self, text: str, special: bool) -> list[int]:
        """Return token ids; with `special` those of a source, else of the text alone.

        Raises BadInput for an unknown language and for an empty text; ContextExceeded
        for one that is too long.
        """
        if not special:
            return super().encode(text, special=False)
        language, text = tagged(text, self.spec.languages)
        if language:
            text = language_token(language) + text
        ids = super().encode(text, special=True)
        longest = self.spec.source_length
        if len(ids) > longest:
            raise ContextExceeded(
                say(
                    f"The text has {len(ids)} tokens; this model reads {longest} at most.",
                    f"文本共 {len(ids)} 个词元；此模型最多读取 {longest} 个。",
                ),
                say("Give it sentence by sentence.", "请逐句给出。"),
            )
        return ids


@dataclass
class EncoderDecoderState:
    """The state of R rows."""

    own: list[KeysValues]
    """Of the answers, for every block: [R, heads, width, D], padded on the left."""
    source: Source
    """Of the texts, for every block: [R, heads, S, D], padded on the right."""
    ages: list[int]
    """Tokens of each answer, the one it begins with included."""
    texts: list[int]
    """Which text each row answers: rows of one text share what was read."""
    lengths: list[int]
    """Tokens of the source of each row."""


class EncoderDecoderDecoder:
    """A `seq2seq` model as a Decoder: prompts are sources."""

    joins = True
    draws = False

    def __init__(self, model: EncoderDecoder) -> None:
        self.model = model
        self.device = next(model.parameters()).device

    def prefill(
        self, prompts: list[list[int]], adapters: list[str], seeds: list[int]
    ) -> tuple[Tensor, EncoderDecoderState]:
        spec = self.model.spec
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        padded = [prompt + [spec.pad_id] * (width - len(prompt)) for prompt in prompts]
        sources = torch.tensor(padded, device=self.device)
        source = self.model.encode(sources, torch.tensor(lengths, device=self.device))
        source = Source(source.keys_values, self._source_mask(lengths, width))
        starts = torch.full((len(prompts), 1), spec.pad_id, device=self.device)
        decoded = self.model.decode(starts, source)
        count = len(prompts)
        state = EncoderDecoderState(
            decoded.keys_values, source, [1] * count, list(range(count)), lengths
        )
        return decoded.logits[:, -1].float(), state

    def _source_mask(self, lengths: list[int], width: int) -> Tensor | None:
        """Where queries may look in the sources; None where no row has padding."""
        if min(lengths) == width:
            return None
        return padding_mask(torch.tensor(lengths, device=self.device), width)

    def step(
        self, tokens: Tensor, state: EncoderDecoderState
    ) -> tuple[Tensor, EncoderDecoderState]:
        width = state.own[0][0].shape[2] + 1
        ages = torch.tensor(state.ages, device=self.device)
        mask = None
        if min(state.ages) + 1 < width:
            columns = torch.arange(width, device=self.device)
            mask = (columns >= width - 1 - ages[:, None])[:, None, None]
        decoded = self.model.decode(
            tokens.to(self.device)[:, None],
            state.source,
            state.own,
            positions=ages[:, None],
            mask=mask,
        )
        state.own = decoded.keys_values
        state.ages = [age + 1 for age in state.ages]
        return decoded.logits[:, -1].float(), state

    def select(
        self, state: EncoderDecoderState, rows: list[int]
    ) -> EncoderDecoderState:
        index = torch.tensor(rows, device=self.device)
        ages = [state.ages[row] for row in rows]
        unused = state.own[0][0].shape[2] - max(ages)
        state.own = [
            (keys[index, :, unused:], values[index, :, unused:])
            for keys, values in state.own
        ]
        state.ages = ages
        texts = [state.texts[row] for row in rows]
        if texts != state.texts:
            state.lengths = [state.lengths[row] for row in rows]
            width = max(state.lengths)
            state.source = Source(
                [
                    (keys[index, :, :width], values[index, :, :width])
                    for keys, values in state.source.keys_values
                ],
                self._source_mask(state.lengths, width),
            )
            state.texts = texts
        return state

    def join(
        self, first: EncoderDecoderState, second: EncoderDecoderState
    ) -> EncoderDecoderState:
        own_width = max(state.own[0][0].shape[2] for state in (first, second))
        width = max(*first.lengths, *second.lengths)
        own = [
            _stacked(pair, own_width, left=True)
            for pair in zip(first.own, second.own, strict=True)
        ]
        read = zip(first.source.keys_values, second.source.keys_values, strict=True)
        source = [_stacked(pair, width, left=False) for pair in read]
        lengths = first.lengths + second.lengths
        later = [max(first.texts) + 1 + text for text in second.texts]
        return EncoderDecoderState(
            own,
            Source(source, self._source_mask(lengths, width)),
            first.ages + second.ages,
            first.texts + later,
            lengths,
        )

    def score(self, ids: list[int]) -> Iterator[Tensor]:
        raise Unsupported(
            say(
                "A model that translates has no probability for a text alone.",
                "翻译模型无法给出单独一段文本的概率。",
            ),
            say(
                "miaobi evaluate compares what it writes with references.",
                "miaobi evaluate 会把它的输出与参考文本比较。",
            ),
        )


def _stacked(pair: tuple[KeysValues, KeysValues], width: int, left: bool) -> KeysValues:
    """The keys and values of two states, widened to the same width."""
    keys, values = (
        torch.cat([_widened(part, width, left) for part in parts])
        for parts in zip(*pair, strict=True)
    )
    return keys, values


def _widened(part: Tensor, width: int, left: bool) -> Tensor:
    missing = width - part.shape[2]
    return F.pad(part, (0, 0, missing, 0) if left else (0, 0, 0, missing))
