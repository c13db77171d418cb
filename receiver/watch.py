"""Raises alarms and clears them, for the log and the journal; and capture's own eye on the link and this side.

``Watch`` runs in the ledger thread: nothing that receives waits for it, and it needs no other role.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import structlog

from receiver.alarms import BY_CAPTURE, CATALOGUE, Alarm, Facts, judge
from receiver.config import Alarms
from receiver.incidents import Incident, Incidents
from receiver.journal import ReceiverJournal
from receiver.meters import MINUTE, Meters
from runtime.database import transaction

log = structlog.get_logger()


class StandingAlarms:
    """Those in the journal, of the given codes. Uses its connection, and so belongs to its thread."""

    def __init__(self, journal: ReceiverJournal, codes: Collection[str] = frozenset(CATALOGUE)) -> None:
        self._connection: sqlite3.Connection = journal.connection
        self._incidents = Incidents(journal)
        self._codes = codes

    def all(self) -> dict[tuple[str, str], Alarm]:
        """Return (code, subject) -> alarm."""
        rows = self._connection.execute("SELECT code, text, subject, since FROM alarms")
        return {
            (code, subject): Alarm(code, text, subject, since)
            for code, text, subject, since in rows
            if code in self._codes
        }

    def settle(self, found: Iterable[Alarm], now: float) -> None:
        """Let exactly *found* stand from now on (Unix s), and tell of each that begins or ends.

        OperationalError of the journal: then it is as if nobody had looked.
        """
        stood = self.all()
        stand: dict[tuple[str, str], Alarm] = {}
        for alarm in found:
            key = alarm.code, alarm.subject
            former = stood.get(key)
            stand[key] = Alarm(alarm.code, alarm.text, alarm.subject, now if former is None else former.since)
        began = [alarm for key, alarm in stand.items() if key not in stood]
        ended = [alarm for key, alarm in stood.items() if key not in stand]
        if stand != stood:
            self._replace(stood, stand)
        self._incidents.note([*(_incident("alarm_raised", each) for each in began)], now)
        self._incidents.note([*(_incident("alarm_cleared", each) for each in ended)], now)
        for each in began:
            facts = {"code": each.code, "subject": each.subject, "severity": each.severity.value, "text": each.text}
            log.warning("alarm_raised", **facts, remedy=each.remedy)
        for each in ended:
            log.info("alarm_cleared", code=each.code, subject=each.subject, text=each.text)

    def _replace(self, stood: Iterable[tuple[str, str]], stand: Mapping[tuple[str, str], Alarm]) -> None:
        with transaction(self._connection):
            self._connection.executemany("DELETE FROM alarms WHERE code = ? AND subject = ?", list(stood))
            self._connection.executemany(
                "INSERT OR REPLACE INTO alarms (code, subject, severity, text, since) VALUES (?, ?, ?, ?, ?)",
                [(each.code, each.subject, each.severity.value, each.text, each.since) for each in stand.values()],
            )


class Watch:
    """Compares what stands with what stood. One for each life of the role."""

    def __init__(
        self, journal: ReceiverJournal, bounds: Alarms, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._journal = journal
        self._bounds = bounds
        self._clock = clock
        self._standing = StandingAlarms(journal, BY_CAPTURE)
        self._meters = Meters(journal)
        self._behind: dict[str, tuple[int, float]] = {}  # collection -> release heard of, since when (monotonic s)

    def look(self, capture: dict[str, Any], now: float) -> None:
        """Judge *capture*'s live document and the journal at *now* (Unix s); OperationalError of the journal."""
        self._standing.settle(judge(self._facts(capture, now), self._bounds), now)

    def _facts(self, capture: dict[str, Any], now: float) -> Facts:
        publish, told = self._journal.live().get("publish", ({}, 0.0))
        gaps = self._gaps()
        return Facts(
            now=now,
            capture=capture,
            capture_told=now,
            publish=publish,
            publish_told=told,
            behind={name: (sequence, self._clock() - since) for name, (sequence, since) in self._behind.items()},
            gaps=gaps,
            failed=self._failed(),
            hour=self._meters.total(MINUTE, 60),
        )

    def _gaps(self) -> dict[str, int]:
        """Return the releases that beacons name and that are not here, noting since when."""
        marks = self._journal.newest_marks()
        gaps = {
            name: sequence
            for name, (sequence, _, _) in self._journal.heard().items()
            if sequence > marks.get(name, (0, ""))[0]
        }
        self._behind = {
            name: self._behind[name] if name in self._behind else (sequence, self._clock())
            for name, sequence in gaps.items()
        }
        return gaps

    def _failed(self) -> dict[str, tuple[str, str]]:
        newest = {name: sequence for name, (sequence, _) in self._journal.newest_marks().items()}
        return {
            f"{row['name']}@{row['digest']}": (str(row["name"]), str(row["error"]))
            for row in self._journal.images()
            if row["state"] == "failed" and newest.get(row["collection"]) == row["sequence"]
        }


def _incident(event: str, alarm: Alarm) -> Incident:
    return Incident(event, alarm.subject, reason=alarm.code, detail=alarm.text)
