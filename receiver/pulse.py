"""What the capture loop can tell of the link only by watching it go on: silence, beacons, refusals, useful rate.

All of it is measured by the monotonic clock, which no step of the host's clock moves: what status reads are
durations.
Pure but for the clock that it is given.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from protocol.beacon import Beacon

RATE_S: Final = 10.0
RECENT_S: Final = 600.0
RECENT_STEP_S: Final = 15.0
SENDING_S: Final = 15.0  # an object counts as being sent for so long after one of its blocks, or its beacon
SENDING_MAX: Final = 100
LIVE_STEP_MAX_S: Final = 5.0  # of one turn: a process that was stopped saw nothing of the link


class Pulse:
    """Call from the capture loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        now = clock()
        self._started = now
        self._turned = now
        self._datagrams = 0
        self._heard = now
        self.live_s = 0.0  # how long the link has been alive, in all
        self._beacon: tuple[bytes, Beacon] | None = None
        self._beacon_new = now
        self._clock_new = now
        self._rates: deque[tuple[float, int]] = deque([(now, 0)])  # when, symbols
        self._drops: deque[tuple[float, dict[str, int]]] = deque([(now, {})])
        self._sending: dict[str, float] = {}  # digest -> when last

    def beacon(self, session: bytes, beacon: Beacon) -> None:
        """A beacon that is new by its sequence has come."""
        now = self._clock()
        former = self._beacon
        if former is None or former[0] != session or former[1].clock_ms != beacon.clock_ms:
            self._clock_new = now
        self._beacon = session, beacon
        self._beacon_new = now

    @property
    def on_wire(self) -> tuple[bytes, int] | None:
        """The session, and the TOI that the last beacon says is on the wire."""
        return None if self._beacon is None or not self._beacon[1].toi else (self._beacon[0], self._beacon[1].toi)

    def sending(self, digest: str) -> None:
        """An object (by the digest of its content) is being sent just now."""
        self._sending.pop(digest, None)
        self._sending[digest] = self._clock()

    def turn(self, counts: dict[str, int], drops: dict[str, int]) -> None:
        """Take the counters as they are now; call about twice a second."""
        now = self._clock()
        if counts["datagrams"] != self._datagrams:
            self._datagrams = counts["datagrams"]
            self._heard = now
            self.live_s += min(now - self._turned, LIVE_STEP_MAX_S)
        self._turned = now
        self._rates.append((now, counts["symbols"]))
        while len(self._rates) > 2 and now - self._rates[1][0] >= RATE_S:
            self._rates.popleft()
        if now - self._drops[-1][0] >= RECENT_STEP_S:
            self._drops.append((now, dict(drops)))
            while len(self._drops) > 2 and now - self._drops[1][0] >= RECENT_S:
                self._drops.popleft()
        while self._sending and (
            now - next(iter(self._sending.values())) > SENDING_S or len(self._sending) > SENDING_MAX
        ):
            del self._sending[next(iter(self._sending))]

    def document(self, drops: dict[str, int], symbol_bytes: int) -> dict[str, Any]:
        """Return what status and alarms read; seconds, bytes a second."""
        now = self._clock()
        first, before = self._rates[0]
        symbols = self._rates[-1][1] - before
        useful = symbols * symbol_bytes / (self._rates[-1][0] - first) if self._rates[-1][0] > first else 0.0
        past = self._drops[0][1]
        found: dict[str, Any] = {
            "running_s": round(now - self._started, 1),
            "silent_s": round(now - self._heard, 1) if self._datagrams else None,
            "useful_bytes_s": round(useful),
            "drops_recent": {
                name: count - past.get(name, 0) for name, count in drops.items() if count > past.get(name, 0)
            },
            "sending": list(self._sending),
            "beacon": None,
        }
        if self._beacon is not None:
            beacon = self._beacon[1]
            found["beacon"] = {
                "sequence": beacon.sequence,
                "age_s": round(now - self._beacon_new, 1),
                "clock_age_s": round(now - self._clock_new, 1),
                "toi": beacon.toi,
                "sbn": beacon.sbn,
                "queued_bytes": beacon.queued_bytes,
                "closing": beacon.closing,
            }
        return found
