"""The part of the sender's journal that leads to a release: answers, proposals, approvals, rollbacks, history.

The same file and rules as journal.py: each call is one short transaction. Times are Unix seconds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from runtime.database import transaction
from sender.desired import state_of
from sender.journal import ReleaseRow, SenderJournal
from sender.resolve import Answer, Tagged


@dataclass(frozen=True, slots=True)
class Proposal:
    """A desired state that is to become a release: *images* is canonical JSON, *lock* the lines it came from."""

    collection: str
    images: str
    lock: str
    updated: float


@dataclass(frozen=True, slots=True)
class Rollback:
    """A collection that stays at the contents of release *sequence*."""

    proposal: Proposal
    sequence: int


@dataclass(frozen=True, slots=True)
class Approval:
    """Agreement to one payload; *key* is the hex key id, '' for `approve` without a key."""

    key: str
    signature: bytes
    given: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What was answered about a rule, when, and when to ask again."""

    answer: Answer
    asked: float
    due: float


@dataclass(frozen=True, slots=True)
class ByHand:
    """An image that a person has asked for on the command line."""

    collection: str
    reference: str
    urgent: bool


class Decisions:
    """Uses the connection of *journal*, and so belongs to its thread."""

    def __init__(self, journal: SenderJournal) -> None:
        self._connection: sqlite3.Connection = journal.connection

    # --- what registries said ------------------------------------------------------------------------------------

    def answers(self) -> dict[str, Asked]:
        """Return the answers by the key of their rule; one that cannot be read is left out, and asked for again."""
        found = {}
        rows = self._connection.execute("SELECT rule, document, asked, due FROM answers")
        for rule, document, asked, due in rows:
            try:
                found[rule] = Asked(_read_answer(json.loads(document)), asked, due)
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def save_answers(self, answers: Mapping[str, Asked]) -> None:
        """Record answers."""
        rows = [(rule, json.dumps(asdict(one.answer)), one.asked, one.due) for rule, one in answers.items()]
        with transaction(self._connection):
            self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)

    def keep_answers(self, rules: Iterable[str]) -> None:
        """Forget the answers about rules that images.yaml no longer has."""
        keep = set(rules)
        with transaction(self._connection):
            known = [rule for (rule,) in self._connection.execute("SELECT rule FROM answers").fetchall()]
            gone = [(rule,) for rule in known if rule not in keep]
            self._connection.executemany("DELETE FROM answers WHERE rule = ?", gone)

    # --- proposals -----------------------------------------------------------------------------------------------

    def propose(self, collection: str, images: str, lock: str, now: float) -> bool:
        """Record the desired state of a collection; return whether it differs from the one before."""
        with transaction(self._connection):
            row = self._connection.execute(
                "SELECT images, lock FROM proposals WHERE collection = ?", (collection,)
            ).fetchone()
            if row == (images, lock):
                return False
            if row is not None and row[0] == images:  # new words for the same state: what was approved stays so
                self._connection.execute("UPDATE proposals SET lock = ? WHERE collection = ?", (lock, collection))
                return False
            self._connection.execute(
                "INSERT OR REPLACE INTO proposals (collection, images, updated, lock) VALUES (?, ?, ?, ?)",
                (collection, images, now, lock),
            )
            return True

    def proposal(self, collection: str) -> Proposal | None:
        """Return the desired state recorded last, whether or not it is a release already."""
        return next((one for one in self.proposals() if one.collection == collection), None)

    def proposals(self) -> list[Proposal]:
        """Return the desired state of every collection."""
        rows = self._connection.execute("SELECT collection, images, lock, updated FROM proposals ORDER BY collection")
        return [Proposal(*row) for row in rows]

    def stamps(self) -> list[tuple[Any, ...]]:
        """Return something that changes with every proposal, approval and rollback: cheap to compare."""
        found = self._connection.execute
        return [
            *found("SELECT collection, updated FROM proposals ORDER BY collection"),
            *found("SELECT 'approvals', COUNT(*), COALESCE(MAX(given), 0) FROM approvals"),
            *found("SELECT collection, sequence, updated FROM rollbacks ORDER BY collection"),
        ]

    # --- approvals and rollbacks -----------------------------------------------------------------------------------

    def approve(self, collection: str, payload: str, approval: Approval) -> None:
        """Record agreement to the payload with the digest *payload*."""
        with transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO approvals VALUES (?, ?, ?, ?, ?)",
                (collection, payload, approval.key, approval.signature, approval.given),
            )

    def approvals(self, collection: str, payload: str) -> list[Approval]:
        """Return who agreed to the payload."""
        rows = self._connection.execute(
            "SELECT key, signature, given FROM approvals WHERE collection = ? AND payload = ? ORDER BY given",
            (collection, payload),
        )
        return [Approval(*row) for row in rows]

    def forget_approvals(self, collection: str, but: str) -> None:
        """Forget the approvals of a collection's payloads other than *but*."""
        with transaction(self._connection):
            self._connection.execute("DELETE FROM approvals WHERE collection = ? AND payload <> ?", (collection, but))

    def roll_back(self, rollback: Rollback) -> None:
        """Hold a collection at the contents of an earlier release."""
        proposal = rollback.proposal
        with transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO rollbacks VALUES (?, ?, ?, ?, ?)",
                (proposal.collection, rollback.sequence, proposal.images, proposal.lock, proposal.updated),
            )

    def end_rollback(self, collection: str) -> bool:
        """Let a collection follow what is proposed again; False if it did."""
        with transaction(self._connection):
            cursor = self._connection.execute("DELETE FROM rollbacks WHERE collection = ?", (collection,))
            return cursor.rowcount > 0

    def rollbacks(self) -> dict[str, Rollback]:
        """Return the collections that are held."""
        rows = self._connection.execute("SELECT collection, images, lock, updated, sequence FROM rollbacks")
        return {row[0]: Rollback(Proposal(*row[:4]), row[4]) for row in rows}

    # --- releases --------------------------------------------------------------------------------------------------

    def releases(self, collection: str | None = None) -> list[ReleaseRow]:
        """Return all releases, oldest first; envelopes are left out, but where the images have to be read there."""
        envelope = "CASE images WHEN '' THEN envelope ELSE x'' END"
        where, values = ("", ()) if collection is None else (" WHERE collection = ?", (collection,))
        rows = self._connection.execute(
            f"SELECT collection, sequence, digest, images, {envelope}, created, lock FROM releases{where}"  # noqa: S608
            " ORDER BY collection, sequence",
            values,
        )
        return [_with_images(ReleaseRow(*row)) for row in rows]

    def release(self, collection: str, sequence: int) -> ReleaseRow | None:
        """Return one release."""
        row = self._connection.execute(
            "SELECT collection, sequence, digest, images, envelope, created, lock FROM releases"
            " WHERE collection = ? AND sequence = ?",
            (collection, sequence),
        ).fetchone()
        return None if row is None else _with_images(ReleaseRow(*row))

    def verdict(self, judged: str) -> tuple[str, ...] | None:
        """Return who signed what was found good before, None if it was not."""
        row = self._connection.execute("SELECT signers FROM verdicts WHERE judged = ?", (judged,)).fetchone()
        return None if row is None else tuple(json.loads(row[0]))

    def save_verdict(self, judged: str, signers: tuple[str, ...], now: float) -> None:
        """Record that something was found good."""
        with transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (judged, json.dumps(signers), now)
            )

    # --- by hand ---------------------------------------------------------------------------------------------------

    def send_by_hand(self, one: ByHand, now: float) -> None:
        """Want an image besides those of images.yaml."""
        with transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO by_hand VALUES (?, ?, ?, ?)",
                (one.collection, one.reference, int(one.urgent), now),
            )

    def by_hand(self) -> list[ByHand]:
        """Return the images that are wanted by hand."""
        rows = self._connection.execute("SELECT collection, reference, urgent FROM by_hand ORDER BY added")
        return [ByHand(collection, reference, bool(urgent)) for collection, reference, urgent in rows]

    def forget_by_hand(self, collection: str, reference: str) -> bool:
        """Want an image no longer; False if nobody did."""
        with transaction(self._connection):
            cursor = self._connection.execute(
                "DELETE FROM by_hand WHERE collection = ? AND reference = ?", (collection, reference)
            )
            return cursor.rowcount > 0


def _with_images(row: ReleaseRow) -> ReleaseRow:
    return row if row.images else replace(row, images=state_of(row.envelope))


def _read_answer(document: dict[str, Any]) -> Answer:
    return Answer(
        tags={tag: Tagged(**found) for tag, found in document["tags"].items()},
        failures=dict(document["failures"]),
        error=document["error"],
        warning=document["warning"],
        etag=document["etag"],
        dates=document["dates"],
    )
