"""From tokens to text that may be shown at once: never a part of a stop string.

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from miaobi.engines.text.detokenizer import Detokenizer


class StopText:
    """Cuts an answer before the first stop string, holding back text that may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.stopped_by: str | None = None
        """The stop string that has come."""
        self._held = ""

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None

    def push(self, text: str) -> str:
        """Return the text that is safe to show; set `stopped_by` at a stop string."""
        if self.stopped:
            return ""
        if not self.stops:
            return text
        self._held += text
        positions = [(self._held.find(stop), stop) for stop in self.stops]
        hits = [hit for hit in positions if hit[0] >= 0]
        if hits:
            position, self.stopped_by = min(hits, key=itemgetter(0))
            return self._release(position)
        held_back = max(self._overlap(stop) for stop in self.stops)
        return self._release(len(self._held) - held_back)

    def _release(self, length: int) -> str:
        """Return the first `length` held characters; the rest stays held, until a stop."""
        text = self._held[:length]
        self._held = "" if self.stopped else self._held[length:]
        return text

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(self._held), len(stop) - 1)
        for size in range(longest, 0, -1):
            if stop.startswith(self._held[-size:]):
                return size
        return 0

    def flush(self) -> str:
        """Return the text that was held back, once no stop string can follow."""
        text = self._held
        self._held = ""
        return text


class TextStream:
    """One answer on its way from token ids to showable text."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str] = ()) -> None:
        self._detokenizer = detokenizer
        self._stop = StopText(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stop.stopped

    def push(self, token: int) -> str:
        return self._stop.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """Return the rest, once the answer has ended by itself or by its length."""
        if self.stopped:
            return ""
        return self._stop.push(self._detokenizer.flush()) + self._stop.flush()
