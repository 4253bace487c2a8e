"""What the routes, the studio and the worker share: one object, made from the settings, opened and closed with the server."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from miaobi.serve.admission import Admission
from miaobi.serve.pool import Pool
from miaobi.serve.settings import Settings


@dataclass
class Services:
    settings: Settings
    pool: Pool
    admission: Admission

    async def open(self) -> None:
        """Before the first request: the database is brought up to date, models named at the start are opened."""

    async def close(self) -> None:
        """After the last answer."""
        await self.pool.close()


def services_of(request: Request) -> Services:
    """For routes: `services: Annotated[Services, Depends(services_of)]`."""
    found: Services = request.app.state.services
    return found
