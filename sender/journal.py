"""The sender's journal: where fetch and transmit meet. Fetch proposes, transmit signs, sends and remembers.

Every call is one short transaction; both roles and ``status`` open the file at once. Sizes are bytes, times Unix
seconds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.objects import Kind
from runtime.database import open_journal, transaction
from sender.journal_schema import MIGRATIONS


@dataclass(frozen=True, slots=True)
class QueuedObject:
    """One transport object as the queue knows it; *path* holds its coded bytes."""

    id: int
    kind: int
    coding: int
    digest: str
    content_size: int
    coded_digest: str
    coded_size: int
    path: Path
    label: str
    passes_left: int
    passes_done: int
    urgent: bool = False  # overtakes what is not
    spans: tuple[tuple[int, int], ...] = ()  # of coded bytes: a repair, of the blocks they touch


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """One signed release."""

    collection: str
    sequence: int
    digest: str
    images: str  # the proposal it was made from, canonical JSON
    envelope: bytes
    created: float
    lock: str = ""  # the lines of images.lock that it came from


OBJECT_COLUMNS = (
    "id, kind, coding, digest, content_size, coded_digest, coded_size, path, label, passes_left, passes_done, urgent"
)


class SenderJournal:
    """One connection to the journal; use one per thread."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection: sqlite3.Connection = open_journal(path, MIGRATIONS, owner="sender", read_only=read_only)

    @classmethod
    def existing(cls, path: Path) -> SenderJournal:
        """Open the journal of a sender that has run before, for writing; UserError if there is none yet."""
        cls(path, read_only=True).close()
        return cls(path)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    # --- fetch -----------------------------------------------------------------------------------------------

    def note_image(
        self,
        collection: str,
        reference: str,
        source: str,
        digest: str,
        state: str,
        now: float,
        error: str | None = None,
    ) -> None:
        """Record the state of one entry: pending, fetching, ready or failed (with its one-line error)."""
        with transaction(self.connection):
            self.connection.execute(
                "INSERT INTO images (collection, reference, source, digest, state, error, updated)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (collection, reference) DO UPDATE SET"
                " source = excluded.source, digest = excluded.digest, state = excluded.state,"
                " error = excluded.error, updated = excluded.updated",
                (collection, reference, source, digest, state, error, now),
            )

    def note_progress(self, collection: str, reference: str, done: int, total: int) -> None:
        """Record how much of an image has been fetched."""
        with transaction(self.connection):
            self.connection.execute(
                "UPDATE images SET bytes_done = ?, bytes_total = ? WHERE collection = ? AND reference = ?",
                (done, total, collection, reference),
            )

    def keep_images(self, wanted: Mapping[str, Iterable[str]]) -> None:
        """Forget the entries that are not wanted any more; *wanted* are references by collection."""
        keep = {(collection, reference) for collection, references in wanted.items() for reference in references}
        with transaction(self.connection):
            rows = self.connection.execute("SELECT collection, reference FROM images").fetchall()
            gone = [row for row in rows if row not in keep]
            self.connection.executemany("DELETE FROM images WHERE collection = ? AND reference = ?", gone)

    def closure(self, pin: str) -> tuple[dict[str, Any], bool] | None:
        """Return (document, complete) of a pin, or None."""
        row = self.connection.execute("SELECT document, complete FROM closures WHERE pin = ?", (pin,)).fetchone()
        return None if row is None else (json.loads(row[0]), bool(row[1]))

    def save_closure(self, pin: str, document: dict[str, Any], complete: bool, now: float) -> None:
        """Record what is beneath the root of a pin."""
        with transaction(self.connection):
            self.connection.execute(
                "INSERT OR REPLACE INTO closures VALUES (?, ?, ?, ?)",
                (pin, json.dumps(document, sort_keys=True), int(complete), now),
            )

    def forget_closure(self, pin: str) -> None:
        """Have the closure of a pin looked up afresh."""
        with transaction(self.connection):
            self.connection.execute("DELETE FROM closures WHERE pin = ?", (pin,))

    def not_carried(self, digests: Iterable[str]) -> list[str]:
        """Return those contents that no object carries yet, in the order given."""
        found = self.connection.execute
        return [d for d in digests if found("SELECT 1 FROM carried WHERE digest = ?", (d,)).fetchone() is None]

    def not_sent(self, digests: Iterable[str]) -> list[str]:
        """Return those contents of which no pass has left yet, in the order given."""
        query = (
            "SELECT 1 FROM carried JOIN objects ON objects.id = carried.object"
            " WHERE carried.digest = ? AND objects.passes_done > 0"
            " UNION ALL SELECT 1 FROM evicted WHERE digest = ?"
        )
        return [d for d in digests if self.connection.execute(query, (d, d)).fetchone() is None]

    def evicted(self, digests: Iterable[str]) -> set[str]:
        """Return those contents that were sent, and whose bytes were removed then."""
        found = self.connection.execute
        return {d for d in digests if found("SELECT 1 FROM evicted WHERE digest = ?", (d,)).fetchone() is not None}

    def queue_object(
        self,
        *,
        kind: int,
        coding: int,
        digest: str,
        content_size: int,
        coded_digest: str,
        coded_size: int,
        path: Path,
        label: str,
        passes: int,
        contents: Iterable[str],
        now: float,
        urgent: bool = False,
        cleared: bool = True,
    ) -> int:
        """Add an object to the end of the queue, carrying *contents*; return its id. Queued twice is queued once.

        With *urgent*, what else is queued and carries any of *contents* becomes urgent as well. What is not *cleared*
        waits until :meth:`clear` is told of something that it carries. What was sent whole before it was evicted has
        no passes to go: it is there for the carousel, and counts as sent when it was.
        """
        contents = list(contents)
        with transaction(self.connection):
            row = self.connection.execute(
                "SELECT id FROM objects WHERE digest = ? AND coded_digest = ?", (digest, coded_digest)
            ).fetchone()
            sent = self._sent_before_eviction(contents)
            if row is None:
                cursor = self.connection.execute(
                    "INSERT INTO objects (kind, coding, digest, content_size, coded_digest, coded_size, path, label,"
                    " passes_left, queued, urgent, passes_done, sent, cleared)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        kind,
                        coding,
                        digest,
                        content_size,
                        coded_digest,
                        coded_size,
                        str(path),
                        label,
                        passes if sent is None else 0,
                        now,
                        int(urgent and sent is None),
                        int(sent is not None),
                        sent,
                        int(cleared or sent is not None),
                    ),
                )
                row = (cursor.lastrowid,)
            self.connection.executemany(
                "INSERT OR IGNORE INTO carried VALUES (?, ?)", [(content, row[0]) for content in contents]
            )
            if urgent:
                self._mark_urgent({int(row[0])} | self.carriers(contents))
            return int(row[0])

    def _sent_before_eviction(self, contents: list[str]) -> float | None:
        """When the first of *contents* was sent, if all were sent and evicted; they are not evicted any more."""
        find = self.connection.execute
        rows = [find("SELECT sent FROM evicted WHERE digest = ?", (digest,)).fetchone() for digest in contents]
        self.connection.executemany("DELETE FROM evicted WHERE digest = ?", [(digest,) for digest in contents])
        return min((row[0] for row in rows if row is not None), default=None) if None not in rows else None

    def clear(self, digests: Iterable[str]) -> int:
        """Let the objects that carry these contents be sent; return how many waited for it."""
        waiting = {int(row[0]) for row in self.connection.execute("SELECT id FROM objects WHERE NOT cleared")}
        if not waiting:
            return 0
        ids = waiting & self.carriers(digests)
        with transaction(self.connection):
            self.connection.executemany("UPDATE objects SET cleared = 1 WHERE id = ?", [(each,) for each in ids])
        return len(ids)

    def make_urgent(self, digests: Iterable[str], *, repeat: bool = False) -> int:
        """Make the objects that carry these contents and have passes to go urgent; return how many carry them.

        With *repeat*, those that have none to go get one.
        """
        ids = self.carriers(digests)
        with transaction(self.connection):
            if repeat:
                self._repeat(ids)
            self._mark_urgent(ids)
        return len(ids)

    def _mark_urgent(self, ids: Iterable[int]) -> None:
        self.connection.executemany(
            "UPDATE objects SET urgent = 1 WHERE id = ? AND passes_left > 0", [(each,) for each in ids]
        )

    # --- transmit --------------------------------------------------------------------------------------------

    def next_epoch(self) -> int:
        """Return a strictly higher epoch than ever before; it is on disk when this returns."""
        with self.durably():
            row = self.connection.execute("SELECT epoch FROM epoch").fetchone()
            epoch = (row[0] if row else 0) + 1
            self.connection.execute("INSERT OR REPLACE INTO epoch VALUES (1, ?)", (epoch,))
        return int(epoch)

    def newest_releases(self) -> list[ReleaseRow]:
        """Return the newest release of every collection."""
        rows = self.connection.execute(
            "SELECT collection, MAX(sequence), digest, images, envelope, created, lock FROM releases"
            " GROUP BY collection ORDER BY collection"
        )
        return [ReleaseRow(*row) for row in rows]

    def save_release(self, release: ReleaseRow) -> None:
        """Record a signed release, on disk before it may leave."""
        with self.durably():
            self.connection.execute(
                "INSERT INTO releases (collection, sequence, digest, images, envelope, created, lock)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    release.collection,
                    release.sequence,
                    release.digest,
                    release.images,
                    release.envelope,
                    release.created,
                    release.lock,
                ),
            )

    def queue(self) -> list[QueuedObject]:
        """Return the objects with passes to go, first queued first."""
        rows = self.connection.execute(
            f"SELECT {OBJECT_COLUMNS} FROM objects WHERE passes_left > 0 AND cleared ORDER BY id"  # noqa: S608
        )
        return [object_of(row) for row in rows]

    def urgent(self) -> list[QueuedObject]:
        """Return the urgent objects with passes to go, first queued first: cheap however long the queue is."""
        rows = self.connection.execute(
            f"SELECT {OBJECT_COLUMNS} FROM objects WHERE urgent = 1 AND passes_left > 0 AND cleared ORDER BY id"  # noqa: S608
        )
        return [object_of(row) for row in rows]

    def newest_object(self) -> int:
        """Return the highest object id, 0 without objects: it changes when one is queued."""
        return int(self.connection.execute("SELECT COALESCE(MAX(id), 0) FROM objects").fetchone()[0])

    def be_brief(self) -> None:
        """Wait only 0.2 s from now on for another writer; then sqlite3.OperationalError, and the caller retries."""
        self.connection.execute("PRAGMA busy_timeout = 200")

    def note_pass(self, object_id: int, now: float) -> None:
        """Record that one pass of an object has left. After its last one it is urgent no more."""
        with transaction(self.connection):
            self.connection.execute(
                "UPDATE objects SET passes_left = MAX(passes_left - 1, 0), passes_done = passes_done + 1, sent = ?,"
                " urgent = (urgent AND passes_left > 1) WHERE id = ?",
                (now, object_id),
            )

    def repeat(self, digest: str) -> None:
        """Send an object once more, if nothing of it is queued already."""
        with transaction(self.connection):
            self.connection.execute(
                "UPDATE objects SET passes_left = 1 WHERE digest = ? AND passes_left = 0", (digest,)
            )

    def carriers(self, digests: Iterable[str]) -> set[int]:
        """Return the ids of the objects that carry these contents."""
        find = self.connection.execute
        rows = (find("SELECT object FROM carried WHERE digest = ?", (digest,)).fetchone() for digest in digests)
        return {int(row[0]) for row in rows if row is not None}

    def repeat_objects(self, ids: set[int]) -> None:
        """Queue one more pass of each of these objects that has none to go."""
        with transaction(self.connection):
            self._repeat(ids)

    def _repeat(self, ids: Iterable[int]) -> None:
        self.connection.executemany(
            "UPDATE objects SET passes_left = 1 WHERE id = ? AND passes_left = 0", [(each,) for each in ids]
        )

    def retire_releases(self, keep: Iterable[str]) -> list[Path]:
        """Take release objects other than those in *keep* (content digests) off the queue; return their files."""
        keep = set(keep)
        with transaction(self.connection):
            rows = self.connection.execute("SELECT id, digest, path FROM objects WHERE kind = 3").fetchall()
            old = [(object_id, path) for object_id, digest, path in rows if digest not in keep]
            self.connection.executemany("DELETE FROM objects WHERE id = ?", [(object_id,) for object_id, _ in old])
        return [Path(path) for _, path in old]

    def drop_object(self, object_id: int) -> None:
        """Forget an object whose bytes are gone, so that fetch prepares its contents again."""
        with transaction(self.connection):
            self.forget_object(object_id)

    def forget_object(self, object_id: int) -> None:
        """Forget an object in the caller's transaction."""
        self.connection.execute("DELETE FROM carried WHERE object = ?", (object_id,))
        self.connection.execute("DELETE FROM objects WHERE id = ?", (object_id,))

    @contextmanager
    def durably(self) -> Iterator[None]:
        """A transaction that is on disk when the block ends (SQLite: synchronous=FULL syncs the log at commit)."""
        self.connection.execute("PRAGMA synchronous = FULL")
        try:
            with transaction(self.connection):
                yield
        finally:
            self.connection.execute("PRAGMA synchronous = NORMAL")

    # --- both, and status ------------------------------------------------------------------------------------

    def finish_round(self, token: str, failed: int, now: float) -> None:
        """Record that the fetch round *token* of ``run --once`` is over, with so many failed images."""
        with transaction(self.connection):
            self.connection.execute("DELETE FROM rounds WHERE finished < ?", (now - 86_400,))
            self.connection.execute("INSERT OR REPLACE INTO rounds VALUES (?, ?, ?)", (token, failed, now))

    def round_failed(self, token: str) -> int | None:
        """Return how many images failed in a finished round, or None while it goes on."""
        row = self.connection.execute("SELECT failed FROM rounds WHERE token = ?", (token,)).fetchone()
        return None if row is None else int(row[0])

    def set_live(self, role: str, document: dict[str, Any], now: float) -> None:
        """Publish what a role is doing right now, for ``status``."""
        with transaction(self.connection):
            self.connection.execute("INSERT OR REPLACE INTO live VALUES (?, ?, ?)", (role, json.dumps(document), now))

    def live(self) -> dict[str, tuple[dict[str, Any], float]]:
        """Return role -> (document, when)."""
        rows = self.connection.execute("SELECT role, document, updated FROM live")
        return {role: (json.loads(document), updated) for role, document, updated in rows}

    def images(self) -> list[dict[str, Any]]:
        """Return every image row as a dictionary, for ``status``."""
        cursor = self.connection.execute("SELECT * FROM images ORDER BY collection, reference")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def epoch(self) -> int | None:
        """Return the newest epoch given out, None before the first session."""
        row = self.connection.execute("SELECT epoch FROM epoch").fetchone()
        return None if row is None else int(row[0])

    def sent_since(self, moment: float) -> tuple[int, int]:
        """Return (objects, coded bytes) of which a pass left at or after *moment*; releases are not counted."""
        row = self.connection.execute(
            "SELECT COUNT(*), COALESCE(SUM(coded_size), 0) FROM objects WHERE sent >= ? AND kind <> ?",
            (moment, int(Kind.RELEASE)),
        ).fetchone()
        return int(row[0]), int(row[1])

    def bytes_to_send(self) -> int:
        """Return the coded bytes of all passes to go; releases are not counted."""
        row = self.connection.execute(
            "SELECT COALESCE(SUM(coded_size * passes_left), 0) FROM objects"
            " WHERE passes_left > 0 AND cleared AND kind <> ?",
            (int(Kind.RELEASE),),
        ).fetchone()
        return int(row[0])

    def totals(self) -> dict[str, int]:
        """Return objects and coded bytes queued, waiting for approval and sent; releases are not counted."""
        row = self.connection.execute(
            "SELECT COALESCE(SUM(passes_left > 0 AND cleared), 0),"
            " COALESCE(SUM((passes_left > 0 AND cleared) * coded_size), 0),"
            " COALESCE(SUM(passes_left > 0 AND cleared AND urgent), 0),"
            " COALESCE(SUM(NOT cleared), 0), COALESCE(SUM((NOT cleared) * coded_size), 0),"
            " COALESCE(SUM(passes_done > 0), 0), COALESCE(SUM((passes_done > 0) * coded_size), 0) FROM objects"
            " WHERE kind <> ?",
            (int(Kind.RELEASE),),
        ).fetchone()
        names = "queued_objects queued_bytes queued_urgent waiting_objects waiting_bytes sent_objects sent_bytes"
        return dict(zip(names.split(), map(int, row), strict=True))


def object_of(row: tuple[Any, ...]) -> QueuedObject:
    """Return what a row of OBJECT_COLUMNS says."""
    fields = list(row)
    fields[7] = Path(fields[7])
    fields[11] = bool(fields[11])
    return QueuedObject(*fields)
