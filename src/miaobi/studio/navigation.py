"""Where a visitor can go: pages by their groups, those of other packages included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from miaobi.core.language import say
from miaobi.studio.pages import pages
from miaobi.studio.rooms import LINKS

GROUPS = {
    "create": ("Create", "创作"),
    "make": ("Make models", "制作模型"),
    "know": ("Know", "知识"),
    "watch": ("Watch", "关注"),
    "foot": ("Below", "底部"),
}
"""Groups in their order; a page of none is reached from others."""


@dataclass(frozen=True)
class Item:
    """A page in the navigation."""

    name: str
    title: str
    order: int
    address: str
    is_current: bool


@dataclass(frozen=True)
class Group:
    name: str
    title: str
    items: list[Item]


def groups(address: Callable[..., str], current: str) -> list[Group]:
    """Return the groups that have pages, each with its pages in order.

    Args:
        address: from a page's name to its address
        current: the name of the page that is looked at
    """
    items = dict[str, list[Item]]()
    for name in pages.names():
        page = pages.get(name)
        at = address(name)
        item = Item(name, say(*page.TITLE), page.ORDER, at, name == current)
        items.setdefault(page.GROUP, []).append(item)
    for name, link in LINKS.items():
        at = address("rooms/", room=name)
        item = Item(name, say(*link.title), link.order, at, False)
        items.setdefault(link.group, []).append(item)
    return [
        Group(name, say(*title), sorted(items[name], key=lambda item: item.order))
        for name, title in GROUPS.items()
        if name in items
    ]
