"""The part of the receiver's journal that tells targets apart: which there are, and which release each one has whole.

The same file and rules as journal.py: each call is one short transaction. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from receiver.journal import ReceiverJournal, ReleaseRow
from runtime.database import transaction


class TargetJournal:
    """What publish notes of its targets; on the connection of *journal*."""

    def __init__(self, journal: ReceiverJournal) -> None:
        self._connection = journal.connection

    def set_targets(self, places: Mapping[str, str]) -> None:
        """Record the targets of the settings, name -> place for people; image states of others are forgotten."""
        with transaction(self._connection):
            self._connection.execute("DELETE FROM targets")
            self._connection.executemany("INSERT INTO targets VALUES (?, ?)", list(places.items()))
            self._connection.execute("DELETE FROM image_states WHERE target NOT IN (SELECT name FROM targets)")

    def targets(self) -> dict[str, str]:
        """Return the targets that publish worked for last: name -> place, by name."""
        return dict(self._connection.execute("SELECT name, place FROM targets ORDER BY name").fetchall())

    def note_complete(self, target: str, release: ReleaseRow, now: float) -> None:
        """Record that *target* has every image of a release."""
        with transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO target_releases VALUES (?, ?, ?, ?)",
                (target, release.collection, release.sequence, now),
            )

    def complete(self) -> dict[tuple[str, str], tuple[int, float]]:
        """Return (target, collection) -> (the newest release that it has whole, since when)."""
        rows = self._connection.execute(
            "SELECT target, collection, MAX(sequence), published FROM target_releases GROUP BY target, collection"
        )
        return {(target, collection): (int(sequence), when) for target, collection, sequence, when in rows}
