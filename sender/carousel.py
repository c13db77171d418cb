"""The carousel: idle link time goes round the desired state, oldest first, for receivers that are new or missed some.

A round repeats each object once. Rounds begin at another object each time, and passes at another block (schedule.py),
so that a receiver which loses the same second of every round does not lose the same content. Which round it is, is in
the journal: a restart goes on with the next object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from runtime.database import transaction
from sender.journal import ReleaseRow, SenderJournal
from sender.releases import desired_contents
from sender.schedule import rotated

AGAIN_S: Final = 1.0  # between looks for something to repeat


class Carousel:
    """Asked while nothing else is to be handed out.

    *every*: seconds from one round's begin to the next one's, at least; 0: never. What was queued less than that ago
    waits for the round after.
    """

    def __init__(self, journal: SenderJournal, every: float) -> None:
        self._journal = journal
        self._every = every
        self._due = float("-inf")  # monotonic seconds
        self._desired: set[int] = set()  # objects that carry the newest releases' contents
        self._desired_of: object = None  # what the set was made from
        self._order: deque[tuple[int, int]] = deque()  # (id, coded size): what this round has yet to repeat

    def due(self, now: float) -> bool:
        """Whether it is worth asking."""
        return self._every > 0 and now >= self._due

    def turn(self, newest: Iterable[ReleaseRow], now: float, unix_now: float) -> int | None:
        """Queue one more pass of what is next; return its coded size (bytes), None if nothing is due at *now*."""
        if not self.due(now):
            return None
        newest = list(newest)
        stamp = (self._journal.newest_object(), tuple(row.digest for row in newest))
        if stamp != self._desired_of:
            self._desired = self._journal.carriers(desired_contents(newest))
            self._desired_of = stamp
            self._order.clear()
        found = self._next(unix_now)
        if found is None:
            self._due = now + min(AGAIN_S, self._every)
            return None
        self._journal.repeat_objects({found[0]})
        return found[1]

    def wait(self, now: float, seconds: float) -> None:
        """Repeat nothing for *seconds*: the link's time that the carousel may have."""
        self._due = now + seconds

    def forget(self) -> None:
        """Look afresh which objects carry the desired state: one is gone."""
        self._desired_of = None

    def _next(self, unix_now: float) -> tuple[int, int] | None:
        """Return (id, coded size) of the object that goes next; begins a round if one is due."""
        number, started = self._round()
        if started > unix_now:  # the clock was set back
            started = unix_now
            self._begin(number, started)
        while self._order:
            each = self._order.popleft()
            if self._waits(each[0], started, unix_now):
                return each
        objects = list(self._objects(unix_now))
        to_go = self._to_go(objects, started)
        if not to_go and started + self._every <= unix_now:
            number, started = number + 1, unix_now
            to_go = self._to_go(objects, started)
            if to_go:
                self._begin(number, started)
        first = rotated(len(objects), number) if objects else 0
        self._order.extend((each, size) for each, size, _, _ in objects[first:] + objects[:first] if each in to_go)
        return self._order.popleft() if self._order else None

    def _waits(self, object_id: int, started: float, unix_now: float) -> bool:
        """Whether an object is still there and was not sent for another reason since the round began."""
        row = self._journal.connection.execute(
            "SELECT sent FROM objects WHERE id = ? AND passes_left = 0", (object_id,)
        ).fetchone()
        return row is not None and not started <= row[0] <= unix_now

    def _to_go(self, objects: list[tuple[int, int, float, float]], started: float) -> set[int]:
        """Return what a round that began then has yet to repeat; what is new to the other side is not due."""
        settled = started - self._every
        return {each for each, _, sent, queued in objects if sent < started and min(sent, queued) <= settled}

    def _objects(self, unix_now: float) -> Iterator[tuple[int, int, float, float]]:
        """Yield (id, coded size, when sent last, when queued), as queued; a time to come was long ago."""
        rows = self._journal.connection.execute(
            "SELECT id, coded_size, sent, queued FROM objects"
            " WHERE passes_left = 0 AND sent IS NOT NULL AND kind <> 3 ORDER BY id"
        )
        for object_id, size, sent, queued in rows:
            if object_id in self._desired:
                yield object_id, size, *(moment if moment <= unix_now else 0.0 for moment in (sent, queued))

    def _round(self) -> tuple[int, float]:
        row = self._journal.connection.execute("SELECT round, started FROM carousel").fetchone()
        return (0, 0.0) if row is None else (int(row[0]), float(row[1]))

    def _begin(self, number: int, started: float) -> None:
        with transaction(self._journal.connection):
            self._journal.connection.execute("INSERT OR REPLACE INTO carousel VALUES (1, ?, ?)", (number, started))
