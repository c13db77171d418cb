"""The receiver's journal: where capture and publish meet. Capture notes what arrived, publish what it put where.

Every call is one short transaction; both roles and ``status`` open the file at once. Sizes are bytes, times Unix
seconds.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from receiver.journal_schema import MIGRATIONS
from receiver.publish_config import ONLY_TARGET
from runtime.database import open_journal, transaction

REMEDY: Final = "capture sets it aside and begins a new one when it starts"


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """One verified release."""

    collection: str
    sequence: int
    digest: str
    envelope: bytes
    received: float
    published: float | None


@dataclass(frozen=True, slots=True)
class Partial:
    """An object of which some bytes are on disk."""

    coded_digest: str
    kind: int
    coding: int
    digest: str
    content_size: int
    coded_size: int


class ReceiverJournal:
    """One connection to the journal; use one per thread."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection: sqlite3.Connection = open_journal(
            path, MIGRATIONS, owner="receiver", read_only=read_only, remedy=REMEDY
        )
        self._path, self._file = path, os.stat(path)

    @property
    def replaced(self) -> bool:
        """Whether another file is at its place by now, or none: what is written here, nobody will read."""
        try:
            return not os.path.samestat(self._file, os.stat(self._path))
        except OSError:
            return True

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    # --- capture: what must never go back ----------------------------------------------------------------------

    def epochs(self) -> dict[bytes, tuple[int, bytes]]:
        """Return sender key id -> (highest epoch, its session id)."""
        rows = self.connection.execute("SELECT sender, epoch, session FROM epochs")
        return {bytes(sender): (int(epoch), bytes(session)) for sender, epoch, session in rows}

    def save_epoch(self, sender: bytes, epoch: int, session: bytes) -> None:
        """Record the highest epoch of a sender; on disk when this returns."""
        self._durably("INSERT OR REPLACE INTO epochs VALUES (?, ?, ?)", (sender, epoch, session))

    def save_release(self, collection: str, sequence: int, digest: str, envelope: bytes, now: float) -> None:
        """Record a verified release; on disk when this returns. What a damaged row had of the same one is mended."""
        self._durably(
            "INSERT INTO releases VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT (collection, sequence)"
            " DO UPDATE SET envelope = excluded.envelope WHERE digest = excluded.digest",
            (collection, sequence, digest, envelope, now),
        )

    def note_capture(
        self,
        document: dict[str, Any] | None,
        counts: dict[str, int],
        heard: dict[str, tuple[int, str, float]],
        now: float,
    ) -> None:
        """Record capture's live document, add to the counters, and note what beacons named: all or nothing."""
        with transaction(self.connection):
            if document is not None:
                self._put_live("capture", document, now)
            self._add(counts)
            self.connection.executemany(
                "INSERT OR REPLACE INTO heard VALUES (?, ?, ?, ?)",
                [(collection, *noted) for collection, noted in heard.items()],
            )

    # --- capture: objects ----------------------------------------------------------------------------------------

    def open_partial(self, partial: Partial, now: float) -> list[tuple[int, int]]:
        """Record that an object is being received; return its finished ranges [start, end)."""
        with transaction(self.connection):
            self.connection.execute(
                "INSERT INTO partials"
                " (coded_digest, kind, coding, digest, content_size, coded_size, created, updated)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (coded_digest) DO UPDATE SET"
                " kind = excluded.kind, coding = excluded.coding, digest = excluded.digest,"
                " content_size = excluded.content_size, coded_size = excluded.coded_size",
                (
                    partial.coded_digest,
                    partial.kind,
                    partial.coding,
                    partial.digest,
                    partial.content_size,
                    partial.coded_size,
                    now,
                    now,
                ),
            )
        rows = self.connection.execute(
            "SELECT start, end FROM ranges WHERE coded_digest = ? ORDER BY start", (partial.coded_digest,)
        )
        return [(int(start), int(end)) for start, end in rows]

    def save_ranges(self, finished: Iterable[tuple[str, list[tuple[int, int]]]], now: float) -> None:
        """Replace the finished ranges of objects; their bytes must be on disk before."""
        with transaction(self.connection):
            for coded_digest, ranges in finished:
                self.connection.execute("DELETE FROM ranges WHERE coded_digest = ?", (coded_digest,))
                self.connection.executemany(
                    "INSERT INTO ranges VALUES (?, ?, ?)", [(coded_digest, start, end) for start, end in ranges]
                )
                self.connection.execute(
                    "UPDATE partials SET updated = ?, idle = 0 WHERE coded_digest = ?", (now, coded_digest)
                )

    def ranges(self, coded_digest: str) -> list[tuple[int, int]]:
        """Return the finished ranges [start, end) of a partial object, without opening it."""
        rows = self.connection.execute(
            "SELECT start, end FROM ranges WHERE coded_digest = ? ORDER BY start", (coded_digest,)
        )
        return [(int(start), int(end)) for start, end in rows]

    def close_partial(self, coded_digest: str) -> None:
        """Forget a partial object: it is whole, or was given up. On disk when this returns.

        Otherwise a power cut could bring its ranges back when its file is gone already, and another one in its place.
        """
        self._durably("DELETE FROM partials WHERE coded_digest = ?", (coded_digest,))

    def partials(self) -> list[tuple[Partial, int, float]]:
        """Return (object, bytes finished, when last updated), oldest first."""
        rows = self.connection.execute(
            "SELECT p.coded_digest, kind, coding, digest, content_size, coded_size,"
            " (SELECT COALESCE(SUM(end - start), 0) FROM ranges r WHERE r.coded_digest = p.coded_digest), updated"
            " FROM partials p ORDER BY updated"
        )
        return [(Partial(*row[:6]), int(row[6]), float(row[7])) for row in rows]

    def note_unpacked(self, digest: str, now: float, members: Iterable[str] = ()) -> None:
        """Record that a batch (with the blobs that it brought) or a release object has been dealt with."""
        with transaction(self.connection):
            self.connection.execute("INSERT OR REPLACE INTO unpacked VALUES (?, ?)", (digest, now))
            self.connection.executemany(
                "INSERT OR IGNORE INTO members VALUES (?, ?)", [(digest, member) for member in members]
            )

    def members(self, batch: str) -> list[str]:
        """Return the digests of the blobs that an unpacked batch brought."""
        return [
            digest for (digest,) in self.connection.execute("SELECT digest FROM members WHERE batch = ?", (batch,))
        ]

    def is_unpacked(self, digest: str) -> bool:
        """Whether a batch or release object has been dealt with before."""
        return self.connection.execute("SELECT 1 FROM unpacked WHERE digest = ?", (digest,)).fetchone() is not None

    # --- publish -------------------------------------------------------------------------------------------------

    def newest_releases(self) -> list[ReleaseRow]:
        """Return the newest release of every collection."""
        rows = self.connection.execute(
            "SELECT collection, MAX(sequence), digest, envelope, received, published FROM releases"
            " GROUP BY collection ORDER BY collection"
        )
        return [ReleaseRow(*row) for row in rows]

    def newest_marks(self) -> dict[str, tuple[int, str]]:
        """Return collection -> (sequence, digest) of its newest release, without the envelopes."""
        rows = self.connection.execute("SELECT collection, MAX(sequence), digest FROM releases GROUP BY collection")
        return {collection: (int(sequence), digest) for collection, sequence, digest in rows}

    def release(self, collection: str, sequence: int) -> ReleaseRow | None:
        """Return one release, None if it is not here."""
        row = self.connection.execute(
            "SELECT collection, sequence, digest, envelope, received, published FROM releases"
            " WHERE collection = ? AND sequence = ?",
            (collection, sequence),
        ).fetchone()
        return None if row is None else ReleaseRow(*row)

    def releases(self) -> list[ReleaseRow]:
        """Return every release, newest first."""
        rows = self.connection.execute(
            "SELECT collection, sequence, digest, envelope, received, published FROM releases"
            " ORDER BY collection, sequence DESC"
        )
        return [ReleaseRow(*row) for row in rows]

    def heard(self) -> dict[str, tuple[int, str, float]]:
        """Return collection -> (sequence, digest, when) as beacons name them."""
        rows = self.connection.execute("SELECT collection, sequence, digest, updated FROM heard")
        return {collection: (int(sequence), digest, updated) for collection, sequence, digest, updated in rows}

    def note_image(
        self,
        release: ReleaseRow,
        name: str,
        digest: str,
        state: str,
        now: float,
        *,
        missing: int = 0,
        missing_bytes: int = 0,
        total_bytes: int = 0,
        error: str | None = None,
        target: str = ONLY_TARGET,
    ) -> None:
        """Record how an image stands in *target*: receiving, publishing, published, failed or held (with why)."""
        with transaction(self.connection):
            self.connection.execute(
                "INSERT OR REPLACE INTO image_states VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    target,
                    release.collection,
                    release.sequence,
                    name,
                    digest,
                    state,
                    error,
                    missing,
                    missing_bytes,
                    total_bytes,
                    now,
                ),
            )

    def note_published(
        self, release: ReleaseRow, name: str, references: Mapping[str, str], now: float, *, target: str = ONLY_TARGET
    ) -> None:
        """Record where *references* (tags and digests) of repository *name* lead in *target*."""
        with transaction(self.connection):
            self.connection.executemany(
                "INSERT OR REPLACE INTO published VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (target, name, reference, digest, release.collection, release.sequence, now)
                    for reference, digest in references.items()
                ],
            )

    def published(self, target: str = ONLY_TARGET) -> dict[tuple[str, str], str]:
        """Return (name in *target*, tag or digest) -> digest."""
        rows = self.connection.execute("SELECT name, tag, digest FROM published WHERE target = ?", (target,))
        return {(name, tag): digest for name, tag, digest in rows}

    def publisher(self, name: str, tag: str, target: str = ONLY_TARGET) -> str | None:
        """Return the collection that put *tag* into *target* last, None if none did."""
        row = self.connection.execute(
            "SELECT collection FROM published WHERE target = ? AND name = ? AND tag = ?", (target, name, tag)
        ).fetchone()
        return None if row is None else str(row[0])

    def note_locations(self, repository: str, digests: Iterable[str], target: str = ONLY_TARGET) -> None:
        """Record that *repository* of *target* holds these blobs."""
        with transaction(self.connection):
            self.connection.executemany(
                "INSERT OR REPLACE INTO locations VALUES (?, ?, ?)",
                [(target, digest, repository) for digest in digests],
            )

    def locations(self, target: str = ONLY_TARGET) -> dict[str, str]:
        """Return digest -> a repository of *target* that held it last."""
        rows = self.connection.execute("SELECT digest, repository FROM locations WHERE target = ?", (target,))
        return dict(rows.fetchall())

    def finish_release(self, release: ReleaseRow, now: float) -> None:
        """Record that every image of a release is published, and forget the image states of older releases."""
        with transaction(self.connection):
            self.connection.execute(
                "UPDATE releases SET published = ? WHERE collection = ? AND sequence = ?",
                (now, release.collection, release.sequence),
            )
            self.connection.execute(
                "DELETE FROM image_states WHERE collection = ? AND sequence < ?",
                (release.collection, release.sequence),
            )

    # --- both, and status ------------------------------------------------------------------------------------------

    def images(self) -> list[dict[str, Any]]:
        """Return every image state as a dictionary, for ``status``."""
        cursor = self.connection.execute(
            "SELECT * FROM image_states ORDER BY collection, sequence, name, digest, target"
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def set_live(self, role: str, document: dict[str, Any], now: float) -> None:
        """Publish what a role is doing right now, for ``status``."""
        with transaction(self.connection):
            self._put_live(role, document, now)

    def _put_live(self, role: str, document: dict[str, Any], now: float) -> None:
        self.connection.execute("INSERT OR REPLACE INTO live VALUES (?, ?, ?)", (role, json.dumps(document), now))

    def live(self) -> dict[str, tuple[dict[str, Any], float]]:
        """Return role -> (document, when)."""
        rows = self.connection.execute("SELECT role, document, updated FROM live")
        return {role: (json.loads(document), updated) for role, document, updated in rows}

    def _add(self, counts: dict[str, int]) -> None:
        self.connection.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            [(name, count) for name, count in counts.items() if count],
        )

    def counters(self) -> dict[str, int]:
        """Return every counter; drops are named ``drop.<reason>``."""
        return {name: int(value) for name, value in self.connection.execute("SELECT name, value FROM counters")}

    def changes(self) -> int:
        """Return a number that changes when another connection writes (SQLite: PRAGMA data_version)."""
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    def _durably(self, statement: str, values: tuple[Any, ...]) -> None:
        self.connection.execute("PRAGMA synchronous = FULL")
        try:
            with transaction(self.connection):
                self.connection.execute(statement, values)
        finally:
            self.connection.execute("PRAGMA synchronous = NORMAL")
