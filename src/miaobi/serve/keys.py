"""Is this key good, and whose is it? Those the server was started with and those in the
database (keyring.py).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time

from miaobi.core.language import say
from miaobi.serve.callers import Caller
from miaobi.serve.database import Records
from miaobi.serve.errors import ApiError
from miaobi.serve.keyring import all_keys, digest
from miaobi.serve.settings import Settings

log = logging.getLogger("miaobi.serve")

FRESH = 1.0
"""Seconds that what was read of the database holds: a key that was revoked is good for
no longer.
"""


class Keys:
    """The keys of the settings and of the database. `records` is set once the database is
    open; until then only the keys of the settings count.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.records: Records | None = None
        self._configured = {
            digest(key): Caller(f"given-{digest(key)[:12]}", f"key {number}")
            for number, key in enumerate(settings.api_keys, 1)
        }
        self._stored: dict[str, Caller] = {}
        self._any = bool(self._configured)
        self._read_at = 0.0

    async def caller(self, secret: str) -> Caller:
        """Return whose key `secret` is. Raise ApiError 401.

        Without any key, a server of this machine alone answers everyone. A database
        whose keys were all revoked is not without keys.
        """
        if self.records is not None and time.monotonic() - self._read_at > FRESH:
            await self.read()
        if not self._any and self.settings.local:
            return Caller()
        sha256 = digest(secret)
        match: Caller | None = None
        # All keys are compared, so that the time it takes says nothing.
        for key_sha256, caller in (*self._configured.items(), *self._stored.items()):
            if hmac.compare_digest(key_sha256, sha256):
                match = caller
        if match is None:
            raise _refused(secret)
        return match

    async def read(self) -> None:
        """Read the keys of the database. While it cannot be read, those that were known
        last are good.
        """
        assert self.records is not None
        self._read_at = time.monotonic()  # before, so that others do not read as well
        try:
            rows = await asyncio.to_thread(all_keys, self.records)
        except Exception:
            log.exception("the keys could not be read again")
            return
        self._stored = {
            row.sha256: Caller(
                row.id,
                row.name,
                row.requests_per_minute,
                row.tokens_per_day,
                row.operator,
            )
            for row in rows
            if row.revoked is None
        }
        self._any = bool(self._configured or rows)


def _refused(secret: str) -> ApiError:
    said = (
        say("This key is not known here, or was revoked.", "密钥无效或已被撤销。")
        if secret
        else say(
            "A key is needed: send the header Authorization: Bearer KEY.",
            "需要密钥：请发送请求头 Authorization: Bearer KEY。",
        )
    )
    return ApiError(
        401,
        said
        + " "
        + say(
            "`miaobi keys create NAME` on the server makes one.",
            "可在服务器上用 `miaobi keys create NAME` 创建。",
        ),
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
