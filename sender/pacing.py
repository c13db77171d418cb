"""A token bucket at the link rate: when the next send may leave. Pure arithmetic on the caller's clock."""

from __future__ import annotations


class Pacer:
    """Allows *rate* bits per second (IP level) in the long run, and never more than *burst* bytes beyond that.

    *send_max* is the largest single send (bytes). What of *burst* it leaves makes up for waking up late, so a send
    should be half of *burst* at most; a send larger than *burst* leaves alone, after its full time.
    """

    def __init__(self, rate: float, burst: int, send_max: int) -> None:
        self._spare = max(0, burst - send_max)
        self._next = float("-inf")
        self._at(rate)

    def set_rate(self, rate: float, now: float) -> None:
        """Go on at *rate* from *now* on; what was sent ahead of time is worked off at the new rate."""
        before = self._seconds_per_byte
        self._at(rate)
        self._next = now + (self._next - now) * self._seconds_per_byte / before

    def _at(self, rate: float) -> None:
        self._seconds_per_byte = 8 / rate
        self._slack = self._spare * self._seconds_per_byte

    def delay(self, now: float) -> float:
        """Return how long to wait (seconds) before sending; 0 when a send may leave at *now*."""
        return max(0.0, self._next - now)

    def sent(self, count: int, now: float) -> None:
        """Account for *count* bytes (IP level) that left at *now*."""
        self._next = max(self._next, now - self._slack) + count * self._seconds_per_byte
