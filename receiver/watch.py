"""Capture's own eye on the link and this side: raises alarms and clears them, for the log and the journal.

Runs in the ledger thread, so nothing that receives waits for it, and needs neither publish nor anybody asking.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

import structlog

from receiver.alarms import Alarm, Facts, judge
from receiver.config import Alarms
from receiver.incidents import Incident, Incidents
from receiver.journal import ReceiverJournal
from receiver.meters import MINUTE, Meters
from runtime.database import transaction

log = structlog.get_logger()


class StandingAlarms:
    """Those in the journal. Uses its connection, and so belongs to its thread."""

    def __init__(self, journal: ReceiverJournal) -> None:
        self._connection: sqlite3.Connection = journal.connection

    def all(self) -> dict[tuple[str, str], Alarm]:
        """Return (code, subject) -> alarm."""
        rows = self._connection.execute("SELECT code, text, subject, since FROM alarms")
        return {(code, subject): Alarm(code, text, subject, since) for code, text, subject, since in rows}

    def replace(self, alarms: list[Alarm]) -> None:
        """Let exactly these stand."""
        with transaction(self._connection):
            self._connection.execute("DELETE FROM alarms")
            self._connection.executemany(
                "INSERT OR REPLACE INTO alarms (code, subject, severity, text, since) VALUES (?, ?, ?, ?, ?)",
                [(each.code, each.subject, each.severity.value, each.text, each.since) for each in alarms],
            )


class Watch:
    """Compares what stands with what stood. One for each life of the role."""

    def __init__(
        self, journal: ReceiverJournal, bounds: Alarms, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._journal = journal
        self._bounds = bounds
        self._clock = clock
        self._standing = StandingAlarms(journal)
        self._incidents = Incidents(journal)
        self._meters = Meters(journal)
        self._behind: dict[str, tuple[int, float]] = {}  # collection -> release heard of, since when (monotonic s)

    def look(self, capture: dict[str, Any], now: float) -> None:
        """Judge *capture*'s live document and the journal at *now* (Unix s); OperationalError of the journal."""
        stood = self._standing.all()
        stand: dict[tuple[str, str], Alarm] = {}
        for alarm in judge(self._facts(capture, now), self._bounds):
            key = alarm.code, alarm.subject
            former = stood.get(key)
            stand[key] = Alarm(alarm.code, alarm.text, alarm.subject, now if former is None else former.since)
        began = [alarm for key, alarm in stand.items() if key not in stood]
        ended = [alarm for key, alarm in stood.items() if key not in stand]
        if stand != stood:
            self._standing.replace(list(stand.values()))
        self._incidents.note([*(_incident("alarm_raised", each) for each in began)], now)
        self._incidents.note([*(_incident("alarm_cleared", each) for each in ended)], now)
        for each in began:
            facts = {"code": each.code, "subject": each.subject, "severity": each.severity.value, "text": each.text}
            log.warning("alarm_raised", **facts, remedy=each.remedy)
        for each in ended:
            log.info("alarm_cleared", code=each.code, subject=each.subject, text=each.text)

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
