"""Who is signed in to the studio: a random token in a cookie stands for a key, and the
key itself never leaves the server.

Kept in memory: a restart asks for the key again. What a session may do is what its key
    may do now, so a revoked key ends it.
"""

from __future__ import annotations

import secrets
import time

COOKIE = "miaobi_session"
SECONDS = 12 * 3600
MOST = 10_000


class Sessions:
    """Tokens have 256 random bits and are independent of the keys, so none can be made
    from the other.
    """

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, float]] = {}

    def begin(self, key: str) -> str:
        """The token of a new session. The oldest ends where there are too many."""
        if len(self._open) >= MOST:
            self._open.pop(next(iter(self._open)))
        token = secrets.token_urlsafe(32)
        self._open[token] = (key, time.monotonic() + SECONDS)
        return token

    def key(self, token: str) -> str | None:
        """The key that a token stands for; None for one that is unknown or over."""
        key, until = self._open.get(token, (None, 0.0))
        return key if time.monotonic() < until else None

    def end(self, token: str) -> None:
        self._open.pop(token, None)
