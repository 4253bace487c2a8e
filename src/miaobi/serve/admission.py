"""Who may come in now: a bounded queue before a bounded number of places, and each
key's own rates and budgets.

Places are per model (`settings.streams` answers of one run together), the queue is the
server's (`settings.queue`), and who came first is served first. A place goes from hand
to hand, so none can slip in between. Whoever is refused is told when to come back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from miaobi.core.language import say
from miaobi.serve.callers import Caller
from miaobi.serve.errors import ApiError
from miaobi.serve.logs import current
from miaobi.serve.meters import Meters
from miaobi.serve.settings import Settings
from miaobi.serve.usage import Ledger, Used, seconds_to_midnight

WINDOW = 60.0
"""Seconds of a key's sliding window of requests."""
DRAINING = 10
"""Retry-After while the server stops: another has taken over by then, or this one is back."""


class Place:
    """A place at work. What was used of the model is added up here and recorded when it
    is given back.
    """

    __slots__ = ("_completion_tokens", "arrived", "first", "pictures", "prompt_tokens")

    def __init__(self, arrived: float) -> None:
        self.prompt_tokens = self._completion_tokens = self.pictures = 0
        self.arrived = arrived
        """When the request came, by time.perf_counter."""
        self.first: float | None = None
        """When its first token was there."""

    @property
    def completion_tokens(self) -> int:
        return self._completion_tokens

    @completion_tokens.setter
    def completion_tokens(self, count: int) -> None:
        if self.first is None and count:
            self.first = time.perf_counter()
        self._completion_tokens = count


