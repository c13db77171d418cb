"""What the windows mean for the wire: what may go now, and at which rate. Pure.

While closed, announcements, beacons and releases go on: the receiver learns that the link lives and what it lacks.
They are small, and get a small part of the rate.
"""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Any, Final

from sender.dispatch import Dispatch
from sender.schedule import PRESSING, Rank
from sender.windows import Opening, Windows

CLOSED_SHARE: Final = 0.01  # of link.rate, for what goes outside windows
CLOSED_MIN: Final = 2_000_000  # bits per second; the object table alone takes some 0.6 Mbit/s before a release


class Gate:
    """Holds back what may not go at the time, and says the rate; *rate* is the link's (bits per second)."""

    def __init__(
        self, windows: Windows, dispatch: Dispatch, rate: int, *, urgent_ignores: bool, zone: tzinfo
    ) -> None:
        self.opening = Opening(rate, 0.0, 0.0)
        self.rate = rate  # now
        self._windows = windows
        self._dispatch = dispatch
        self._link_rate = rate
        self._closed_rate = min(rate, max(int(rate * CLOSED_SHARE), CLOSED_MIN))
        self._closed_floor = Rank.URGENT if urgent_ignores else Rank.RELEASE
        self._floor = Rank.BULK
        self._zone = zone

    @property
    def open(self) -> bool:
        """Whether bulk may go."""
        return self.opening.rate is not None

    def look(self, unix_now: float) -> bool:
        """Follow the windows; return whether :attr:`rate` has changed."""
        self.opening = self._windows.opening(unix_now)
        floor = Rank.BULK if self.open else self._closed_floor
        if floor != self._floor:
            self._floor = floor
            self._dispatch.hold(floor)
        before, self.rate = self.rate, self._rate()
        return self.rate != before

    def _rate(self) -> int:
        if self.opening.rate is not None:
            return self.opening.rate
        if any(self._dispatch.carries(rank) for rank in PRESSING):
            return self._link_rate
        # The block that was on the wire when the window closed ends as it began.
        return self.rate if self._dispatch.carries(Rank.BULK) else self._closed_rate

    @property
    def until(self) -> str | None:
        """When the window ends, or the next one begins, as RFC 3339 in the schedule's zone; None for never."""
        if self.opening.until == float("inf"):
            return None
        return datetime.fromtimestamp(self.opening.until, self._zone).isoformat(timespec="seconds")

    def live(self) -> dict[str, Any]:
        """Return what ``status`` shows: open, until (RFC 3339 or None) and the rate now (bits per second)."""
        return {"open": self.open, "until": self.until, "rate_bits": self.rate}
