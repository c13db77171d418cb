"""The border's part of the receiver's journal: verdicts, what people decided, and what was published before.

The same file and rules as journal.py: each call is one short transaction. Times are Unix seconds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from receiver.journal import ReceiverJournal
from runtime.database import transaction

Choice = Literal["released", "rejected"]
KEPT_S: Final = 180 * 86_400.0  # verdicts about what nobody asks about any more


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of an image. *judged* is what it was judged by; *told* are the reasons in the audit log."""

    judged: str
    faults: tuple[str, ...] = ()  # against the image spec: no person can let it pass
    held: tuple[str, ...] = ()  # against the policy
    signers: tuple[str, ...] = ()
    updated: float = 0.0
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided about an image."""

    name: str
    digest: str
    choice: Choice
    reason: str
    actor: str
    decided: float


class BorderJournal:
    """Uses the connection of *journal*, and so belongs to its thread."""

    def __init__(self, journal: ReceiverJournal) -> None:
        self._connection: sqlite3.Connection = journal.connection

    def verdict(self, collection: str, name: str, digest: str) -> Verdict | None:
        """Return the newest verdict about an image."""
        row = self._connection.execute(
            "SELECT judged, faults, held, signers, updated, told FROM border_verdicts"
            " WHERE collection = ? AND name = ? AND digest = ?",
            (collection, name, digest),
        ).fetchone()
        if row is None:
            return None
        faults, held, signers, told = (tuple(json.loads(row[at])) for at in (1, 2, 3, 5))
        return Verdict(row[0], faults, held, signers, row[4], told)

    def save_verdict(self, collection: str, name: str, digest: str, verdict: Verdict) -> None:
        """Record a verdict in the place of the one before, and forget those that are very old."""
        with transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO border_verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    collection,
                    name,
                    digest,
                    verdict.judged,
                    *(json.dumps(texts) for texts in (verdict.faults, verdict.held, verdict.signers)),
                    verdict.updated,
                    json.dumps(verdict.told),
                ),
            )
            self._connection.execute("DELETE FROM border_verdicts WHERE updated < ?", (verdict.updated - KEPT_S,))

    def decide(self, decision: Decision, record: Callable[[], object]) -> None:
        """Record what a person decided, on disk when this returns; *record* puts it into the audit log.

        If *record* fails nothing is decided; a crash may leave the audit log ahead of the journal, never behind it.
        Rejected is content, whatever its name; released is one name of it, which also ends its rejection.
        """
        ends = " AND choice = 'rejected'" if decision.choice == "released" else ""
        self._connection.execute("PRAGMA synchronous = FULL")
        try:
            with transaction(self._connection):
                self._connection.execute(
                    f"DELETE FROM border_decisions WHERE digest = ?{ends}",  # noqa: S608
                    (decision.digest,),
                )
                self._connection.execute(
                    "INSERT OR REPLACE INTO border_decisions (name, digest, choice, reason, actor, decided)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        decision.name,
                        decision.digest,
                        decision.choice,
                        decision.reason,
                        decision.actor,
                        decision.decided,
                    ),
                )
                record()
        finally:
            self._connection.execute("PRAGMA synchronous = NORMAL")

    def rejected(self) -> dict[str, Decision]:
        """Return what is rejected, by digest."""
        rows = self._connection.execute(
            "SELECT name, digest, choice, reason, actor, decided FROM border_decisions WHERE choice = 'rejected'"
        )
        return {row[1]: Decision(*row) for row in rows}

    def decision(self, name: str, digest: str) -> Decision | None:
        """Return what counts for an image: that its content is rejected, or that it is released under this name."""
        row = self._connection.execute(
            "SELECT name, digest, choice, reason, actor, decided FROM border_decisions"
            " WHERE digest = ? AND (choice = 'rejected' OR name = ?) ORDER BY choice LIMIT 1",
            (digest, name),
        ).fetchone()
        return None if row is None else Decision(*row)

    def newest(self) -> int:
        """Return a number that rises with every decision."""
        return int(self._connection.execute("SELECT COALESCE(MAX(number), 0) FROM border_decisions").fetchone()[0])

    def decided_since(self, number: int) -> list[str]:
        """Return the digests that were decided about after *number*."""
        rows = self._connection.execute("SELECT digest FROM border_decisions WHERE number > ?", (number,))
        return [digest for (digest,) in rows]

    def was_published(self, name: str, digest: str) -> bool:
        """Whether the audit log has it that the image was published."""
        return (
            self._connection.execute(
                "SELECT 1 FROM border_published WHERE name = ? AND digest = ?", (name, digest)
            ).fetchone()
            is not None
        )

    def note_published(self, name: str, digest: str) -> None:
        """Note that the audit log has it."""
        with transaction(self._connection):
            self._connection.execute("INSERT OR IGNORE INTO border_published VALUES (?, ?)", (name, digest))