@dataclass
class _Line:
    """Those who are at work with one model, and those who wait for that."""

    busy: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Admission:
    def __init__(self, settings: Settings) -> None:
        self.settings, self.meters, self.ledger = settings, Meters(), Ledger()
        self.draining = False
        self._lines: dict[str, _Line] = {}
        self._asked: dict[str, deque[float]] = {}
        """When each key that has a rate asked, within the last minute."""
        self._typical = 1.0
        """Seconds an answer takes, as a running mean: for Retry-After."""

    @property
    def running(self) -> dict[str, int]:
        """Answers that are being made, by model."""
        return {model: line.busy for model, line in self._lines.items()}

    @property
    def waiting(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    def drain(self) -> None:
        """Let nobody in any more. Those who still wait are told to go elsewhere; those
        at work end.
        """
        self.draining = True
        for line in self._lines.values():
            for waiter in line.waiting:
                if not waiter.done():
                    waiter.set_exception(self._refused("draining"))

    @asynccontextmanager
    async def place(self, caller: Caller, model: str) -> AsyncIterator[Place]:
        """A place for one request to `model`, freed when the block is left, whoever
        went away. Raises ApiError 429 or 503.
        """
        place = Place(time.perf_counter())
        await self._allow(caller)
        await self._enter(model)
        began = time.perf_counter()
        self.meters.queued.observe(began - place.arrived)
        try:
            yield place
        finally:
            self._leave(model)
            self._typical += 0.1 * (time.perf_counter() - began - self._typical)
            self._record(caller, model, place)

    async def _allow(self, caller: Caller) -> None:
        """The key's requests a minute and tokens a day."""
        if self.draining:
            raise self._refused("draining")
        state, now = current.get(), time.monotonic()
        rates: dict[str, str] = {}
        wait, reason = 0.0, ""
        if caller.requests_per_minute is not None:
            asked = self._asked.setdefault(caller.key_id, deque())
            while asked and asked[0] <= now - WINDOW:
                asked.popleft()
            if len(asked) >= caller.requests_per_minute:
                wait, reason = asked[0] + WINDOW - now if asked else WINDOW, "rate"
            else:
                asked.append(now)
            rates |= _rates(
                "requests",
                caller.requests_per_minute,
                len(asked),
                asked[0] + WINDOW - now if asked else 0,
            )
        if caller.tokens_per_day is not None:
            used = await self.ledger.tokens_today(caller.key_id)
            if used >= caller.tokens_per_day:
                wait, reason = seconds_to_midnight(), "budget"
            rates |= _rates(
                "tokens", caller.tokens_per_day, used, seconds_to_midnight()
            )
        if state is not None:
            state["rates"] = rates
        if reason:
            raise self._refused(reason, wait, caller)

    async def _enter(self, model: str) -> None:
        line = self._lines.setdefault(model, _Line())
        if line.busy < self.settings.streams:
            line.busy += 1
            return
        if self.waiting >= self.settings.queue:
            raise self._refused(
                "full", (self.waiting + 1) * self._typical / self.settings.streams
            )
        turn = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        try:
            async with asyncio.timeout(self.settings.wait_seconds):
                await turn
        except BaseException as error:
            if (
                turn.done() and not turn.cancelled() and turn.exception() is None
            ):  # handed over in the moment of leaving
                self._leave(model)
            else:
                line.waiting.remove(turn)
                self._forget(model)
            if isinstance(error, TimeoutError):
                raise self._refused("late", self._typical) from None
            raise

    def _leave(self, model: str) -> None:
        """Hand the place to the first who still waits, or put it back."""
        line = self._lines[model]
        for turn in line.waiting:
            if not turn.done():
                line.waiting.remove(turn)
                turn.set_result(None)
                return
        line.busy -= 1
        self._forget(model)

    def _forget(self, model: str) -> None:
        """Names come from outside: keep none that nobody works with."""
        line = self._lines[model]
        if not line.busy and not line.waiting:
            del self._lines[model]

    def _record(self, caller: Caller, model: str, place: Place) -> None:
        used = Used(1, place.prompt_tokens, place.completion_tokens, place.pictures)
        if (
            place.prompt_tokens or place.completion_tokens or place.pictures
        ):  # so the model exists, and its name may be a label
            self.ledger.add(caller.key_id, model, used)
            self.meters.answered(model, place.arrived, place.first, used)
        if (state := current.get()) is not None:
            state["used"] = {
                "model": model[:200],
                "prompt_tokens": used.prompt_tokens,
                "completion_tokens": used.completion_tokens,
                "pictures": used.pictures,
            }

    def _refused(
        self, reason: str, wait: float = DRAINING, caller: Caller | None = None
    ) -> ApiError:
        again = max(1, min(math.ceil(wait), 86_400 if reason == "budget" else 60))
        self.meters.refused.labels(reason).inc()
        if reason == "draining":
            return ApiError(
                503,
                say("This server is stopping.", "服务器正在停止。"),
                code="draining",
                retry_after=again,
            )
        if reason == "rate" and caller:
            said = say(
                f"This key may ask {caller.requests_per_minute} times a minute. Try again in {again} s.",
                f"此密钥每分钟最多请求 {caller.requests_per_minute} 次，请在 {again} 秒后重试。",
            )
            return ApiError(429, said, code="rate_limit_exceeded", retry_after=again)
        if reason == "budget" and caller:
            said = say(
                f"This key's {caller.tokens_per_day} tokens of today (UTC) are used up.",
                f"此密钥今日（UTC）的 {caller.tokens_per_day} 个词元已用完。",
            )
            return ApiError(429, said, code="insufficient_quota", retry_after=again)
        return ApiError(
            429,
            say(
                f"All places are taken and {self.settings.queue} requests wait. Try again in {again} s.",
                f"所有席位已满，已有 {self.settings.queue} 个请求在排队，请在 {again} 秒后重试。",
            ),
            code="queue_" + reason,
            retry_after=again,
        )


def _rates(what: str, limit: int, used: int, reset: float) -> dict[str, str]:
    """OpenAI's headers about a limit."""
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(max(0, limit - used)),
        f"x-ratelimit-reset-{what}": f"{max(0.0, reset):.0f}s",
    }
