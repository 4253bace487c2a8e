"""Writes what was used to the database."""

from __future__ import annotations

from miaobi.serve.services import Services

seconds = 5.0
"""What a server that is killed may lose."""


async def run(services: Services) -> None:
    await services.admission.ledger.write()
