"""Source blocks that repair codes have asked for: rows of the journal, and what the schedule makes of them.

A repair is a pass over some blocks of an object, beside that object's own passes. What is kept are spans of coded
bytes, not block numbers: a session with another geometry sends the blocks that touch them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from protocol.ranges import RangeSet
from runtime.database import transaction
from sender.journal import OBJECT_COLUMNS, QueuedObject, SenderJournal, object_of

Spans = tuple[tuple[int, int], ...]
_REPAIRED: Final = ", ".join(f"objects.{column}" for column in OBJECT_COLUMNS.split(", "))


class RepairQueue:
    """The repairs that have not left yet. A queued repair has the negative of its row's number for an id."""

    def __init__(self, journal: SenderJournal) -> None:
        self._journal = journal

    def add(self, repairs: Mapping[int, Spans], now: float) -> None:
        """Queue spans of the objects with these ids; what is queued already stays as it is."""
        with transaction(self._journal.connection):
            self._journal.connection.executemany(
                "INSERT OR IGNORE INTO repairs (object, spans, asked) VALUES (?, ?, ?)",
                [(each, json.dumps(spans), now) for each, spans in repairs.items()],
            )

    def queue(self) -> list[QueuedObject]:
        """Return the repairs, first asked first: cheap where there are none."""
        rows = self._journal.connection.execute(
            f"SELECT {_REPAIRED}, repairs.id, repairs.spans"  # noqa: S608
            " FROM repairs JOIN objects ON objects.id = repairs.object ORDER BY repairs.id"
        )
        return [
            replace(
                object_of(row[:-2]),
                id=-int(row[-2]),
                passes_left=1,
                passes_done=0,
                spans=tuple((int(start), int(end)) for start, end in json.loads(row[-1])),
            )
            for row in rows
        ]

    def done(self, queued: QueuedObject) -> None:
        """Forget a repair: its last block has left."""
        with transaction(self._journal.connection):
            self._journal.connection.execute("DELETE FROM repairs WHERE id = ?", (-queued.id,))

    def drop_object(self, queued: QueuedObject) -> None:
        """Forget an object, or that of a repair, whose bytes are gone: fetch prepares its contents again."""
        if not queued.spans:
            self._journal.drop_object(queued.id)
            return
        row = self._journal.connection.execute("SELECT object FROM repairs WHERE id = ?", (-queued.id,)).fetchone()
        if row is not None:
            self._journal.drop_object(int(row[0]))

    def totals(self) -> dict[str, int]:
        """Return how many repairs are queued and the coded bytes that they were asked for."""
        rows = self._journal.connection.execute("SELECT spans FROM repairs").fetchall()
        return {"queued_repairs": len(rows), "repair_bytes": sum(spanned(json.loads(row[0])) for row in rows)}


def spanned(spans: Iterable[tuple[int, int]]) -> int:
    """Return the bytes in *spans*."""
    return RangeSet(spans).total


def bytes_to_go(queued: QueuedObject) -> int:
    """Return the coded bytes of all passes that a queued object or repair has to go."""
    return spanned(queued.spans) if queued.spans else queued.coded_size * queued.passes_left
