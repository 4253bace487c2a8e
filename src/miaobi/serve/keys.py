"""Keys: who made them, whose they are, and whether one is good. Only a key's SHA-256 is kept; the key is shown once, when it is made."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from miaobi.core.language import say
from miaobi.serve.admission import Caller
from miaobi.serve.errors import ApiError
from miaobi.serve.settings import Settings


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass
class Keys:
    """The keys that are good now: those the server was started with and those in the database."""

    settings: Settings
    _given: dict[str, Caller] = field(init=False)
    """SHA-256 to caller."""

    def __post_init__(self) -> None:
        self._given = {(sha := digest(key)): Caller(f"given-{sha[:12]}", f"key {at}") for at, key in enumerate(self.settings.api_keys, 1)}

    async def caller(self, secret: str) -> Caller:
        """Whose key `secret` is; without any key anywhere, and on this machine alone, whoever asks. Raises ApiError 401."""
        known = self._given
        if not known and self.settings.local:
            return Caller()
        found: Caller | None = None
        asked = digest(secret)
        for sha, caller in known.items():  # all of them, so that the time taken says nothing
            if hmac.compare_digest(sha, asked):
                found = caller
        if found is None:
            raise refused(secret)
        return found


def refused(secret: str) -> ApiError:
    said = (say("This key is not known here, or was revoked.", "密钥无效或已被撤销。") if secret else
            say("A key is needed: send the header Authorization: Bearer KEY.", "需要密钥：请发送请求头 Authorization: Bearer KEY。"))
    return ApiError(401, f"{said} " + say("`miaobi keys create NAME` on the server makes one.", "可在服务器上用 `miaobi keys create NAME` 创建。"),
                    code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
