"""The start of a receiver's state: a journal that is sound, and a floor beneath it that it agrees with.

A damaged journal is set aside under a name that says when, and a new one begun. What can be told from the old one and
proves itself is taken over: releases by their signatures, finished bytes of partial objects because their digest is
checked when they are whole. Everything else (what was published where, counters) the roles find out again. The spool
needs no journal. Only capture, alone in its state folder, may call this, and `run` before it starts anything.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import structlog

from protocol.errors import WireError
from protocol.trust import ReleaseMark
from receiver.floor import COPIES, Floor, Marks
from receiver.incidents import Incident, Incidents
from receiver.journal import Partial, ReceiverJournal
from receiver.senders import Trust
from runtime.errors import UserError

_SUFFIXES: Final = ("", "-wal", "-shm")
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

log = structlog.get_logger()


def begin(path: Path, trust: Trust) -> Floor:
    """Make the journal at *path* usable and return the floor, on disk twice and no lower than the journal.

    UserError if the journal is damaged and the floor lost as well: then nobody knows what is old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    floor = Floor(path.parent)
    if floor.marks.epochs and not (path.exists() and path.stat().st_size):
        log.error("journal_lost", path=str(path), mended="a new one is begun, above the floor")
    damage = damage_of(path)
    if damage is not None:
        _replace(path, trust, floor, damage)
    journal = ReceiverJournal(path)
    try:
        if floor.sound < floor.present:
            log.error(
                "floor_damaged", copies=floor.present, sound=floor.sound, taken_from="journal and what is sound"
            )
        releases = {name: ReleaseMark(*mark) for name, mark in journal.newest_marks().items()}
        floor.raise_to(Marks(journal.epochs(), releases))
        for sender, (epoch, session) in floor.marks.epochs.items():
            if epoch > journal.epochs().get(sender, (0, b""))[0]:
                journal.save_epoch(sender, epoch, session)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written: {error.strerror}; make room or mend its mode") from None
    except sqlite3.OperationalError as error:
        raise UserError(f"{path}: cannot be written: {error}; make room and start again") from None
    finally:
        journal.close()
    return floor


def damage_of(path: Path) -> str | None:
    """Return what is wrong with the bytes of the journal, None if nothing is. Looks at all of it."""
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10.0)) as connection:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
            return None  # locked, unreadable, full: opening it says so
        return str(error)
    return None if verdict == "ok" else verdict.splitlines()[0]


def _replace(path: Path, trust: Trust, floor: Floor, damage: str) -> None:
    if not floor.sound:
        raise UserError(
            f"{path}: is damaged ({damage}), and so is what would tell old sessions and releases from new ones "
            f"({', '.join(COPIES)}); restore them from a backup, or move them all away to begin as a new receiver, "
            "which believes the first signed session that it hears"
        )
    aside = _set_aside(path)
    journal = ReceiverJournal(path)
    try:
        releases, partials = _salvage(aside, journal, trust, floor)
        found = f"{releases} releases and {partials} partial objects taken over"
        Incidents(journal).note([Incident("journal_replaced", aside.name, detail=f"{damage}; {found}")], time.time())
    finally:
        journal.close()
    log.error("journal_replaced", path=str(path), error=damage, set_aside=str(aside), found=found)


def _set_aside(path: Path) -> Path:
    """Rename the journal and what belongs to it, so that SQLite can open it under the new name; return that."""
    stamp, number = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), 1
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    while aside.exists():  # a clock that was set back, or a disk that damages one after another
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    for suffix in _SUFFIXES[1:]:  # first what the journal is nothing without
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    path.rename(aside)
    return aside


def _salvage(aside: Path, journal: ReceiverJournal, trust: Trust, floor: Floor) -> tuple[int, int]:
    """Take over what proves itself; return how many releases and partial objects."""
    releases = partials = 0
    try:
        with contextlib.closing(sqlite3.connect(f"{aside.absolute().as_uri()}?mode=ro", uri=True)) as old:
            releases = _releases(old, journal, trust, floor)
            ranges: dict[str, list[tuple[int, int]]] = {}
            for digest, start, end in _rows(old, "SELECT coded_digest, start, end FROM ranges"):
                ranges.setdefault(str(digest), []).append((int(start), int(end)))
            columns = "coded_digest, kind, coding, digest, content_size, coded_size"
            for row in _rows(old, f"SELECT {columns} FROM partials"):  # noqa: S608 - a constant
                partials += _partial(journal, Partial(*row), ranges.get(str(row[0]), []))
    except (sqlite3.DatabaseError, ValueError, TypeError):
        pass  # not even its head can be read
    return releases, partials


def _rows(old: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """Yield rows until one cannot be read."""
    with contextlib.suppress(sqlite3.DatabaseError):
        yield from old.execute(query)


def _releases(old: sqlite3.Connection, journal: ReceiverJournal, trust: Trust, floor: Floor) -> int:
    """Take over the releases of each collection whose newest is among them: an older one must not become desired."""
    found: dict[str, list[tuple[str, int, str, bytes, float]]] = {}
    for row in _rows(old, "SELECT collection, sequence, digest, envelope, received FROM releases"):
        collection, sequence, digest, envelope, received = row
        if not isinstance(envelope, bytes) or not isinstance(received, float):
            continue
        try:
            signed = trust.open(envelope)
        except WireError:
            continue
        if (signed.release.collection, signed.release.sequence, signed.digest) == (collection, sequence, digest):
            found.setdefault(collection, []).append((collection, sequence, digest, envelope, received))
    taken = 0
    for collection, rows in found.items():
        newest = max(rows, key=lambda row: row[1])
        if floor.marks.releases.get(collection) == ReleaseMark(newest[1], newest[2]):
            for row in rows:
                journal.save_release(*row)
            taken += len(rows)
    return taken


def _partial(journal: ReceiverJournal, partial: Partial, ranges: list[tuple[int, int]]) -> bool:
    sizes = partial.kind, partial.coding, partial.content_size, partial.coded_size
    if not all(isinstance(each, int) for each in sizes) or not all(
        0 <= start < end <= partial.coded_size for start, end in ranges
    ):
        return False
    journal.open_partial(partial, time.time())
    journal.save_ranges([(partial.coded_digest, ranges)], time.time())
    return True
