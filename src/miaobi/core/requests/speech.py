"""Requests for speech: a text read aloud by a voice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from miaobi.core.artifacts import Audio
from miaobi.core.requests.base import Request, between


@dataclass(frozen=True, kw_only=True)
class SpeechRequest(Request):
    """Read `prompt` aloud.

    A text may hold pauses, [pause:0.5s] or <break time="500ms"/>, and words with their
    sounds, [Kokoro](/kˈOkəɹO/).
    """

    makes: ClassVar[str] = "audio"
    client_methods = "audio.speech.create"
    answer = Audio
    example = "--prompt ..."
    asks = frozenset({"prompt"})

    prompt: str = ""
    """What to read aloud."""
    voice: str = ""
    """Who reads: a name, or several mixed by weight ("af_heart:0.7+zf_xiaoxiao:0.3"). By
    default one that suits the language of the text.
    """
    speed: float = between(0.25, 4, 1.0)
    """How fast: 2 takes half the time."""

    @classmethod
    def of(cls, ask: Any, model: Any, *, raw: bool = False, **controls: Any) -> Self:
        """Return the request for a text."""
        if raw or not isinstance(ask, str | None):
            raise cls.wrong_ask(ask, model.name)
        if ask:
            controls = {"prompt": ask} | controls
        return cls(**controls)

    def parameters(self) -> dict[str, Any]:
        """Return what facts record: the text, and the controls."""
        return {"prompt": self.prompt} | super().parameters()
