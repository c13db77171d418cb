"""Which releases are kept, and when one shrinks too much to be believed: the journal's part of retention.

Ages are counted, not read off a clock: publish adds the seconds that it has been at work, so a clock that leaps by
years deletes nothing. The newest and the desired release of a collection are always kept. While a release that
shrinks waits for a person, nothing of its collection is let go.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.release import Release
from receiver.alarms import Alarm
from receiver.desired import desired_marks, release_of
from receiver.journal import ReceiverJournal
from receiver.retention_settings import Retention
from runtime.database import transaction
from runtime.errors import UserError

Key = tuple[str, int]
"""Collection and sequence of a release."""

TICK_S_MAX = 3_600.0  # what one look may add: a process that was stopped for a week has observed nothing


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A release that drops *dropped* of the *total* images that release *baseline* had."""

    collection: str
    sequence: int
    baseline: int
    dropped: int
    total: int

    def __str__(self) -> str:
        return (
            f"release {self.collection} {self.sequence} drops {self.dropped} of the {self.total} images of release "
            f"{self.baseline}: nothing is deleted until `checkvalve-receiver confirm {self.collection} "
            f"{self.sequence}`, or a release that brings them back"
        )


def slots(release: Release) -> set[tuple[str, str]]:
    """Return what a release decides: (name, tag), the digest where there is no tag."""
    return {(image.name, tag) for image in release.images for tag in image.tags or (image.root.digest,)}


def shrinks(before: Release, after: Release, rule: Retention) -> tuple[int, int] | None:
    """Return (images dropped, images before) if that is more than *rule* lets pass, else None."""
    old = slots(before)
    dropped = len(old - slots(after))
    if not dropped:
        return None
    much = dropped > rule.shrink * len(old) and dropped >= rule.shrink_images
    return (dropped, len(old)) if much or dropped == len(old) else None


