"""Pages of the studio, one folder each (the contract is in studio/page.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.studio.page import Page

pages: Registry[Page] = Registry(
    "studio_pages",
    {
        "welcome": "miaobi.studio.pages.welcome.page",
        "chat": "miaobi.studio.pages.chat.page",
        "models": "miaobi.studio.pages.models.page",
        "jobs": "miaobi.studio.pages.jobs.page",
    },
)
