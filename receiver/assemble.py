"""Finished blocks to disk: restore what was lost, write it in place, make it durable, then say so in the journal.

Runs in threads of its own, so that the receive loop never waits for the processor-heavy restoring, the disk or the
journal. One thread writes blocks; another takes whole objects in (intake.py); a third hashes what has been written
(digests.py). Objects of a single block go to the intake from memory and never touch the partial folder.

    capture ──blocks──▶ writer thread ──whole objects──▶ intake thread
       ◀── buffers and results ──┴───────────────────────────┘

What waits between the threads is bounded. An object that is whole is not written to any more; one that was whole
when the process died is taken in at the next start.
"""

from __future__ import annotations

import functools
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

import structlog

from oci.blobs import BlobStore
from oci.errors import StorageFull
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.geometry import BlockShape
from protocol.incoming import IncomingObject
from protocol.objects import Kind, ObjectEntry
from protocol.ranges import RangeSet
from receiver.digests import RunningDigests
from receiver.intake import Accepted, Intake, Interrupted
from receiver.journal import ReceiverJournal
from receiver.partials import entry_of, partial_of, recover
from receiver.senders import Trust
from runtime.durable import sync_folder
from runtime.threads import name_thread

SYNC_BYTES: Final = 64 * 1024 * 1024
SYNC_S: Final = 1.0
RETRY_S: Final = 2.0
OPEN_FILES_MAX: Final = 64
WRITERS: Final = 6  # threads that keep small objects at once
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024  # of whole objects in memory, on their way to the intake
SMALL_BYTES: Final = 64 * 1024
SMALL_MAX: Final = 1_024
STOP_S: Final = 5.0  # for what waits there when the process is to end; the rest comes with the next pass

log = structlog.get_logger()


_T = TypeVar("_T")


class Block(Protocol):
    """A source block that a lane has finished with: an IncomingBlock, or one from another process."""

    @property
    def owner(self) -> IncomingObject:
        """Its object."""

    @property
    def shape(self) -> BlockShape:
        """Its place."""

    @property
    def complete(self) -> bool:
        """Whether all of it can be restored."""

    def restore(self) -> None:
        """Recover what was lost, once, before finished."""

    def finished(self) -> Iterator[tuple[int, memoryview]]:
        """Yield (offset into the object, bytes)."""


@dataclass(frozen=True, slots=True)
class BlockWritten:
    """A block has been dealt with; its buffer may be given back. *ranges* are its bytes now on disk."""

    block: Block
    ranges: tuple[tuple[int, int], ...]
    whole: bool = False  # the block is all of its object, which has gone to the intake


@dataclass(frozen=True, slots=True)
class ObjectTaken:
    """An object is in the spool (or, for a release, in the journal)."""

    owner: IncomingObject
    accepted: Accepted


@dataclass(frozen=True, slots=True)
class ObjectRefused:
    """An object is whole but wrong; its bytes are gone."""

    owner: IncomingObject
    drop: Drop
    detail: str


@dataclass(frozen=True, slots=True)
class PartialForgotten:
    """The finished bytes of an object had to make room for another."""

    coded_digest: str


Result = BlockWritten | ObjectTaken | ObjectRefused | PartialForgotten


@dataclass
class _Open:
    """A partial object with its file."""

    entry: ObjectEntry
    descriptor: int
    have: RangeSet
    unsynced: bool = False


