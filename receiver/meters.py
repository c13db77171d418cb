"""The link's past in the journal: each minute of a day, each hour of 30 days, each day of a year; then forgotten.

Rows are placed by the clock and forgotten by their number, so a clock that leaps years ahead and back again takes
nothing away. Uses the connection of a journal, and so belongs to its thread.
"""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from receiver.journal import ReceiverJournal
from receiver.margin import Meter
from runtime.database import transaction

MINUTE: Final = 60
HOUR: Final = 3_600
DAY: Final = 86_400
KEPT: Final = {MINUTE: 1_440, HOUR: 720, DAY: 366}  # span in seconds -> rows
_COLUMNS: Final = tuple(field.name for field in fields(Meter))


@dataclass(frozen=True, slots=True)
class Metered:
    """What came and was lost in the *span* seconds from *start* (Unix s)."""

    span: int
    start: int
    meter: Meter

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"start": self.start, "span_s": self.span, **self.meter.document()}


class Meters:
    """Adds to the series, and reads it."""

    def __init__(self, journal: ReceiverJournal) -> None:
        self._connection: sqlite3.Connection = journal.connection

    def add(self, meter: Meter, now: float) -> None:
        """Add what came since the last call to the minute, hour and day of *now* (Unix s): all or nothing."""
        with transaction(self._connection):
            for span, kept in KEPT.items():
                start = int(now // span * span)
                total = self._at(span, start).plus(meter)
                names, values = ", ".join(_COLUMNS), tuple(asdict(total).values())
                self._connection.execute(
                    f"INSERT INTO meters (span, start, {names}) VALUES (?, ?{', ?' * len(values)})"  # noqa: S608
                    f" ON CONFLICT (span, start) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in _COLUMNS)}",
                    (span, start, *values),
                )
                self._connection.execute(
                    "DELETE FROM meters WHERE span = ?1 AND number <= (SELECT number FROM meters WHERE span = ?1"
                    " ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                    (span, kept),
                )

    def series(self, span: int, limit: int, since: float | None = None) -> list[Metered]:
        """Return the newest *limit* of one span, the newest first; with *since* (Unix s) none that ended before."""
        rows = self._connection.execute(
            f"SELECT start, {', '.join(_COLUMNS)} FROM meters WHERE span = ?1"  # noqa: S608 - constants
            " AND (?2 IS NULL OR start + span > ?2) ORDER BY number DESC LIMIT ?3",
            (span, since, limit),
        )
        return [Metered(span, int(start), Meter(*values)) for start, *values in rows]

    def total(self, span: int, count: int) -> Meter:
        """Return the newest *count* of one span together."""
        total = Meter()
        for each in self.series(span, count):
            total = total.plus(each.meter)
        return total

    def _at(self, span: int, start: int) -> Meter:
        row = self._connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM meters WHERE span = ? AND start = ?",  # noqa: S608 - constants
            (span, start),
        ).fetchone()
        return Meter() if row is None else Meter(*row)
