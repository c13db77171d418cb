"""The part of the receiver's journal that remembers what went wrong: dropped, refused, set aside, and alarms.

Bounded by number, not by time: a clock that leaps must not make the past go away.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from receiver.journal import ReceiverJournal
from runtime.database import transaction

KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Incident:
    """One thing that happened: *event* as the log names it, *subject* what it happened to (a digest, a release)."""

    event: str
    subject: str
    reason: str = ""
    detail: str = ""
    bytes: int = 0
    moment: float = 0.0  # Unix s, when it was noted
    number: int = 0  # in the order in which they happened, whatever the clock said


class Incidents:
    """Uses the connection of *journal*, and so belongs to its thread."""

    def __init__(self, journal: ReceiverJournal) -> None:
        self._connection: sqlite3.Connection = journal.connection

    def note(self, incidents: Iterable[Incident], now: float) -> None:
        """Add what has happened, and forget the oldest beyond KEPT."""
        rows = [(now, each.event, each.subject, each.reason, each.detail, each.bytes) for each in incidents]
        if not rows:
            return
        with transaction(self._connection):
            self._connection.executemany(
                "INSERT INTO incidents (moment, event, subject, reason, detail, bytes) VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._connection.execute(
                "DELETE FROM incidents WHERE number <= (SELECT MAX(number) FROM incidents) - ?", (KEPT,)
            )

    def newest(self, limit: int, since: float | None = None) -> list[Incident]:
        """Return the newest *limit*, newest first; with *since* only those noted then (Unix s) or later."""
        rows = self._connection.execute(
            "SELECT event, subject, reason, detail, bytes, moment, number FROM incidents"
            " WHERE ?1 IS NULL OR moment >= ?1 ORDER BY number DESC LIMIT ?2",
            (since, limit),
        )
        return [Incident(*row) for row in rows]
