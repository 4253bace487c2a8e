"""Deletes conversations that have not been used for longer than the retention."""

from __future__ import annotations

import asyncio

from miaobi.serve.services import Services

seconds = 600.0


async def run(services: Services) -> None:
    await asyncio.to_thread(services.conversations.sweep)
