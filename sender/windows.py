"""When the schedule lets bulk go, and how fast: windows that begin by a cron expression and last a while.

Pure: Unix seconds in and out. A window lasts its time as clocks tick, so one over the night in which they are set is
an hour longer or shorter by the wall. Starts are those of Debian's cron (library cronsim): one that the change of
clocks skips comes right after it, one that it repeats comes the first time only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

from cronsim import CronSim, CronSimError

FIELDS: Final = 5  # cronsim takes a sixth for seconds, which cron has not
EDGES_MAX: Final = 16  # looked at to find out how long things stay as they are
_SOME_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """Open for *seconds* from each start on (cron expression), at *rate* bits per second."""

    start: str
    seconds: float
    rate: int


@dataclass(frozen=True, slots=True)
class Opening:
    """The state from *since* until at least *until* (Unix seconds): *rate* in bits per second, None while closed."""

    rate: int | None
    since: float
    until: float


def check_start(text: str) -> str:
    """Return *text* if it is a cron expression of five fields that ever comes; ValueError says what is not right."""
    try:
        if len(text.split()) != FIELDS:
            raise CronSimError("it has not five fields")
        next(CronSim(text, _SOME_DAY))
    except (CronSimError, StopIteration) as error:
        why = str(error) or "it never comes"
        raise ValueError(
            f"{text!r} is not a start ({why}); give minute, hour, day, month and weekday, e.g. '0 20 * * mon-fri'"
        ) from None
    return text


class Windows:
    """Answers :meth:`opening`; without *windows* always open at *rate*. Of several open ones the fastest counts."""

    def __init__(self, windows: Sequence[Window], zone: tzinfo, rate: int) -> None:
        self._windows = windows
        self._zone = zone
        self._opening = Opening(rate, float("-inf"), float("inf")) if not windows else Opening(None, 0.0, 0.0)

    def opening(self, now: float) -> Opening:
        """Return the state at *now*; worked out anew once *now* is not between the edges known, also by a jump."""
        if not self._opening.since <= now < self._opening.until:
            rate, until = self._rate_at(now), self._next_edge(now)
            for _ in range(EDGES_MAX):
                if self._rate_at(until) != rate:
                    break
                until = self._next_edge(until)
            self._opening = Opening(rate, now, until)
        return self._opening

    def _rate_at(self, moment: float) -> int | None:
        open_ = [each.rate for each in self._windows if moment < self._last_start(each, moment) + each.seconds]
        return max(open_, default=None)

    def _next_edge(self, moment: float) -> float:
        """Return the first start or end after *moment*."""
        edges = []
        for window in self._windows:
            edges.append(next(CronSim(window.start, self._local(moment))).timestamp())
            edges.append(self._last_start(window, moment) + window.seconds)
        return min(edge for edge in edges if edge > moment)

    def _last_start(self, window: Window, moment: float) -> float:
        """Return the last start at or before *moment*, minus infinity before the first."""
        backwards = CronSim(window.start, self._local(moment).replace(microsecond=1), reverse=True)
        start = next((start for start in backwards if start.timestamp() <= moment), None)
        if start is None:
            return float("-inf")
        # Backwards, cronsim passes over a start in the hour that the change of clocks repeats; forwards it does not.
        for later in CronSim(window.start, start):
            if later.timestamp() > moment:
                break
            start = later
        return start.timestamp()

    def _local(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment, self._zone)
