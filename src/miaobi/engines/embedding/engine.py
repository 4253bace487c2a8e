"""What the embedding engine does: texts become token ids, and batches of them vectors
of length one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

import numpy as np
import torch

from miaobi.core.artifacts import Embedding, Facts
from miaobi.core.engine import Abilities, Chunk, Weights, accepted, check_token_ids
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import EmbeddingRequest, Request
from miaobi.engines.worker import Send, Worker
from miaobi.models.base import open_base
from miaobi.models.tuned import open_tuned
from miaobi.tune.heads import EmbeddingHead
from miaobi.tune.saved import learner_of
from miaobi.tune.tasks import embedding
from miaobi.tune.text.heads import ids_of

BATCH = 64
"""Texts encoded together; a request that was left is noticed between two batches."""

MAX_TOKENS = 8192
"""Of a text, for encoders without a limit of their own."""


class EmbeddingEngine:
    """An encoder of texts on the CPU."""

    takes = EmbeddingRequest

    def __init__(self, weights: Weights, abilities: Abilities) -> None:
        self.name = weights.name
        self.abilities = abilities
        self._learner = _learner(weights)
        self._max_tokens = self._learner.max_tokens or MAX_TOKENS
        self._worker = Worker("embedding")

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        texts = accepted(request, EmbeddingRequest, self.abilities, "embedding").texts
        async with aclosing(
            self._worker.stream(lambda send: self._answer(texts, send))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    @property
    def bos_token(self) -> str | None:
        return cast(str | None, self._learner.tokenizer.bos_token)

    @property
    def eos_token(self) -> str | None:
        return cast(str | None, self._learner.tokenizer.eos_token)

    def tokenize(self, request: Request, special: bool = True) -> list[int]:
        text = request.texts[0] if isinstance(request, EmbeddingRequest) else ""
        encoded = self._learner.tokenizer(text, add_special_tokens=special)
        return list(encoded.input_ids)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without those that the model adds itself."""
        check_token_ids(ids, len(self._learner.tokenizer))
        return str(self._learner.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _answer(self, texts: tuple[str, ...], send: Send) -> None:
        send(Chunk(prompt_tokens=self._count_tokens(texts)))
        vectors: list[np.ndarray] = []
        for start in range(0, len(texts), BATCH):
            vectors.append(self._encode(texts[start : start + BATCH]))
            done = min(start + BATCH, len(texts))
            send(Chunk(progress=done / (len(texts) + 1)))
        embedding_artifact = Embedding(
            np.concatenate(vectors).astype(np.float32, copy=False),
            Facts(model=self.name, engine="embedding"),
        )
        send(Chunk(finish="stop", artifact=embedding_artifact))

    def _count_tokens(self, texts: tuple[str, ...]) -> int:
        """Tokens of all texts. Raises BadInput for a text that is too long."""
        total = 0
        for index, text in enumerate(texts):
            length = len(ids_of(self._learner.tokenizer, text, "", 0))
            if length > self._max_tokens:
                raise BadInput(
                    say(
                        f"Text {index} has {length} tokens; {self.name} holds {self._max_tokens}.",
                        f"第 {index} 段文本有 {length} 个词元；{self.name} 最多容纳 {self._max_tokens} 个。",
                    ),
                    say("Cut it into shorter pieces.", "请把它切成更短的段落。"),
                )
            total += length
        return total

    @torch.inference_mode()
    def _encode(self, texts: tuple[str, ...]) -> np.ndarray:
        """The vectors [B, D] of one batch."""
        features = [
            self._learner.encode({"text": text}, self._max_tokens) for text in texts
        ]
        return self._learner.vectors(self._learner.collate(features)).numpy()

    def close(self) -> None:
        self._worker.close()


def _learner(weights: Weights) -> embedding.Embedder:
    """The task's learner, which tokenises and encodes."""
    if weights.format != "base":
        return cast(embedding.Embedder, learner_of(open_tuned(weights)))
    learner = embedding.learner(open_base(weights.family), {}, EmbeddingHead())
    learner.eval()
    return learner
