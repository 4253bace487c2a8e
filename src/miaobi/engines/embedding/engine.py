"""What the embedding engine does: texts become token ids, sorted by their lengths, and
batches of them vectors of length one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np

from miaobi.core.artifacts import Embedding, Facts
from miaobi.core.engine import Abilities, Chunk, Weights, accepted, check_token_ids
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import EmbeddingRequest, Request
from miaobi.engines.embedding.encoder import open_encoder, source_of
from miaobi.engines.worker import Send, Worker
from miaobi.tune.tasks.embedding import prompted
from miaobi.tune.text.heads import padding_of

BATCH_TOKENS = 512
"""Tokens encoded together, padding included: what they need fits a processor's cache. A
request that was left is noticed between two batches.
"""
MAX_TOKENS = 8192
"""Of a text, for encoders without a limit of their own."""


class Rows(NamedTuple):
    """Texts as token ids."""

    ids: list[list[int]]
    owners: list[int]
    """By row, the text that it is, or is a piece of."""
    truncated: int
    """Texts that lost their end."""


class EmbeddingEngine:
    """An encoder of texts on the CPU."""

    takes = EmbeddingRequest

    def __init__(
        self, weights: Weights, abilities: Abilities, threads: int, dtype: str
    ) -> None:
        self.name = weights.name
        self._source = source_of(weights)
        self.abilities = abilities
        if not self._source.prompts:
            controls = abilities.controls - {"input_type"}
            self.abilities = replace(abilities, controls=controls)
        self._tokenizer = self._source.tokenizer
        self._max_tokens = self._source.max_tokens or MAX_TOKENS
        self._encoder = open_encoder(self._source, threads, dtype)
        self._worker = Worker("embedding")

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        embedding_request = accepted(
            request, EmbeddingRequest, self.abilities, "embedding"
        )
        async with aclosing(
            self._worker.stream(lambda send: self._answer(embedding_request, send))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    @property
    def bos_token(self) -> str | None:
        return cast(str | None, self._tokenizer.bos_token)

    @property
    def eos_token(self) -> str | None:
        return cast(str | None, self._tokenizer.eos_token)

    def tokenize(self, request: Request, special: bool = True) -> list[int]:
        text = request.texts[0] if isinstance(request, EmbeddingRequest) else ""
        return list(self._tokenizer(text, add_special_tokens=special).input_ids)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without those that the model adds itself."""
        check_token_ids(ids, len(self._tokenizer))
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _answer(self, request: EmbeddingRequest, send: Send) -> None:
        rows = self._rows(request)
        send(Chunk(prompt_tokens=sum(map(len, rows.ids))))
        sums: np.ndarray | None = None
        done = 0
        for batch in batches([len(row) for row in rows.ids]):
            vectors = self._encode([rows.ids[row] for row in batch])
            if sums is None:
                sums = np.zeros((len(request.texts), vectors.shape[1]), np.float32)
            for row, vector in zip(batch, vectors, strict=True):
                sums[rows.owners[row]] += vector * len(rows.ids[row])
            done += len(batch)
            send(Chunk(progress=done / (len(rows.ids) + 1)))
        assert sums is not None, "a request has a text"
        vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        parameters = {"truncated": rows.truncated} if rows.truncated else {}
        facts = Facts(model=self.name, engine="embedding", parameters=parameters)
        send(Chunk(finish="stop", artifact=Embedding(vectors, facts)))

    def _rows(self, request: EmbeddingRequest) -> Rows:
        """Return the token ids of all texts. Raises BadInput for one that is too long."""
        kind = request.input_type or "passage"
        texts = [prompted(text, kind, self._source.prompts) for text in request.texts]
        # Of a base without special tokens an empty text has no token at all.
        padding = [padding_of(self._tokenizer)]
        all_ids = self._tokenizer(texts, verbose=False).input_ids
        rows = Rows([], [], 0)
        truncated = 0
        for index, ids in enumerate(all_ids):
            pieces = [ids or padding]
            if len(ids) > self._max_tokens:
                if request.too_long == "error":
                    raise self._too_long(index, len(ids))
                pieces = self._pieces(texts[index])
                if request.too_long == "truncate":
                    pieces = pieces[:1]
                    truncated += 1
            rows.ids.extend(pieces)
            rows.owners.extend([index] * len(pieces))
        return rows._replace(truncated=truncated)

    def _pieces(self, text: str) -> list[list[int]]:
        """Return the ids of a long text in pieces that the model holds."""
        encoded = self._tokenizer(
            text,
            truncation=True,
            max_length=self._max_tokens,
            return_overflowing_tokens=True,
        )
        return list(encoded.input_ids)

    def _too_long(self, index: int, length: int) -> BadInput:
        return BadInput(
            say(
                f"Text {index} has {length} tokens; {self.name} holds {self._max_tokens}.",
                f"第 {index} 段文本有 {length} 个词元；{self.name} 最多容纳 {self._max_tokens} 个。",
            ),
            say(
                "Cut it into shorter pieces, or set too_long to truncate or split.",
                "请把它切成更短的段落，或将 too_long 设为 truncate 或 split。",
            ),
            field="too_long",
        )

    def _encode(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The vectors [B, D] of one batch."""
        shape = (len(rows), max(map(len, rows)))
        ids = np.full(shape, padding_of(self._tokenizer), np.int64)
        mask = np.zeros(shape, np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return self._encoder(ids, mask)

    def close(self) -> None:
        self._worker.close()


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indices of rows in batches of similar length, the longest first, so that
    memory is claimed at once; BATCH_TOKENS each at most, or one row.
    """
    batch = list[int]()
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for row in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
