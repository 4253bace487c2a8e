"""What the tuned engine does: a request becomes the columns of one question, and the
learner answers it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import cached_property
from pathlib import Path
from typing import Any

from miaobi.core.engine import Abilities, Chunk, accepted
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import Request, TextRequest
from miaobi.engines.text.tokenizer import Tokenizer
from miaobi.engines.worker import Send, Worker
from miaobi.models.tuned import Tuned
from miaobi.tune.saved import learner_of, task_of

LONG = 1_000_000
"""Tokens, for models that do not say how many they hold."""


class TunedEngine:
    modality, chats = "text", False

    def __init__(self, tuned: Tuned) -> None:
        self.tuned, self.pictures = tuned, task_of(tuned).MODALITY == "image"
        self.abilities = Abilities(
            frozenset({"seed", "prompt"} | ({"image"} if self.pictures else set()))
        )
        self.learner = learner_of(tuned)
        self.context_length = int(tuned.config.get("max_position_embeddings") or LONG)
        self._worker = Worker("tuned")

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        asked = accepted(request, TextRequest, self.abilities, "tuned")
        columns = self.columns(asked)
        async with aclosing(
            self._worker.stream(lambda send: self._answer(columns, send))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _answer(self, columns: Mapping[str, Any], send: Send) -> None:
        send(
            Chunk(
                prompt_tokens=sum(
                    self._tokens(value)
                    for value in columns.values()
                    if isinstance(value, str)
                )
            )
        )
        found = self.learner.answer(columns)
        text = (
            found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        )
        send(Chunk(text=text, tokens=self._tokens(text), finish="stop"))

    def _tokens(self, text: str) -> int:
        """What is counted for those who ask: tokens of the texts themselves, without
        the marks that a task puts between them.
        """
        return (
            len(self._tokenizer.encode(text, special=False))
            if self._tokenizer is not None
            else 0
        )

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        """None for models that read no text."""
        folders = [
            self.tuned.folder,
            *([self.tuned.base.folder] if self.tuned.adapter else []),
        ]
        return next(
            (
                Tokenizer.from_file(folder / "tokenizer.json")
                for folder in folders
                if (folder / "tokenizer.json").exists()
            ),
            None,
        )

    def columns(self, request: TextRequest) -> Mapping[str, Any]:
        """The question in the task's own terms. Raises BadInput, naming what the task
        is asked with.
        """
        if request.image is not None:
            return {
                **_picture(request.image),
                **(_record(request.prompt) or {} if request.prompt else {}),
            }
        if self.pictures:
            raise BadInput(
                say(
                    f"{self.tuned.label} is asked about a picture.",
                    f"{self.tuned.label} 需要一张图片。",
                ),
                "--image photo.png",
            )
        record = _record(request.prompt or "")
        if record is not None and set(self._names) <= set(record):
            return record
        if len(self._names) > 1:
            shown = json.dumps(dict.fromkeys(self._names, "..."), ensure_ascii=False)
            raise BadInput(
                say(
                    f"{self.tuned.label} is asked with {', '.join(self._names)}.",
                    f"{self.tuned.label} 的提问需包含 {'、'.join(self._names)}。",
                ),
                say(
                    f"Give the prompt as JSON: {shown}", f"请以 JSON 给出提示：{shown}"
                ),
            )
        return {self._names[0]: request.prompt}

    @cached_property
    def _names(self) -> list[str]:
        """The columns of a question, as the task's example shows them; it is written
        for the task's usual head, whatever this one is.
        """
        task = task_of(self.tuned)
        return list(
            task.question(task.columns(json.loads(task.EXAMPLE), task.Config()))
        )

    def close(self) -> None:
        self._worker.close()


def _record(prompt: str) -> dict[str, Any] | None:
    """A prompt that is a JSON object; None for any other text."""
    try:
        found = json.loads(prompt)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _picture(path: Path) -> Mapping[str, Any]:
    """The columns that every task about pictures reads. Raises BadInput for what is no picture."""
    from miaobi.data.labelled.images import picture_check

    with picture_check() as check:
        found = check(path)
    if "problem" in found:
        what, remedy = found["problem"]
        raise BadInput(f"{path}: {what}", remedy)
    return found
