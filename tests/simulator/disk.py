"""A folder on a disk that can lose its power: our own code runs on real files, and afterwards the folder is put into
a state that a power cut at that moment could have left.

What may be lost is what POSIX and SQLite allow: bytes of a file since its last fsync, page by page; names made,
renamed and removed since the last fsync of their folder, each for itself, a rename as a whole; transactions of a
journal since the last one that was committed with ``synchronous = FULL``, the newest first. Nothing is flushed for
real. Crash points are the calls themselves: a cut at call *n* happens before that call does anything.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any, Final

PAGE: Final = 4_096


class PowerCut(BaseException):
    """The machine is off: nothing that the process still does has any effect on the disk."""


class Loss(Enum):
    """What a crash takes with it."""

    NOTHING = "killed"  # the process died, the kernel writes everything in the end
    EVERYTHING = "all that was not synced"
    SOMETHING = "some of what was not synced"


@dataclass(frozen=True)
class _Change:
    """One change of names, not yet durable: *inode* is now at *path* (None: nothing is), and no more at *former*."""

    path: str
    inode: int | None
    former: str | None = None


@dataclass
class _Journal:
    """The committed states of one SQLite file since the last that is durable, which is the first here."""

    states: list[bytes] = field(default_factory=list)


class Disk:
    """The folder *root*. Only while :func:`watched` is active for it, and for one process at a time."""

    def __init__(self, root: Path, random: Random) -> None:
        self.root = root
        self.calls = 0  # that changed something, since ever
        self.dead = False
        self.cut_at: int | None = None  # the call before which the power goes
        self.loss: Loss | None = None  # what goes with it; drawn if not given
        self._random = random
        self.lock = threading.RLock()
        self._names: dict[str, int] = {}  # durable: path -> inode
        self._bytes: dict[int, bytes] = {}  # durable, by inode
        self._folders: set[str] = set()
        self._changes: list[_Change] = []
        self._journals: dict[str, _Journal] = {}
        self._left: dict[str, bytes] | None = None  # the files that the cut left, once there was one
        root.mkdir(parents=True, exist_ok=True)

    def settle(self) -> None:
        """Take everything that is there now for durable; journals must be closed."""
        for path in self.root.rglob("*"):
            if path.is_dir():
                self._folders.add(str(path))
            elif path.suffix == ".sqlite":
                self._journals[str(path)] = _Journal([path.read_bytes()])
            else:
                inode = path.stat().st_ino
                self._names[str(path)], self._bytes[inode] = inode, path.read_bytes()

    def owns(self, path: object) -> bool:
        """Whether *path* is in the folder."""
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(f"{self.root}/")

    def call(self) -> None:
        """Count a call; PowerCut if the power is gone, or goes now. The lock is held."""
        if not self.dead and self.calls == self.cut_at:
            self.cut(
                self.loss or self._random.choice((Loss.SOMETHING, Loss.SOMETHING, Loss.EVERYTHING, Loss.NOTHING))
            )
        if self.dead:
            raise PowerCut
        self.calls += 1

    # --- what is done to it; the lock is held -----------------------------------------------------------------------

    def named(self, path: str, inode: int | None, former: str | None = None) -> None:
        """Note a change of names."""
        self._changes.append(_Change(path, inode, former))

    def synced(self, descriptor: int) -> None:
        """Make a file's bytes, or a folder's names, durable."""
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            folder = os.readlink(f"/proc/self/fd/{descriptor}")
            self._apply([change for change in self._changes if os.path.dirname(change.path) == folder])
            self._changes = [change for change in self._changes if os.path.dirname(change.path) != folder]
        else:
            self._bytes[found.st_ino] = _content(descriptor)

    def committed(self, path: str, state: bytes, durable: bool) -> None:
        """Note a transaction of the journal at *path*."""
        journal = self._journals.setdefault(path, _Journal())
        if durable:
            journal.states.clear()
        journal.states.append(state)

    def folder(self, path: str) -> None:
        """Note a new folder; folders stay."""
        self._folders.add(path)

    def cut(self, loss: Loss) -> None:
        """Turn the power off: from now on every call raises PowerCut."""
        with self.lock:
            if self.dead:
                return
            self.dead = True
            now = {str(path): path for path in self.root.rglob("*") if path.is_file() and not self._is_journal(path)}
            contents = {path.stat().st_ino: path.read_bytes() for path in now.values()}
            random = self._random
            if loss is Loss.NOTHING:
                self._left = {name: contents[path.stat().st_ino] for name, path in now.items()}
            else:
                kept = [change for change in self._changes if loss is Loss.SOMETHING and random.random() < 0.5]
                self._apply(kept)
                self._left = {
                    name: self._after(loss, self._bytes.get(inode, b""), contents.get(inode))
                    for name, inode in self._names.items()
                }
            for path, journal in self._journals.items():
                last = len(journal.states) - 1
                kept_until = {Loss.NOTHING: last, Loss.EVERYTHING: 0}.get(loss, random.randint(0, last))
                self._left[path] = journal.states[kept_until]

    def restart(self) -> None:
        """Put what is left on the disk; the power is on again. Nobody may use the folder any more."""
        assert self._left is not None, "there was no power cut"
        self.dead, self.cut_at = False, None
        shutil.rmtree(self.root)
        for folder in sorted({str(self.root), *self._folders, *map(os.path.dirname, self._left)}):
            os.makedirs(folder, exist_ok=True)
        self._names, self._bytes, self._changes = {}, {}, []
        for name, content in self._left.items():
            path = Path(name)
            path.write_bytes(content)
            if name in self._journals:
                self._journals[name].states = [content]
            else:
                inode = path.stat().st_ino
                self._names[name], self._bytes[inode] = inode, content
        self._left = None

    def _apply(self, changes: list[_Change]) -> None:
        for change in changes:
            if change.former is not None and self._names.get(change.former) == change.inode:
                del self._names[change.former]
            if change.inode is None:
                self._names.pop(change.path, None)
            else:
                self._names[change.path] = change.inode

    def _after(self, loss: Loss, durable: bytes, current: bytes | None) -> bytes:
        """Return a file's bytes after a cut: of each page that was written since the sync, the old or the new."""
        if loss is Loss.EVERYTHING or current is None or current == durable:
            return durable
        size = self._random.choice((len(durable), len(current)))
        mixed = bytearray(size)
        for at in range(0, size, PAGE):
            source = self._random.choice((durable, current))
            page = source[at : min(at + PAGE, size)]
            mixed[at : at + len(page)] = page
        return bytes(mixed)

    def _is_journal(self, path: Path) -> bool:
        return path.name.removesuffix("-wal").removesuffix("-shm").endswith(".sqlite")