@dataclass
class Assembler:
    """Owns the partial folder. ``results`` is read by the capture loop; *space* bounds the folder (bytes)."""

    spool: BlobStore
    partial: Path
    journal_path: Path
    trust: Trust
    space: int
    results: deque[Result] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.partial.mkdir(parents=True, exist_ok=True)
        # bounded by the block buffers and SMALL_MAX
        self._blocks: queue.SimpleQueue[Block | tuple[IncomingObject, bytes] | None] = queue.SimpleQueue()
        self._whole: queue.SimpleQueue[tuple[IncomingObject, Path | bytes] | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._waiting_bytes = 0  # of whole objects in memory
        self._taking: set[str] = set()  # coded digests with the intake: their files are not to be touched
        self._open: dict[str, _Open] = {}
        self._unsynced_bytes = 0
        self._due_sync = 0.0
        self._digests = RunningDigests()
        self._stopping = threading.Event()
        self._give_up_at = float("inf")
        self.failed: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(run,), name=run.__name__.strip("_"), daemon=True)
            for run in (self._write_loop, self._intake_loop, self._digests.follow)
        ]

    def start(self) -> dict[str, RangeSet]:
        """Start the threads; return the finished bytes of unfinished objects by coded digest."""
        journal = ReceiverJournal(self.journal_path)
        have, whole = recover(self.spool, self.partial, journal)
        journal.close()
        for partial in whole:
            entry = entry_of(partial)
            self._taking.add(entry.coded_digest)
            self._whole.put((IncomingObject(entry, b""), self.path(entry)))
        for thread in self._threads:
            thread.start()
        return have

    def put(self, block: Block) -> bool:
        """Hand over a completed or abandoned block. True: its buffer may be given back; else a BlockWritten follows.

        Small objects are copied here: on a fast link they come faster than threads take turns.
        """
        entry = block.owner.entry
        if entry.geometry.size <= SMALL_BYTES and block.complete and self._blocks.qsize() < SMALL_MAX:
            block.restore()
            pieces = list(block.finished())
            if [len(piece) for _, piece in pieces] == [entry.geometry.size]:
                self._blocks.put((block.owner, bytes(pieces[0][1])))
                return True
        self._blocks.put(block)
        return False

    def stop(self) -> None:
        """Write what was handed over, make it durable, and end the threads; a full disk is not waited for."""
        self._give_up_at = time.monotonic() + STOP_S
        self._stopping.set()
        self._blocks.put(None)
        self._threads[0].join()
        self._whole.put(None)
        self._threads[1].join()
        self._digests.stop()
        self._threads[2].join()

    def path(self, entry: ObjectEntry) -> Path:
        """Return the partial file of an object."""
        return self.partial / entry.coded_digest.removeprefix("sha256:")

    def _guarded(self, run: Callable[[], None]) -> None:
        name_thread(threading.current_thread().name)
        try:
            run()
        except BaseException as error:  # a broken invariant stops the process; systemd starts it again
            self.failed = error
            thread = threading.current_thread().name
            if self._stopping.is_set():
                log.warning("stopped_with_disk_failing", thread=thread, error=str(error))
            else:
                log.critical(
                    "assembler_failed",
                    thread=threading.current_thread().name,
                    error=f"{type(error).__name__}: {error}",
                )

    # --- the writer thread -----------------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        journal = ReceiverJournal(self.journal_path)
        try:
            while True:
                try:
                    item = self._blocks.get(timeout=SYNC_S if self._unsynced_bytes else None)
                except queue.Empty:
                    self._sync(journal)
                    continue
                if item is None:
                    break
                if not isinstance(item, tuple):
                    self._block(item, journal)
                elif item[0].entry.coded_digest not in self._taking:
                    self._from_memory(*item)
                if self._unsynced_bytes >= SYNC_BYTES or (
                    self._unsynced_bytes and time.monotonic() >= self._due_sync
                ):
                    self._sync(journal)
            self._sync(journal)
        finally:
            for opened in self._open.values():
                os.close(opened.descriptor)
            journal.close()

    def _block(self, block: Block, journal: ReceiverJournal) -> None:
        owner, entry = block.owner, block.owner.entry
        if entry.coded_digest in self._taking:
            self.results.append(BlockWritten(block, ()))
            return
        block.restore()
        pieces = list(block.finished())
        if [len(piece) for _, piece in pieces] == [entry.geometry.size]:
            self._from_memory(owner, bytes(pieces[0][1]))
            self.results.append(BlockWritten(block, (), whole=True))
            return
        ranges = []
        for offset, piece in pieces:
            self._patiently(lambda offset=offset, piece=piece: self._write(entry, offset, piece, journal))  # type: ignore[misc]
            ranges.append((offset, offset + len(piece)))
        opened = self._open.get(entry.coded_digest)
        if opened is not None:
            for start, end in ranges:
                opened.have.add(start, end)
            self._digests.advance(entry.coded_digest, self.path(entry), opened.have.beginning)
        self.results.append(BlockWritten(block, tuple(ranges)))
        if opened is not None and opened.have.covers(0, entry.geometry.size):
            self._sync(journal)
            self._close(entry.coded_digest)
            self._hand_over(owner, self.path(entry))

    def _from_memory(self, owner: IncomingObject, coded: bytes) -> None:
        self._close(owner.entry.coded_digest)
        self._hand_over(owner, coded)

    def _hand_over(self, owner: IncomingObject, coded: Path | bytes) -> None:
        """Give a whole object to the intake; waits while much waits there in memory."""
        size = len(coded) if isinstance(coded, bytes) else 0
        with self._room:
            while size and self._waiting_bytes and self._waiting_bytes + size > WAITING_BYTES_MAX:
                if self.failed is not None or self._stopping.is_set():
                    return  # lost; the next pass brings it again
                self._room.wait(0.2)
            self._waiting_bytes += size
        self._taking.add(owner.entry.coded_digest)
        self._whole.put((owner, coded))

    def _write(self, entry: ObjectEntry, offset: int, piece: memoryview, journal: ReceiverJournal) -> None:
        opened = self._open.get(entry.coded_digest)
        if opened is None:
            opened = self._open[entry.coded_digest] = self._open_partial(entry, journal)
        if not self._unsynced_bytes:
            self._due_sync = time.monotonic() + SYNC_S
        opened.unsynced = True
        for start, end in opened.have.missing(offset + len(piece), offset):  # finished bytes may be hashed already
            at = start
            while at < end:
                count = os.pwrite(opened.descriptor, piece[at - offset : end - offset], at)
                at += count
                self._unsynced_bytes += count

    def _open_partial(self, entry: ObjectEntry, journal: ReceiverJournal) -> _Open:
        if len(self._open) >= OPEN_FILES_MAX:
            self._sync(journal)
            self._close(next(iter(self._open)))
        self._make_room(entry, journal)
        have = RangeSet(journal.open_partial(partial_of(entry), time.time()))
        descriptor = os.open(self.path(entry), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if os.fstat(descriptor).st_size != entry.geometry.size:  # new, or no more what the journal speaks of
                if have.total:
                    self._digests.forget(entry.coded_digest)
                    journal.close_partial(entry.coded_digest)  # durably, before zeros stand where its ranges were
                    have = RangeSet(journal.open_partial(partial_of(entry), time.time()))
                os.ftruncate(descriptor, entry.geometry.size)
            sync_folder(self.partial)
        except BaseException:
            os.close(descriptor)
            raise
        return _Open(entry, descriptor, have)

    def _make_room(self, entry: ObjectEntry, journal: ReceiverJournal) -> None:
        """Give up the partial objects that nothing was added to for longest, as far as *space* demands it."""
        partials = [partial for partial, _, _ in journal.partials()]
        used = sum(partial.coded_size for partial in partials if partial.coded_digest != entry.coded_digest)
        for partial in partials:
            if used + entry.geometry.size <= self.space:
                return
            digest = partial.coded_digest
            if digest == entry.coded_digest or digest in self._taking:
                continue
            self._close(digest)
            self._digests.forget(digest)
            journal.close_partial(digest)
            self.path(entry_of(partial)).unlink(missing_ok=True)
            self.results.append(PartialForgotten(digest))
            log.warning(
                "partial_given_up", digest=partial.digest, bytes=partial.coded_size, reason="limits.partial_space"
            )
            used -= partial.coded_size

    def _close(self, coded_digest: str) -> None:
        opened = self._open.pop(coded_digest, None)
        if opened is not None:
            os.close(opened.descriptor)

    def _sync(self, journal: ReceiverJournal) -> None:
        """Bytes first, then the journal's word that they are there."""
        dirty = [(digest, opened) for digest, opened in self._open.items() if opened.unsynced]
        for digest, opened in dirty:
            self._patiently(lambda digest=digest, opened=opened: self._sync_file(digest, opened.descriptor))  # type: ignore[misc]
        if dirty:
            finished = [(digest, list(opened.have)) for digest, opened in dirty]
            self._patiently(lambda: journal.save_ranges(finished, time.time()))
        for _, opened in dirty:
            opened.unsynced = False
        self._unsynced_bytes = 0

    def _sync_file(self, coded_digest: str, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError:  # what was hashed from memory may never have reached the disk: hash it anew
            self._digests.forget(coded_digest)
            raise

    def _patiently(self, action: Callable[[], _T]) -> _T:
        """Retry while disk or journal fail: what was received is not thrown away for want of room."""
        told = False
        while True:
            try:
                result = action()
            except (OSError, StorageFull, sqlite3.OperationalError) as error:
                if not told:
                    log.error("disk_failed", error=str(error), retry_s=RETRY_S)
                    told = True
                if self._stopping.wait(RETRY_S):
                    raise
            else:
                if told:
                    log.info("disk_works_again")
                return result

    # --- the intake thread -----------------------------------------------------------------------------------------

    def _intake_loop(self) -> None:
        journal = ReceiverJournal(self.journal_path)
        writers = ThreadPoolExecutor(WRITERS, "keep", name_thread, ("keep",))
        try:
            intake = Intake(
                self.spool, journal, self.trust, writers, now=time.time, interrupted=self._stopping.is_set
            )
            while (item := self._whole.get()) is not None:
                owner, coded = item
                if time.monotonic() >= self._give_up_at:
                    self._leaves_memory(coded)
                elif isinstance(coded, bytes) and self._is_plain(owner.entry):
                    writers.submit(self._guarded, functools.partial(self._take, intake, None, owner, coded))
                else:
                    self._take(intake, journal, owner, coded)
        finally:
            writers.shutdown()
            journal.close()

    def _is_plain(self, entry: ObjectEntry) -> bool:
        """Whether taking the object in touches the spool alone, so that any thread may do it in any order."""
        return entry.kind is Kind.BLOB and not self.path(entry).exists()

    def _leaves_memory(self, coded: Path | bytes) -> None:
        with self._room:
            self._waiting_bytes -= len(coded) if isinstance(coded, bytes) else 0
            self._room.notify()

    def _take(
        self, intake: Intake, journal: ReceiverJournal | None, owner: IncomingObject, coded: Path | bytes
    ) -> None:
        """Take one object in; without a journal (in a writer thread) one that has no partial file."""
        entry = owner.entry
        head = self._digests.take(entry.coded_digest) if isinstance(coded, Path) else None
        result: Result
        try:
            result = ObjectTaken(owner, self._patiently(lambda: intake.take(entry, coded, head)))
        except WireError as error:
            result = ObjectRefused(owner, error.drop, error.detail)
        except Interrupted:
            return  # the file and the journal's word stay for the next start
        finally:
            self._leaves_memory(coded)
        if journal is not None and (isinstance(coded, Path) or self.path(entry).exists()):
            self._patiently(lambda: journal.close_partial(entry.coded_digest))
            self._patiently(lambda: self.path(entry).unlink(missing_ok=True))
        self._taking.discard(entry.coded_digest)
        self.results.append(result)
