"""The application: middleware around routes, one file a group of them (routes/), listed
in the registry.

Order of a request: logged (id, log line) -> paths (slashes, HEAD) -> guard (headers,
    host, key) -> bodies (size, type, depth; a client that leaves) -> route -> admission (rate, slot) -> pool ->
    engine -> published answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.formparsers import MultiPartParser
from starlette.middleware import Middleware

from miaobi import __version__
from miaobi.serve import errors
from miaobi.serve.bodies import Bodies
from miaobi.serve.description import ERRORS, describe
from miaobi.serve.guard import Guard
from miaobi.serve.logs import Logged
from miaobi.serve.mounts import pages
from miaobi.serve.paths import Paths
from miaobi.serve.periodic import Runner
from miaobi.serve.routes import routes
from miaobi.serve.services import Services
from miaobi.serve.telemetry import Telemetry, Traced, open_telemetry


def layers(services: Services, telemetry: Telemetry | None) -> list[Middleware]:
    """What every request passes, from the outside in."""
    return [
        Middleware(Logged, meters=services.admission.meters),
        *([Middleware(Traced, telemetry=telemetry)] if telemetry else []),
        Middleware(Paths, mounted=tuple(f"/{name}" for name in pages.names())),
        Middleware(Guard, services=services),
        Middleware(Bodies, settings=services.settings),
    ]


def create_app(services: Services, telemetry: Telemetry | None = None) -> FastAPI:
    mounted: list[Any] = []
    telemetry = telemetry or open_telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await services.open()
        runner = Runner(services)
        try:
            runner.start()
            yield
        finally:
            await runner.stop()
            for page in mounted:
                await page.close()
            await services.close()
            if telemetry:
                await asyncio.to_thread(telemetry.close)

    app = FastAPI(
        title="miaobi",
        version=__version__,
        lifespan=lifespan,
        middleware=layers(services, telemetry),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.state.services = services
    # A form is held in memory, as any other body; /v1/files has a parser of its own.
    MultiPartParser.spool_max_size = services.settings.limits.body_bytes
    errors.install(app)
    describe(app)
    for name in routes.names():
        app.include_router(routes.get(name).router)
    for name in pages.names() if services.settings.studio else []:
        mounted.append(pages.get(name)(app))
        app.mount(f"/{name}", mounted[-1])
    return app
