"""The partial folder: one preallocated file for each object being received, its finished ranges, and its bounds.

Used by the writer thread alone (assemble.py), whose journal connection it is given. Bytes are made durable before
the journal says that they are there; finished bytes are never written again, because they may be hashed already.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from protocol.objects import Kind, ObjectEntry
from protocol.ranges import RangeSet
from receiver.cuts import note_cut
from receiver.digests import RunningDigests
from receiver.journal import Partial, ReceiverJournal
from receiver.partials import partial_of
from receiver.room import ALWAYS_BYTES, Reserve, Standing, give_way, grow_old, needed_by_releases, standings
from receiver.senders import Trust
from runtime.durable import sync_folder

OPEN_FILES_MAX: Final = 64
ASK_AGAIN_S: Final = 1.0  # who had no room is not looked at for so long
NEEDED_S: Final = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Bounds:
    """What partial objects may take: *space* in bytes, *age* in seconds of a live link, *reserve* stays free (bytes).

    None as reserve: 1 GiB, but no more than a twentieth of the file system.
    """

    space: int
    age: float = float("inf")
    reserve: int | None = None


class NoRoom(Exception):
    """A bound forbids to store this now; the text names it."""


@dataclass
class Opened:
    """A partial object with its file."""

    entry: ObjectEntry
    descriptor: int
    have: RangeSet
    unsynced: bool = False


class PartialFiles:
    """*taking* are coded digests whose files are the intake's; *gone* hears what was given up, and why."""

    def __init__(
        self,
        folder: Path,
        bounds: Bounds,
        trust: Trust,
        digests: RunningDigests,
        taking: Collection[str],
        gone: Callable[[Partial, str], None],
    ) -> None:
        self._folder = folder
        self._bounds = bounds
        self._trust = trust
        self._digests = digests
        self._taking = taking
        self._gone = gone
        self.reserve = Reserve(folder, bounds.reserve)
        self._open: dict[str, Opened] = {}
        self._needed: tuple[float, set[str], set[str] | None] = (0.0, set(), None)  # valid until, asked, answer
        self._no_room: dict[str, tuple[float, str]] = {}  # coded digest -> until when (monotonic s), which bound

    def get(self, coded_digest: str) -> Opened | None:
        """Return an open partial object."""
        return self._open.get(coded_digest)

    def path(self, coded_digest: str) -> Path:
        """Return the file of a partial object."""
        return self._folder / coded_digest.removeprefix("sha256:")

    def room(self, entry: ObjectEntry, size: int, journal: ReceiverJournal, *, as_partial: bool) -> None:
        """See that *size* bytes of an object fit, giving up what ranks lower; NoRoom if nothing does.

        OSError and sqlite3.OperationalError as disk and journal fail.
        """
        if entry.kind is not Kind.BLOB or entry.geometry.size <= ALWAYS_BYTES:
            size = 0  # small, or what tells everything else: the reserve is for it
        until, bound = self._no_room.get(entry.coded_digest, (0.0, ""))
        if time.monotonic() < until:
            raise NoRoom(bound)
        self._no_room.pop(entry.coded_digest, None)
        if as_partial and entry.coded_digest not in self._open:
            self._within_space(entry, journal)
        try:
            short = self.reserve.short(size) if size else 0
        except FileNotFoundError:  # somebody removed the folder
            self._folder.mkdir(parents=True, exist_ok=True)
            short = self.reserve.short(size)
        if short > 0:
            self._make_room(entry, short, journal, "limits.disk_reserve")

    def _within_space(self, entry: ObjectEntry, journal: ReceiverJournal) -> None:
        used = sum(
            partial.coded_size for partial, _, _ in journal.partials() if partial.coded_digest != entry.coded_digest
        )
        short = used + entry.geometry.size - self._bounds.space
        if short > 0:
            self._make_room(entry, short, journal, "limits.partial_space")

    def _make_room(self, entry: ObjectEntry, short: int, journal: ReceiverJournal, bound: str) -> None:
        needed = self._needed_of({partial.digest for partial, _, _ in journal.partials()} | {entry.digest}, journal)
        found = standings(journal, needed)
        own = next((each for each in found if each.partial.coded_digest == entry.coded_digest), None)
        wanted = needed is None or entry.kind is not Kind.BLOB or entry.digest in needed
        newcomer = own or Standing(partial_of(entry), 0, 0.0, float("inf"), wanted)
        others = [
            each
            for each in found
            if each.partial.coded_digest != entry.coded_digest and each.partial.coded_digest not in self._taking
        ]
        leaving = give_way(others, newcomer, short, on_disk=bound == "limits.disk_reserve")
        if leaving is None:
            self._no_room = {key: value for key, value in self._no_room.items() if value[0] > time.monotonic()}
            self._no_room[entry.coded_digest] = time.monotonic() + ASK_AGAIN_S, bound
            raise NoRoom(bound)
        for each in leaving:
            self.give_up(each.partial, journal, bound if each.needed else f"{bound}, and no release needs it")

    def _needed_of(self, digests: set[str], journal: ReceiverJournal) -> set[str] | None:
        """Return which of these the newest releases need, as asked some seconds ago: large releases take time."""
        until, asked, needed = self._needed
        if time.monotonic() >= until or not digests <= asked:
            needed = needed_by_releases(journal, self._trust, digests)
            self._needed = time.monotonic() + NEEDED_S, digests, needed
        return needed

    def give_up(self, partial: Partial, journal: ReceiverJournal, reason: str) -> None:
        """Forget a partial object and remove its file."""
        digest = partial.coded_digest
        self.close(digest)
        self._digests.forget(digest)
        journal.close_partial(digest)
        self.path(digest).unlink(missing_ok=True)
        self._gone(partial, reason)

    def grow_old(self, seconds: float, journal: ReceiverJournal) -> None:
        """Count *seconds* of a live link, and give up what has gained nothing in too many of them."""
        for partial in grow_old(journal, seconds, self._bounds.age):
            if partial.coded_digest not in self._taking:
                self.give_up(partial, journal, "limits.partial_age")

    def write(self, entry: ObjectEntry, offset: int, piece: memoryview, journal: ReceiverJournal) -> int:
        """Write the bytes of *piece* that are not finished; return how many. Not durable before :meth:`sync`."""
        opened = self._open.get(entry.coded_digest)
        if opened is None:
            opened = self._open[entry.coded_digest] = self._open_file(entry, journal)
        opened.unsynced = True
        written = 0
        for start, end in opened.have.missing(offset + len(piece), offset):
            at = start
            while at < end:
                count = os.pwrite(opened.descriptor, piece[at - offset : end - offset], at)
                at += count
                written += count
        return written

    def _open_file(self, entry: ObjectEntry, journal: ReceiverJournal) -> Opened:
        have = RangeSet(journal.open_partial(partial_of(entry), time.time()))
        self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        path = self.path(entry.coded_digest)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if os.fstat(descriptor).st_size != entry.geometry.size:  # new, or no more what the journal speaks of
                if have.total:
                    self._digests.forget(entry.coded_digest)
                    journal.close_partial(entry.coded_digest)  # durably, before zeros stand where its ranges were
                    have = RangeSet(journal.open_partial(partial_of(entry), time.time()))
                os.ftruncate(descriptor, entry.geometry.size)
            sync_folder(self._folder)
            note_cut(journal, entry)
        except BaseException:
            os.close(descriptor)
            raise
        return Opened(entry, descriptor, have)

    @property
    def oldest_to_close(self) -> str | None:
        """The coded digest of a file to close before another is opened; it has to be synced first."""
        return next(iter(self._open)) if len(self._open) >= OPEN_FILES_MAX else None

    def close(self, coded_digest: str) -> None:
        """Close an object's file, if it is open."""
        opened = self._open.pop(coded_digest, None)
        if opened is not None:
            os.close(opened.descriptor)

    def close_all(self) -> None:
        """Close every file."""
        for coded_digest in list(self._open):
            self.close(coded_digest)

    def unsynced(self) -> list[Opened]:
        """Return the objects that have bytes which may not be on disk."""
        return [opened for opened in self._open.values() if opened.unsynced]

    def sync(self, opened: Opened) -> None:
        """Make an object's bytes durable; OSError if the disk fails."""
        try:
            os.fdatasync(opened.descriptor)
        except OSError:  # what was hashed from memory may never have reached the disk: hash it anew
            self._digests.forget(opened.entry.coded_digest)
            raise
