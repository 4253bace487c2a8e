"""Removes generated pictures whose URLs expired."""

from __future__ import annotations

import asyncio

from miaobi.serve.services import Services

seconds = 60.0


async def run(services: Services) -> None:
    await asyncio.to_thread(services.temporary_files.sweep)