def _content(descriptor: int) -> bytes:
    """Return all bytes of an open file, also of one opened for writing only."""
    with open(f"/proc/self/fd/{descriptor}", "rb") as again:
        return again.read()


_WATCHED: list[Disk] = []


def _disk_of(*paths: object) -> Disk | None:
    return next((disk for disk in _WATCHED if any(disk.owns(path) for path in paths)), None)


def _disk_behind(descriptor: int) -> Disk | None:
    return _disk_of(os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)") + "/") if _WATCHED else None


class _Connection(sqlite3.Connection):
    """Tells the disk of every transaction; a journal here is only ever written in transactions."""

    disk: Disk
    path: str
    full = False

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        word = sql.split(None, 1)[0].upper()
        if sql.startswith("PRAGMA synchronous ="):
            self.full = sql.endswith("FULL")
        if word != "COMMIT":
            assert self.in_transaction or word not in ("INSERT", "UPDATE", "DELETE"), (
                f"outside of a transaction: {sql}"
            )
            return super().execute(sql, *arguments)
        with self.disk.lock:
            self.disk.call()
            done = super().execute(sql, *arguments)
            self.disk.committed(self.path, self.serialize(), self.full)
            return done


def _connect(original: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    def connect(database: str, **options: Any) -> sqlite3.Connection:
        path = database.removeprefix("file://").partition("?")[0]
        disk = _disk_of(path)
        if disk is None:
            return original(database, **options)
        connection = original(database, factory=_Connection, **options)
        assert isinstance(connection, _Connection)
        connection.disk, connection.path = disk, path
        return connection

    return connect


def _wrapped() -> dict[str, Callable[..., Any]]:
    """Return what stands in for the calls of ``os`` that change something."""
    real = {name: getattr(os, name) for name in _CALLS}
    real_open = io.open

    def by_name(name: str, note: Callable[[Disk, list[str], int | None], None]) -> Callable[..., Any]:
        def call(*paths: Any, **options: Any) -> Any:
            disk = _disk_of(*paths)
            if disk is None:
                return real[name](*paths, **options)
            with disk.lock:
                disk.call()
                names = [os.fspath(path) for path in paths if isinstance(path, str | os.PathLike)]
                inode = os.stat(names[0]).st_ino if os.path.exists(names[0]) else None
                done = real[name](*paths, **options)
                note(disk, names, inode)
                return done

        return call

    def opened(path: Any, flags: int, *mode: Any, **options: Any) -> int:
        disk = _disk_of(path)
        if disk is None or not flags & os.O_CREAT or os.path.exists(path):
            return int(real["open"](path, flags, *mode, **options))
        with disk.lock:
            disk.call()
            descriptor = int(real["open"](path, flags, *mode, **options))
            disk.named(os.fspath(path), os.fstat(descriptor).st_ino)
            return descriptor

    def by_descriptor(name: str) -> Callable[..., Any]:
        def call(descriptor: int, *arguments: Any) -> Any:
            disk = _disk_behind(descriptor)
            if disk is None:
                return real[name](descriptor, *arguments)
            with disk.lock:
                disk.call()
                if name in ("fsync", "fdatasync"):
                    return disk.synced(descriptor)
                return real[name](descriptor, *arguments)

        return call

    def opened_by_mode(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        disk = _disk_of(path)
        if disk is None or not set(mode) & set("wxa") or os.path.exists(path):
            return real_open(path, mode, *arguments, **options)
        with disk.lock:
            disk.call()
            file = real_open(path, mode, *arguments, **options)
            disk.named(os.fspath(path), os.fstat(file.fileno()).st_ino)
            return file

    renamed = by_name("replace", lambda disk, names, inode: disk.named(names[1], inode, names[0]))
    return {
        "open": opened,
        "io.open": opened_by_mode,  # which pathlib uses
        "replace": renamed,
        "rename": renamed,
        "unlink": by_name("unlink", lambda disk, names, inode: disk.named(names[0], None)),
        "remove": by_name("remove", lambda disk, names, inode: disk.named(names[0], None)),
        "mkdir": by_name("mkdir", lambda disk, names, inode: disk.folder(names[0])),
        **{name: by_descriptor(name) for name in ("fsync", "fdatasync", "pwrite", "ftruncate")},
    }


_CALLS: Final = (
    "open",
    "replace",
    "rename",
    "unlink",
    "remove",
    "mkdir",
    "fsync",
    "fdatasync",
    "pwrite",
    "ftruncate",
)


@contextlib.contextmanager
def watched(*disks: Disk) -> Iterator[None]:
    """Have every call to the folders of *disks* go through them while the block lasts."""
    assert not _WATCHED, "one world at a time"
    stand_ins = _wrapped()
    open_by_mode = stand_ins.pop("io.open")
    real = {name: getattr(os, name) for name in stand_ins}
    real_open, connect, hook = io.open, sqlite3.connect, threading.excepthook
    _WATCHED.extend(disks)
    try:
        for name, stand_in in stand_ins.items():
            setattr(os, name, stand_in)
        io.open = open_by_mode  # type: ignore[assignment]
        sqlite3.connect = _connect(connect)  # type: ignore[assignment]
        threading.excepthook = lambda of: None if of.exc_type is PowerCut else hook(of)
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)
        io.open, sqlite3.connect, threading.excepthook = real_open, connect, hook
        _WATCHED.clear()
