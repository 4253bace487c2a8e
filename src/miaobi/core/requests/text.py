"""Requests for text: continue a prompt, answer a conversation, describe a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from miaobi.core.artifacts import Text
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests.base import Request, between, same_fields

NEUTRAL_CUTS = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
"""Settings of sampling that leave every candidate: the only ones that beam search takes."""


class Writes(Protocol):
    """What a request for text needs to know of the open model."""

    @property
    def name(self) -> str: ...

    @property
    def chats(self) -> bool:
        """Whether it answers messages, and does not only continue texts."""
        ...

    @property
    def bos_token(self) -> str:
        """The text that begins a document; empty where nothing does."""
        ...


@dataclass(frozen=True, kw_only=True)
class TextRequest(Request):
    """Continue `prompt`, or answer the last of `messages` (OpenAI's shape) through the
    model's chat template.

    Order of the controls, as in the field: penalties, bans and biases on the logits;
    temperature; then top_k, typical_p, top_p, min_p cut the candidates. temperature 0
    is greedy.
    """

    makes: ClassVar[str] = "text"
    client_methods = "chat.completions.create, completions.create"
    answer = Text
    example = "--prompt ..."
    asks = frozenset({"prompt", "prompt_ids", "messages", "suffix"})

    prompt: str | None = None
    """Text to continue, as it stands."""
    prompt_ids: tuple[int, ...] | None = None
    """The text to continue, as token ids of the model."""
    messages: tuple[Mapping[str, Any], ...] | None = None
    """A conversation: {"role": "user", "content": "..."} and so on."""
    suffix: str | None = None
    """What stands behind the text that is to be written: the model fills in between
    `prompt` and this, where it was trained to (Bavarian et al. 2022, arXiv:2207.14255).
    """
    continue_final_message: bool = False
    """Go on with the last of `messages`, the assistant's, as if it had not ended."""
    max_new_tokens: int = between(1, 1_000_000, 256)
    """Stop after this many tokens."""
    min_new_tokens: int = between(0, 1_000_000, 0)
    """Do not end before this many tokens."""
    temperature: float = between(0, 10, 1.0)
    """Below 1 safer, above 1 wilder, 0 always the likeliest token."""
    top_k: int = between(0, 1_000_000, 0)
    """Draw from the k likeliest tokens; 0 for all."""
    top_p: float = between(1e-9, 1, 1.0)
    """Draw from the likeliest tokens that together hold this probability (Holtzman et
    al. 2020, arXiv:1904.09751).
    """
    min_p: float = between(0, 1, 0.0)
    """Drop tokens below this fraction of the likeliest one's probability (Nguyen et al.
    2024, arXiv:2407.01082).
    """
    typical_p: float = between(1e-9, 1, 1.0)
    """Draw from the locally typical tokens that hold this probability (Meister et al.
    2022, arXiv:2202.00666).
    """
    repetition_penalty: float = between(0.01, 10, 1.0)
    """Above 1 makes tokens that were seen less likely (Keskar et al. 2019, arXiv:1909.05858)."""
    presence_penalty: float = between(-2, 2, 0.0)
    """Taken off the logit of every token already generated."""
    frequency_penalty: float = between(-2, 2, 0.0)
    """Taken off the logit once for every time a token was generated."""
    no_repeat_ngram_size: int = between(0, 1000, 0)
    """No n-gram of this length twice; 0 for no limit."""
    stop: tuple[str, ...] = ()
    """End before any of these strings."""
    num_beams: int = between(1, 64, 1)
    """Above 1: beam search for the likeliest text, without sampling."""
    length_penalty: float = between(-10, 10, 1.0)
    """For beam search: texts are ranked by log-probability / length ** this. Above 1
    prefers longer ones, below 1 shorter ones.
    """
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id to a number added to its logit; -100 bans, 100 forces."""
    logprobs: int | None = between(0, 20, None)
    """Report each token's log-probability and those of this many likeliest tokens."""
    json_schema: Mapping[str, Any] | None = None
    """Answer with JSON of this schema."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the model may call, in OpenAI's shape; its chat template presents
    them. A call comes as text.
    """
    image: Path | None = None
    """A picture to describe: its class, its boxes, a caption. Replaces `prompt`
    where there is no question. A file, or in Python also its pixels, uint8 [H, W, C].
    """
    adapter: str | None = None
    """Which of the adapters answers that the model was opened with; the base by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.image, str):
            object.__setattr__(self, "image", Path(self.image).expanduser())
        asks = [self.prompt, self.prompt_ids, self.messages]
        given = sum(ask is not None for ask in asks)
        only_image = self.image is not None and self.messages is None
        if given != 1 and not (only_image and given < 2):
            raise BadInput(
                say(
                    "Give either prompt or messages.",
                    "请在 prompt 与 messages 中给出一个。",
                ),
                say(
                    "prompt or prompt_ids continues a text; messages holds a conversation; image is to be described.",
                    "prompt 或 prompt_ids 用于续写，messages 用于对话，image 用于就图片提问。",
                ),
            )
        if self.suffix is not None and self.prompt is None:
            raise BadInput(
                say(
                    "suffix stands behind a prompt, and there is none.",
                    "suffix 位于 prompt 之后，但没有给出 prompt。",
                ),
                say(
                    "Give what stands before it as prompt, which may be empty.",
                    "请用 prompt 给出它之前的文本，可以为空。",
                ),
                field="suffix",
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise BadInput(
                say(
                    f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens ({self.max_new_tokens}).",
                    f"min_new_tokens（{self.min_new_tokens}）大于 max_new_tokens（{self.max_new_tokens}）。",
                ),
                say(
                    "Raise max_new_tokens or lower min_new_tokens.",
                    "请调大 max_new_tokens 或调小 min_new_tokens。",
                ),
            )
        if self.continue_final_message:
            self._check_continued()
        if any(not text for text in self.stop):
            raise BadInput(
                say("A stop string is empty.", "停止字符串为空。"),
                say(
                    "Leave it out, or give at least one character.",
                    "请去掉它，或至少写一个字符。",
                ),
            )
        if self.num_beams > 1:
            self._check_beams()
        elif self.length_penalty != 1:
            raise BadInput(
                say(
                    f"length_penalty is {self.length_penalty:g}, but there is no beam search.",
                    f"length_penalty 为 {self.length_penalty:g}，但没有使用集束搜索。",
                ),
                say("Set num_beams to 2 or more.", "请把 num_beams 设为 2 或更大。"),
                field="length_penalty",
            )

    def _check_continued(self) -> None:
        last = self.messages[-1] if self.messages else {}
        is_text = isinstance(last.get("content"), str)
        if last.get("role") != "assistant" or not is_text or last.get("tool_calls"):
            raise BadInput(
                say(
                    "continue_final_message goes on with a text of the assistant, and the "
                    "last message is none.",
                    "continue_final_message 用于续写助手的文本，而最后一条消息不是。",
                ),
                say(
                    "End the conversation with what the assistant has written so far.",
                    "请以助手已写出的内容结束对话。",
                ),
                field="continue_final_message",
            )
        if self.json_schema is not None:
            self.refuse("json_schema", "continue_final_message")

    def _check_beams(self) -> None:
        for name, neutral in NEUTRAL_CUTS.items():
            if getattr(self, name) != neutral:
                self.refuse("num_beams > 1", name)
        if self.n > self.num_beams:
            raise BadInput(
                say(
                    f"n ({self.n}) is above num_beams ({self.num_beams}).",
                    f"n（{self.n}）大于 num_beams（{self.num_beams}）。",
                ),
                say(
                    "Beam search returns at most num_beams answers.",
                    "集束搜索最多返回 num_beams 个结果。",
                ),
            )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and same_fields(self, other)

    @classmethod
    def of(cls, ask: Any, model: Writes, *, raw: bool = False, **controls: Any) -> Self:
        """Return the request for a prompt or a conversation.

        A plain prompt is a user's message where the model chats, and the beginning of a
        document where documents have one; with `raw` or before a suffix it is continued
        as it stands.
        """
        if isinstance(ask, Request):
            raise cls.wrong_ask(ask, model.name)
        if "stop" in controls:
            stop = controls["stop"]
            controls["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        if ask is None:
            return cls(**controls)
        if not isinstance(ask, str):
            return cls(messages=tuple(ask), **controls)
        if raw or controls.get("suffix") is not None:
            return cls(prompt=ask, **controls)
        if model.chats:
            message = {"role": "user", "content": ask}
            return cls(messages=(message,), **controls)
        begins_document = ask.startswith(model.bos_token)
        prompt = ask if begins_document else model.bos_token + ask
        return cls(prompt=prompt, **controls)
