"""Admission: a bounded queue before a bounded number of slots, with each key's own rates
and budgets.

Slots are per model (`settings.streams` answers of one model run together); the queue is
the server's (`settings.queue`), first come, first served. A slot that is freed goes
straight to the first who waits, so that no newcomer takes it. A refusal says when to
come back.
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
from miaobi.serve.units import STREAMED, report
from miaobi.serve.usage import Ledger, seconds_to_midnight

WINDOW = 60.0
"""Seconds of a key's sliding window of requests."""
DRAINING = 10
"""Seconds of Retry-After while the server stops: it is replaced or back by then."""


class Slot:
    """An active slot. What the request uses of the model is added up here, in units
    (units.py), and recorded when the slot is freed.
    """

    __slots__ = ("amounts", "arrived", "first_times")

    def __init__(self, arrived: float) -> None:
        self.arrived = arrived
        """When the request came, by time.perf_counter."""
        self.amounts = dict[str, float]()
        """By unit."""
        self.first_times = dict[str, float]()
        """When the first of each unit was added, by the same clock."""

    def add(self, unit: str, amount: float) -> None:
        if not amount:
            return
        if unit not in self.amounts:
            self.amounts[unit] = 0
            self.first_times[unit] = time.perf_counter()
        self.amounts[unit] += amount


