"""What the embedding engine does: texts become token ids, batches of them vectors of length one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import torch

from miaobi.core.artifacts import Embedding, Facts
from miaobi.core.engine import Abilities, Chunk, Weights, accepted
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import EmbeddingRequest, Request
from miaobi.engines.worker import Send, Worker
from miaobi.models.base import open_base
from miaobi.models.tuned import open_tuned
from miaobi.tune.saved import learner_of
from miaobi.tune.tasks import embedding
from miaobi.tune.text.heads import ids_of

TOGETHER = 64
"""Texts of one batch; whoever left is noticed between two."""
LONGEST = 8192
"""Tokens of a text, for encoders that know no end."""


class EmbeddingEngine:
    modality = "embedding"

    def __init__(self, weights: Weights, abilities: Abilities) -> None:
        self.name, self.abilities = weights.name, abilities
        learner: Any
        if weights.format == "base":
            learner = embedding.learner(open_base(weights.name), {}, embedding.Config())
            learner.eval()
        else:
            learner = learner_of(open_tuned(weights))
        self._learner = learner
        self._room = learner.room or LONGEST
        self._worker = Worker("embedding")

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        asked = accepted(request, EmbeddingRequest, self.abilities, "embedding")
        async with aclosing(
            self._worker.stream(lambda send: self._answer(asked, send))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _answer(self, asked: EmbeddingRequest, send: Send) -> None:
        lengths = [
            len(ids_of(self._learner.tokenizer, text, "", 0)) for text in asked.texts
        ]
        for place, length in enumerate(lengths):
            if length > self._room:
                raise BadInput(
                    say(
                        f"Text {place} has {length} tokens; {self.name} holds {self._room}.",
                        f"第 {place} 段文本有 {length} 个词元；{self.name} 最多容纳 {self._room} 个。",
                    ),
                    say("Cut it into shorter pieces.", "请把它切成更短的段落。"),
                )
        send(Chunk(prompt_tokens=sum(lengths)))
        found = list[np.ndarray]()
        with torch.inference_mode():
            for start in range(0, len(asked.texts), TOGETHER):
                features = [
                    self._learner.encode({"text": text}, self._room)
                    for text in asked.texts[start : start + TOGETHER]
                ]
                found.append(
                    self._learner.vectors(self._learner.collate(features)).numpy()
                )
                send(
                    Chunk(
                        progress=min(start + TOGETHER, len(asked.texts))
                        / (len(asked.texts) + 1)
                    )
                )
        send(
            Chunk(
                finish="stop",
                artifact=Embedding(
                    np.concatenate(found).astype(np.float32, copy=False),
                    Facts(model=self.name, engine="embedding"),
                ),
            )
        )

    def close(self) -> None:
        self._worker.close()
