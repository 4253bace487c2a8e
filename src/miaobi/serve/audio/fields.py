"""The fields of /v1/audio/speech, OpenAI's, and the request that they become."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.serve.settings import Limits
from miaobi.serve.text.fields import Closed, GenerationFields, Name, within

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ENDINGS = {
    "mp3": ".mp3",
    "opus": ".opus",
    "aac": ".aac",
    "flac": ".flac",
    "wav": ".wav",
    "pcm": ".pcm",
}
PCM_RATE = 24_000
"""Hz of pcm, which has no header to say it: OpenAI's."""


class VoiceId(Closed):
    """A voice by its name, as OpenAI's clients send one."""

    id: str = Field(min_length=1, max_length=1000)


class Speech(GenerationFields):
    """A text to read aloud.

    voice: a name, several mixed by weight ("af_heart:0.7+zf_xiaoxiao:0.3", or an object
    of names and weights), or {"id": name}; without it one that suits the text.
    stream_format: audio sends the file while it is made, sse sends events.
    """

    model: Name
    input: str
    voice: str | VoiceId | dict[str, Weight] | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: float | None = Field(None, ge=0.25, le=4)
    instructions: str | None = None
    stream_format: Literal["audio", "sse"] | None = None
    user: str | None = Field(None, max_length=512)

    @property
    def ending(self) -> str:
        return ENDINGS[self.response_format or "mp3"]

    @property
    def mixture(self) -> str:
        """The voice as a `SpeechRequest` has it; empty where none is named."""
        if isinstance(self.voice, VoiceId):
            return self.voice.id
        if isinstance(self.voice, dict):
            return "+".join(f"{name}:{share}" for name, share in self.voice.items())
        return self.voice or ""

    def check(self, limits: Limits) -> None:
        """Raise ApiError for a text that is too long, Unsupported for instructions."""
        within("input", len(self.input), limits.speech_characters)
        if self.instructions:
            raise Unsupported(
                say(
                    "The voices here take no instructions.",
                    "此处的语音不支持 instructions。",
                ),
                say(
                    "Leave instructions out; speed, pauses and mixed voices change how it sounds.",
                    "请去掉 instructions；可用 speed、停顿与混合声音来调整效果。",
                ),
                field="instructions",
            )