@dataclass
class _Queue:
    """The active slots of one model, and the requests that wait for one."""

    active: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Admission:
    """Admits requests to models, or refuses them with a time to come back."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.meters = Meters()
        self.ledger = Ledger()
        self.draining = False
        self._queues: dict[str, _Queue] = {}
        self._recent: dict[str, deque[float]] = {}
        """When each key that has a rate sent its requests of the last minute."""
        self._typical_seconds = 1.0
        """Seconds an answer takes, as a running mean: for Retry-After."""

    @property
    def running(self) -> dict[str, int]:
        """Active slots by model."""
        return {model: queue.active for model, queue in self._queues.items()}

    @property
    def waiting(self) -> int:
        """Requests in the queue, over all models."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    def drain(self) -> None:
        """Refuse new requests and those that wait; active ones are finished."""
        self.draining = True
        for queue in self._queues.values():
            for turn in queue.waiting:
                if not turn.done():
                    turn.set_exception(self._refusal("draining"))

    @asynccontextmanager
    async def slot(self, caller: Caller, model: str) -> AsyncIterator[Slot]:
        """A slot for one request to `model`, freed when the block is left for whatever
        reason. Raises ApiError 429 or 503.
        """
        slot = Slot(time.perf_counter())
        await self._check_limits(caller)
        await self._acquire(model)
        began = time.perf_counter()
        self.meters.queued.observe(began - slot.arrived)
        try:
            yield slot
        finally:
            self._release(model)
            seconds = time.perf_counter() - began
            self._typical_seconds += 0.1 * (seconds - self._typical_seconds)
            self._record(caller, model, slot)

    async def _check_limits(self, caller: Caller) -> None:
        """Raise ApiError where the server drains or the key is over its rate or budget;
        leave OpenAI's headers about limits in the request's state.
        """
        if self.draining:
            raise self._refusal("draining")
        headers: dict[str, str] = {}
        refusal: tuple[str, float] | None = None
        if caller.requests_per_minute is not None:
            limit = caller.requests_per_minute
            recent = self._recent_requests(caller)
            reset = recent[0] + WINDOW - time.monotonic() if recent else 0.0
            if len(recent) >= limit:
                refusal = "rate", reset if recent else WINDOW
            else:
                recent.append(time.monotonic())
                reset = recent[0] + WINDOW - time.monotonic()
            headers |= _limit_headers("requests", limit, len(recent), reset)
        if caller.tokens_per_day is not None:
            budget = caller.tokens_per_day
            used = await self.ledger.tokens_today(caller.key_id)
            if used >= budget:
                refusal = "budget", seconds_to_midnight()
            headers |= _limit_headers("tokens", budget, used, seconds_to_midnight())
        state = current.get()
        if state is not None:
            state["rates"] = headers
        if refusal is not None:
            reason, wait = refusal
            raise self._refusal(reason, wait, caller)

    def _recent_requests(self, caller: Caller) -> deque[float]:
        """When this key's requests of the last minute came, by time.monotonic."""
        recent = self._recent.setdefault(caller.key_id, deque())
        while recent and recent[0] <= time.monotonic() - WINDOW:
            recent.popleft()
        return recent

    async def _acquire(self, model: str) -> None:
        queue = self._queues.setdefault(model, _Queue())
        if queue.active < self.settings.streams:
            queue.active += 1
            return
        if self.waiting >= self.settings.queue:
            rounds = (self.waiting + 1) / self.settings.streams
            raise self._refusal("full", rounds * self._typical_seconds)
        turn = asyncio.get_running_loop().create_future()
        queue.waiting.append(turn)
        try:
            async with asyncio.timeout(self.settings.wait_seconds):
                await turn
        except BaseException as error:
            admitted = turn.done() and not turn.cancelled() and not turn.exception()
            if admitted:  # the slot came in the moment of leaving
                self._release(model)
            else:
                queue.waiting.remove(turn)
                self._forget(model)
            if isinstance(error, TimeoutError):
                raise self._refusal("late", self._typical_seconds) from None
            raise

    def _release(self, model: str) -> None:
        """Give the slot to the first who still waits, or free it."""
        queue = self._queues[model]
        for turn in queue.waiting:
            if not turn.done():
                queue.waiting.remove(turn)
                turn.set_result(None)
                return
        queue.active -= 1
        self._forget(model)

    def _forget(self, model: str) -> None:
        """Drop the queue of a model without requests: names come from outside."""
        queue = self._queues[model]
        if not queue.active and not queue.waiting:
            del self._queues[model]

    def _record(self, caller: Caller, model: str, slot: Slot) -> None:
        if slot.amounts:
            # so the model exists, and its name may be a label
            self.ledger.add(caller.key_id, model, slot.amounts)
            first = slot.first_times.get(STREAMED)
            self.meters.answered(model, slot.arrived, first, slot.amounts)
        state = current.get()
        if state is not None:
            state["used"] = {"model": model[:200], **report(slot.amounts)}

    def _refusal(
        self, reason: str, wait: float = DRAINING, caller: Caller | None = None
    ) -> ApiError:
        """The error for a request that is not admitted, counted by its reason.

        Args:
            reason: "draining", "rate", "budget", "full" or "late".
            wait: seconds until another try makes sense.
            caller: whose limit it is, for "rate" and "budget".
        """
        longest = 86_400 if reason == "budget" else 60
        seconds = max(1, min(math.ceil(wait), longest))
        self.meters.refused.labels(reason).inc()
        if reason == "draining":
            return ApiError(
                503,
                say("This server is stopping.", "服务器正在停止。"),
                code="draining",
                retry_after=seconds,
            )
        if reason == "rate" and caller:
            limit = caller.requests_per_minute
            message = say(
                f"This key may send {limit} requests a minute. Try again in {seconds} s.",
                f"此密钥每分钟最多请求 {limit} 次，请在 {seconds} 秒后重试。",
            )
            code = "rate_limit_exceeded"
        elif reason == "budget" and caller:
            message = say(
                f"This key's {caller.tokens_per_day} tokens of today (UTC) are used up.",
                f"此密钥今日（UTC）的 {caller.tokens_per_day} 个词元已用完。",
            )
            code = "insufficient_quota"
        else:
            queued = self.settings.queue
            message = say(
                f"All slots are active and {queued} requests wait. Try again in {seconds} s.",
                f"所有席位已满，已有 {queued} 个请求在排队，请在 {seconds} 秒后重试。",
            )
            code = f"queue_{reason}"
        return ApiError(429, message, code=code, retry_after=seconds)


def _limit_headers(unit: str, limit: int, used: int, reset: float) -> dict[str, str]:
    """OpenAI's headers about a limit; `reset` in seconds."""
    return {
        f"x-ratelimit-limit-{unit}": str(limit),
        f"x-ratelimit-remaining-{unit}": str(max(0, limit - used)),
        f"x-ratelimit-reset-{unit}": f"{max(0.0, reset):.0f}s",
    }
