"""Where a model is used: the page that opens with it, by what the model makes.

A modality of another package adds an entry point `miaobi.studio_uses`, whose name is
what its models make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from miaobi.core.registry import Registry
from miaobi.studio.visit import Visit


@dataclass(frozen=True)
class Use:
    """What one does with a model, in English and Chinese, and the page for it."""

    title: tuple[str, str]
    """Of a button: "Chat with it"."""
    name: tuple[str, str]
    """In a list: "Chat"."""
    page: str
    query: Mapping[str, str] = field(default_factory=dict)
    """Of the page's address, beside the model."""

    def address(self, visit: Visit, model: str) -> str:
        return visit.address(self.page, **self.query, model=model)


CHAT = Use(("Chat with it", "与它对话"), ("Chat", "对话"), "chat")
PICTURES = Use(
    ("Paint with it", "用它作画"),
    ("Paint", "作画"),
    "rooms/",
    {"room": "pictures"},
)

uses: Registry[Use] = Registry(
    "studio_uses",
    {
        "text": "miaobi.studio.uses:CHAT",
        "image": "miaobi.studio.uses:PICTURES",
    },
)


def use_of(makes: str | None) -> Use | None:
    """Return where a model is used; None where no page is for what it makes.

    makes: None for a model that is not served.
    """
    return uses.get(makes) if makes and makes in uses else None
