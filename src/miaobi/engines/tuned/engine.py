"""What the tuned engine does: a request becomes the columns of one question, and the
learner answers it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.engine import Abilities, Chunk, accepted
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, Request, TextRequest
from miaobi.engines.text.tokenizer import Tokenizer
from miaobi.engines.worker import Send, Worker
from miaobi.models.tuned import Tuned
from miaobi.tune.saved import learner_of, task_of

UNLIMITED = 1_000_000
"""The context length, in tokens, of models that do not say how many they hold."""


class TunedEngine:
    """A tuned model that is asked in its task's own form."""

    takes = TextRequest
    chats = False

    def __init__(self, tuned: Tuned) -> None:
        self.tuned = tuned
        self.takes_images = task_of(tuned).MODALITY == ImageRequest.makes
        controls = {"seed", "prompt"}
        if self.takes_images:
            controls.add("image")
        self.abilities = Abilities(frozenset(controls))
        self.learner = learner_of(tuned)
        limit = tuned.config.get("max_position_embeddings")
        self.context_length = int(limit or UNLIMITED)
        self._worker = Worker("tuned")

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        text_request = accepted(request, TextRequest, self.abilities, "tuned")
        columns = self.columns(text_request)
        async with aclosing(
            self._worker.stream(lambda send: self._answer(columns, send))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _answer(self, columns: Mapping[str, Any], send: Send) -> None:
        texts = list(chain.from_iterable(map(_texts, columns.values())))
        send(Chunk(prompt_tokens=sum(self._count_tokens(text) for text in texts)))
        answer = self.learner.answer(columns)
        if not isinstance(answer, str):
            answer = json.dumps(answer, ensure_ascii=False)
        send(Chunk(text=answer, tokens=self._count_tokens(answer), finish="stop"))

    def _count_tokens(self, text: str) -> int:
        """Tokens of the text itself, without the marks that a task puts around it."""
        if self._tokenizer is None:
            return 0
        return len(self._tokenizer.encode(text, special=False))

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        """None for models that read no text."""
        folders = [self.tuned.folder]
        if self.tuned.adapter:
            folders.append(self.tuned.base.folder)
        for folder in folders:
            path = folder / "tokenizer.json"
            if path.exists():
                return Tokenizer.from_file(path)
        return None

    def columns(self, request: TextRequest) -> Mapping[str, Any]:
        """Return the question in the task's own terms.

        Raises BadInput, naming what the task is asked with.
        """
        if request.image is not None:
            columns = _image_columns(request.image)
            return {**columns, **(_json_object(request.prompt or "") or {})}
        if self.takes_images:
            raise BadInput(
                say(
                    f"{self.tuned.label} is asked about a picture.",
                    f"{self.tuned.label} 需要一张图片。",
                ),
                "--image photo.png",
            )
        question = _json_object(request.prompt or "")
        if question is not None and set(self._names) <= set(question):
            return question
        if len(self._names) > 1:
            example = json.dumps(dict.fromkeys(self._names, "..."), ensure_ascii=False)
            raise BadInput(
                say(
                    f"{self.tuned.label} is asked with {', '.join(self._names)}.",
                    f"{self.tuned.label} 的提问需包含 {'、'.join(self._names)}。",
                ),
                say(
                    f"Give the prompt as JSON: {example}",
                    f"请以 JSON 给出提示：{example}",
                ),
            )
        return {self._names[0]: request.prompt}

    @cached_property
    def _names(self) -> list[str]:
        """The columns of a question, as the task's example has them.

        The example is written for the task's usual head, whatever this one is.
        """
        task = task_of(self.tuned)
        columns = task.columns(json.loads(task.EXAMPLE), task.Config())
        return list(task.question(columns))

    def close(self) -> None:
        self._worker.close()


def _texts(value: Any) -> list[str]:
    """The texts of a column: one, several, or none."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _json_object(prompt: str) -> dict[str, Any] | None:
    """A prompt that is a JSON object; None for any other text."""
    try:
        value = json.loads(prompt)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _image_columns(image: Path | np.ndarray) -> Mapping[str, Any]:
    """The columns that every task about images reads, of a file or of pixels.

    Raises BadInput for what is no image.
    """
    if not isinstance(image, Path):
        height, width = image.shape[:2]
        return {"image": image, "width": width, "height": height}
    from miaobi.data.labelled.images import picture_check

    with picture_check() as check:
        columns = check(image)
    if "problem" in columns:
        what, remedy = columns["problem"]
        raise BadInput(f"{image}: {what}", remedy)
    return columns