class Keeping:
    """Uses the connection of *journal*, and so belongs to its thread."""

    def __init__(self, journal: ReceiverJournal, rule: Retention) -> None:
        self._journal = journal
        self._connection = journal.connection
        self._rule = rule

    @property
    def counted(self) -> float:
        """The seconds that publish has been at work, ever."""
        row = self._connection.execute("SELECT counted FROM retention_clock").fetchone()
        return float(row[0]) if row else 0.0

    def tick(self, elapsed: float) -> None:
        """Let *elapsed* seconds pass, note releases that came, and which ones another has replaced."""
        current = self._current()
        with transaction(self._connection) as connection:
            now = self.counted + min(max(elapsed, 0.0), TICK_S_MAX)
            connection.execute("INSERT OR REPLACE INTO retention_clock VALUES (1, ?)", (now,))
            connection.execute(
                "INSERT INTO retained (collection, sequence, arrival) SELECT collection, sequence,"
                " (SELECT COALESCE(MAX(arrival), 0) FROM retained) + ROW_NUMBER() OVER (ORDER BY rowid)"
                " FROM releases AS r WHERE NOT EXISTS (SELECT 1 FROM retained AS k"
                " WHERE k.collection = r.collection AND k.sequence = r.sequence)"
            )
            rows = connection.execute("SELECT collection, sequence, since FROM retained WHERE NOT retired").fetchall()
            changes = [
                (None if (collection, sequence) in current else now, collection, sequence)
                for collection, sequence, since in rows
                if (since is None) != ((collection, sequence) in current)
            ]
            connection.executemany("UPDATE retained SET since = ? WHERE collection = ? AND sequence = ?", changes)
        self._advance_baselines()

    def came_again(self, collection: str, sequence: int) -> None:
        """Count a release as the one that came last, and as young: it was imported."""
        self.tick(0.0)
        with transaction(self._connection) as connection:
            connection.execute(
                "UPDATE retained SET retired = 0, arrival = (SELECT MAX(arrival) + 1 FROM retained),"
                " since = CASE WHEN since IS NULL THEN NULL ELSE ? END WHERE collection = ? AND sequence = ?",
                (self.counted, collection, sequence),
            )

    def kept(self) -> set[Key]:
        """Return the releases whose contents and tags are kept; those that were let go before are not among them."""
        current = self._current()
        rows = self._connection.execute(
            "SELECT r.collection, r.sequence, k.since, k.retired, k.arrival, ROW_NUMBER() OVER"
            " (PARTITION BY r.collection ORDER BY k.arrival IS NULL DESC, k.arrival DESC)"
            " FROM releases AS r LEFT JOIN retained AS k USING (collection, sequence)"
        ).fetchall()
        frozen = {one.collection for one in self.shrunk()}
        now, rule = self.counted, self._rule
        found = set(current)
        for collection, sequence, since, retired, arrival, rank in rows:
            if retired:
                continue
            young = rule.age is not None and since is not None and now - since < rule.age
            recent = rule.releases is not None and rank <= rule.releases
            unseen = arrival is None or since is None
            if young or recent or unseen or rule.keeps_everything or collection in frozen:
                found.add((collection, sequence))
        return found

    def to_retire(self, kept: set[Key]) -> list[Key]:
        """Return the releases whose time is over and whose contents are still here."""
        rows = self._connection.execute(
            "SELECT collection, sequence FROM retained WHERE NOT retired ORDER BY collection, sequence"
        )
        return [(collection, sequence) for collection, sequence in rows if (collection, sequence) not in kept]

    def shrunk(self) -> list[Shrunk]:
        """Return the newest releases that drop too much of what their baseline had."""
        found = []
        for collection, (sequence, _) in sorted(self._journal.newest_marks().items()):
            baseline = self._baseline(collection)
            if baseline == sequence:
                continue
            before, after = self._release(collection, baseline), self._release(collection, sequence)
            lost = shrinks(before, after, self._rule)
            if lost is not None:
                found.append(Shrunk(collection, sequence, baseline, *lost))
        return found

    def confirm(self, collection: str, sequence: int) -> Shrunk:
        """Accept that release *sequence* drops what it drops; UserError if that does not wait for anybody."""
        waiting = {one.collection: one for one in self.shrunk()}
        found = waiting.get(collection)
        if found is None or found.sequence != sequence:
            others = ", ".join(f"{one.collection} {one.sequence}" for one in waiting.values())
            raise UserError(
                f"release {collection} {sequence} waits for no confirmation; "
                f"{f'these do: {others}' if others else 'none does'}"
            )
        self._set_baselines([(collection, sequence)])
        return found

    def _current(self) -> set[Key]:
        marks = [*self._journal.newest_marks().items(), *desired_marks(self._journal).items()]
        return {(collection, mark[0]) for collection, mark in marks}

    def _baseline(self, collection: str) -> int:
        """Return the release to compare with; before publish has ever looked, the oldest whose contents are here."""
        row = self._connection.execute(
            "SELECT sequence FROM baselines JOIN releases USING (collection, sequence) WHERE collection = ?",
            (collection,),
        ).fetchone()
        if row is None:
            row = self._connection.execute(
                "SELECT MIN(sequence) FROM releases LEFT JOIN retained USING (collection, sequence)"
                " WHERE collection = ? AND COALESCE(retired, 0) = 0",
                (collection,),
            ).fetchone()
        if row is None or row[0] is None:
            return self._journal.newest_marks()[collection][0]
        return int(row[0])

    def _advance_baselines(self) -> None:
        waiting = {one.collection for one in self.shrunk()}
        found = [
            (collection, mark[0])
            for collection, mark in self._journal.newest_marks().items()
            if collection not in waiting and self._baseline(collection) != mark[0]
        ]
        known = {name for (name,) in self._connection.execute("SELECT collection FROM baselines")}
        found += [
            (collection, self._baseline(collection))
            for collection in self._journal.newest_marks()
            if collection not in known and collection not in dict(found)
        ]
        if found:
            self._set_baselines(found)

    def _set_baselines(self, found: list[Key]) -> None:
        with transaction(self._connection) as connection:
            connection.executemany("INSERT OR REPLACE INTO baselines VALUES (?, ?)", found)

    def _release(self, collection: str, sequence: int) -> Release:
        row = self._journal.release(collection, sequence)
        assert row is not None
        return release_of(row)


def alarms(journal: ReceiverJournal, rule: Retention) -> list[Alarm]:
    """Return what a person has to decide: releases that shrink, and newer ones that wait behind an activation."""
    try:
        found = [Alarm("release_shrinks", str(one), one.collection) for one in Keeping(journal, rule).shrunk()]
    except UserError as error:
        found = [Alarm("nothing_deleted", f"nothing is deleted: {error}")]
    newest, shown = journal.newest_marks(), desired_marks(journal)
    found += [
        Alarm(
            "release_waits",
            f"release {collection} {mark[0]} waits: release {shown[collection][0]} is activated; "
            f"`checkvalve-receiver activate --latest --collection {collection}` ends that",
            collection,
        )
        for collection, mark in sorted(newest.items())
        if mark[0] > shown[collection][0]
    ]
    return found
