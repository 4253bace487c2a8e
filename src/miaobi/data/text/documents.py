"""What every source of text yields, and how each shape of it becomes the text a
language model learns.

Plain text is learned as it is. A prompt and its completion are joined as they are
(OpenAI's and TRL's meaning of that shape). Messages are written in ChatML, the form
SmolLM2 and Qwen use, so that what is trained here from scratch can be tuned for chat
later:

    <|im_start|>role⏎content<|im_end|>⏎
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"


class Message(NamedTuple):
    role: str
    """"system", "user", "assistant" or "tool"."""
    content: str


class Special(str):
    """A piece of training text that is one special token. Plain text that merely looks
    like one never is.
    """


class Work(NamedTuple):
    """What several documents are parts of, such as a package of sources."""

    name: str
    version: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Document:
    """One thing to learn from: text, or a prompt with its completion, or messages."""

    text: str = ""
    """Plain text; for a prompt/completion pair, the completion."""
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    """File and line, and the source's own columns (title, author, label)."""
    continues: bool = False
    """The next document yielded is the next part of this one: how a file larger than
    memory passes through.
    """
    work: Work | None = None
    """What it is a part of: all its documents go to one split, and its licence is kept
    with the prepared data and the model.
    """
    only: str = ""
    """The task of fine-tuning that alone may learn this: answers that people judged, or
    turns that are only to be read. Empty for what any model may learn.
    """
    unused: frozenset[str] = frozenset()
    """Keys of the record that nothing was made of."""
    only_chat: frozenset[str] = frozenset()
    """Keys that only fine-tuning for chat makes something of: tools, thoughts."""

    def pieces(self) -> list[str]:
        """Return the training text in order; pieces of class Special are special tokens."""
        if not self.messages:
            return [self.prompt + self.text]
        pieces = list[str]()
        for role, content in self.messages:
            turn = f"{role}\n{content}"
            pieces += [Special(TURN_START), turn, Special(TURN_END), "\n"]
        return pieces

    def training_text(self) -> str:
        return "".join(self.pieces())
