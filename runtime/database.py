"""Opens a SQLite journal: write-ahead log, forward migrations, and errors that name the file and the remedy.

Refuses to know any table; the schema comes as migrations. One connection serves one thread unless asked for.
"""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from runtime.errors import UserError

FILE_MODE = 0o640
CHECK_BYTES_MAX = 64 << 20  # quick_check reads the whole file; above this, opening would take too long
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def open_journal(
    path: str | os.PathLike[str],
    migrations: Sequence[str],
    *,
    owner: str = "",
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
    busy_timeout_s: float = 10.0,
    read_only: bool = False,
    any_thread: bool = False,
    remedy: str = "move it and its -wal and -shm files away to start with an empty one",
) -> sqlite3.Connection:
    """Open ``path``, creating it (0640) and running those ``migrations`` that it has not seen.

    A file that another ``owner`` made is refused: its tables would be taken for ours.
    ``migrations[n]`` is SQL that leads from ``user_version`` n to n+1; each runs in a transaction of its own.
    The connection is in autocommit mode: group writes with ``transaction``. With ``synchronous`` NORMAL a
    power cut may lose the newest transactions but never tears one; FULL loses none that was committed.
    ``read_only`` creates and migrates nothing. ``any_thread`` hands the duty to serialise to the caller.
    Raises ``UserError`` for a file that is damaged, newer than us, locked, or cannot be opened.
    """
    path = Path(path)
    try:
        if not read_only:
            _create(path)
        elif not path.exists():
            raise UserError(f"{path}: no journal here yet; start the service once")
        uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=not any_thread
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}") from None
    except sqlite3.Error as error:
        raise UserError(f"{path}: cannot be opened: {error}") from None
    try:
        _prepare(connection, path, synchronous, busy_timeout_s, read_only)
        _migrate(connection, path, migrations, read_only, owner)
    except sqlite3.Error as error:
        connection.close()
        raise _explained(path, error, remedy) from None
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Group writes: takes the write lock at once (BEGIN IMMEDIATE), commits at the end, undoes on any error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _create(path: Path) -> None:
    """Make the empty file ourselves: SQLite's -wal and -shm files take over its mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError:
        return
    try:
        os.fchmod(descriptor, FILE_MODE)
    finally:
        os.close(descriptor)


def _prepare(
    connection: sqlite3.Connection, path: Path, synchronous: str, busy_timeout_s: float, read_only: bool
) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    if path.stat().st_size <= CHECK_BYTES_MAX:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            error = sqlite3.DatabaseError(str(verdict).splitlines()[0])
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
    if read_only:
        return
    _switch_to_wal(connection, busy_timeout_s)
    connection.execute(f"PRAGMA synchronous = {synchronous}")


def _switch_to_wal(connection: sqlite3.Connection, busy_timeout_s: float) -> None:
    """Two processes may create a journal at once; SQLite does not wait for this lock by itself."""
    deadline = time.monotonic() + busy_timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[str], read_only: bool, owner: str
) -> None:
    ours = zlib.crc32(owner.encode()) & 0x7FFFFFFF  # application_id is a signed 32-bit number; 0: not set
    version = _version(connection, path, len(migrations), ours)
    if read_only and version == 0:  # made a moment ago, its first migration still running
        raise UserError(f"{path}: no journal here yet; start the service once")
    if read_only and version < len(migrations):
        raise UserError(f"{path}: journal version {version} is older than {len(migrations)}; start the service once")
    while version < len(migrations):
        with transaction(connection):
            # another process may have been faster while we waited for the lock
            version = _version(connection, path, len(migrations), ours)
            if version == 0:
                connection.execute(f"PRAGMA application_id = {ours}")
            if version < len(migrations):
                for statement in _statements(migrations[version]):
                    connection.execute(statement)
                version += 1
                connection.execute(f"PRAGMA user_version = {version}")


def _version(connection: sqlite3.Connection, path: Path, known: int, ours: int) -> int:
    theirs = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if theirs not in (0, ours):
        raise UserError(f"{path}: is the journal of the other side; give each side a state folder of its own")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > known:
        raise UserError(
            f"{path}: journal version {version} is newer than this program understands ({known}); "
            "install the version that wrote it, or a later one"
        )
    return version


def _statements(script: str) -> Iterator[str]:
    """One statement at a time: ``executescript`` would commit our transaction."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        yield pending


def _explained(path: Path, error: sqlite3.Error, remedy: str) -> UserError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        return UserError(f"{path}: is damaged or no journal ({error}); {remedy}")
    if code == sqlite3.SQLITE_BUSY:
        return UserError(f"{path}: is locked by another process; end that first (lsof {path} names it)")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return UserError(f"{path}: cannot be written for user id {os.geteuid()} ({error}); check owner and mode")
    if code == sqlite3.SQLITE_FULL:
        return UserError(f"{path}: the disk is full; make room and start again")
    return UserError(f"{path}: cannot be used as a journal: {error}")
