"""Removes uploaded files that expired, and what killed processes left of them."""

from __future__ import annotations

import asyncio

from miaobi.serve.services import Services

seconds = 600.0


async def run(services: Services) -> None:
    await asyncio.to_thread(services.files.sweep)
    await asyncio.to_thread(services.uploads.sweep)
