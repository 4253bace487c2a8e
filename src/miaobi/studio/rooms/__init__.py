"""Rooms of the studio, one file each (the contract is in studio/room.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.studio.room import Room

rooms: Registry[Room] = Registry(
    "rooms",
    {
        "chat": "miaobi.studio.rooms.chat",
        "compare": "miaobi.studio.rooms.compare",
        "pictures": "miaobi.studio.rooms.pictures",
        "train": "miaobi.studio.rooms.train",
        "tune": "miaobi.studio.rooms.tune",
        "feedback": "miaobi.studio.rooms.feedback",
        "jobs": "miaobi.studio.rooms.jobs",
        "models": "miaobi.studio.rooms.models",
    },
)
