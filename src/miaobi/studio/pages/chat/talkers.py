"""The models that one can talk with: those that chat first, then those that go on with
any text, and those that are asked about a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miaobi.core.language import say
from miaobi.core.requests import EmbeddingRequest, ImageRequest
from miaobi.studio.visit import MODEL, Visit

SILENT = (ImageRequest.makes, EmbeddingRequest.makes)
"""Modalities that answer with no text."""


@dataclass(frozen=True)
class Talker:
    name: str
    chats: bool
    """Whether it answers messages, and does not only continue a text."""
    reads_pictures: bool
    origin: str
    """Where it comes from, in a few words."""

    @property
    def takes_messages(self) -> bool:
        """Whether it is asked at /v1/chat/completions."""
        return self.chats or self.reads_pictures

    @property
    def manner(self) -> str:
        """What it does with what is said to it."""
        if self.chats:
            return say("chats", "对话")
        if self.reads_pictures:
            return say("about a picture", "看图回答")
        return say("goes on with a text", "续写文本")


async def talkers(visit: Visit) -> list[Talker]:
    """Return the models that this server answers for, the ones that chat first."""
    listed = await visit.call("GET", "/v1/models")
    models = [
        Talker(
            facts["id"],
            facts["chats"],
            "image" in facts["inputs"],
            _origin(facts.get("parents") or (), facts["owned_by"]),
        )
        for facts in listed["data"]
        if facts["modality"] not in SILENT
    ]
    return sorted(models, key=lambda talker: not talker.chats)


def preset(
    visit: Visit, models: Sequence[Talker], last: str | None = None
) -> Talker | None:
    """Return the model that answers next: the one of the address, of the conversation,
    the one that was last used, or the first.
    """
    wanted = (visit.query.get("model"), last, visit.request.cookies.get(MODEL))
    by_name = {talker.name: talker for talker in models}
    for name in wanted:
        if name in by_name:
            return by_name[name]
    return models[0] if models else None


async def context_length(visit: Visit, name: str) -> int | None:
    """Return the tokens that a model holds, prompt and answer together; None where
    nothing says.
    """
    facts = await visit.call("GET", f"/v1/models/{name}")
    length: int | None = facts["context_length"]
    return length


def _origin(parents: Sequence[str], owner: str) -> str:
    if parents:
        return say(f"tuned from {parents[0]}", f"由 {parents[0]} 微调")
    if owner == "local":
        return say("made here", "在此训练")
    return say("brought here", "外部引入")
