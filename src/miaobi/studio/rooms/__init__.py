"""Pages that are still Gradio's, one file each (the contract is in rooms/room.py).

They share one address, /studio/LANGUAGE/rooms/?room=NAME, and the part of the studio
that knows Gradio: this folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.studio.rooms.room import Room

rooms: Registry[Room] = Registry(
    "rooms",
    {
        "compare": "miaobi.studio.rooms.compare",
        "pictures": "miaobi.studio.rooms.pictures",
        "train": "miaobi.studio.rooms.train",
        "tune": "miaobi.studio.rooms.tune",
        "feedback": "miaobi.studio.rooms.feedback",
    },
)


@dataclass(frozen=True)
class Link:
    """Where a room stands in the navigation: importing its module would take seconds."""

    title: tuple[str, str]
    group: str
    order: int


LINKS = {
    "compare": Link(("Compare", "比较"), "create", 20),
    "pictures": Link(("Pictures", "图片"), "create", 30),
    "train": Link(("Train", "训练"), "make", 10),
    "tune": Link(("Tune", "调优"), "make", 20),
    "feedback": Link(("Feedback", "反馈"), "foot", 20),
}
