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
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import structlog

from oci.blobs import BlobStore
from oci.errors import Misconfigured, StorageFull
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.incoming import IncomingObject
from protocol.limits import BUFFER_BYTES_MAX
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.ranges import RangeSet
from receiver.audit import AUDIT_NAME, Audit
from receiver.digests import Head, RunningDigests
from receiver.floor import Floor
from receiver.intake import Intake, Interrupted
from receiver.journal import Partial, ReceiverJournal
from receiver.partial_files import Bounds, NoRoom, PartialFiles
from receiver.partials import entry_of, recover
from receiver.refusals import Refusals
from receiver.results import Block, BlockWritten, ObjectRefused, ObjectTaken, PartialForgotten, Result
from receiver.room import ALWAYS_BYTES
from receiver.senders import Trust
from receiver.trouble import Trouble
from runtime.threads import name_thread

SYNC_BYTES: Final = 64 * 1024 * 1024
SYNC_S: Final = 1.0
RETRY_S: Final = 2.0
AGE_STEP_S: Final = 60.0  # of a live link, between looks at the age of partial objects
PARKED_BYTES_MAX: Final = BUFFER_BYTES_MAX // 4  # of blocks that wait for room on the disk; with their repair
# symbols they take about half of the buffers, and the other half receives on
WRITERS: Final = 6  # threads that keep small objects at once
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024  # of whole objects in memory, on their way to the intake
SMALL_BYTES: Final = 64 * 1024
SMALL_MAX: Final = 1_024
STOP_S: Final = 5.0  # for what waits there when the process is to end; the rest comes with the next pass
_FAILURES: Final = (OSError, StorageFull, Misconfigured, sqlite3.OperationalError)  # of disk and journal; they pass

log = structlog.get_logger()
_T = TypeVar("_T")


@dataclass
class Assembler:
    """Owns the partial folder. ``results`` is read by the capture loop.

    ``live_s`` is set by it: how many seconds the link has been alive, by the monotonic clock.
    """

    spool: BlobStore
    partial: Path
    journal_path: Path
    trust: Trust
    bounds: Bounds
    floor: Floor | None = None
    results: deque[Result] = field(default_factory=deque)
    trouble: Trouble = field(default_factory=Trouble)
    live_s: float = 0.0

    def __post_init__(self) -> None:
        self.partial.mkdir(parents=True, exist_ok=True)
        # bounded by the block buffers and SMALL_MAX
        self._blocks: queue.SimpleQueue[Block | tuple[IncomingObject, bytes] | None] = queue.SimpleQueue()
        self._whole: queue.SimpleQueue[tuple[IncomingObject, Path | bytes] | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._waiting_bytes = 0  # of whole objects in memory
        self._taking: set[str] = set()  # coded digests with the intake: their files are not to be touched
        self._parked: deque[tuple[Block, list[tuple[int, memoryview]]]] = deque()
        self._due_parked = 0.0
        self._aged_s = 0.0  # of live_s
        self._deferred: list[tuple[IncomingObject, Path | bytes, Head | None]] = []
        self._due_deferred = 0.0
        self._unsynced_bytes = 0
        self._due_sync = 0.0
        self._digests = RunningDigests()
        self._files = PartialFiles(
            self.partial, self.bounds, self.trust, self._digests, self._taking, self._forgotten
        )
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
        return self._files.path(entry.coded_digest)

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
                log.critical("assembler_failed", thread=thread, error=f"{type(error).__name__}: {error}")

    # --- the writer thread -----------------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        journal = ReceiverJournal(self.journal_path)
        try:
            while True:
                try:
                    item = self._blocks.get(timeout=SYNC_S if self._unsynced_bytes or self._parked else AGE_STEP_S)
                except queue.Empty:
                    self._tend(journal)
                    continue
                if item is None:
                    break
                if not isinstance(item, tuple):
                    self._block(item, journal)
                elif item[0].entry.coded_digest not in self._taking:
                    self._from_memory(*item)
                self._tend(journal)
            self._unpark(journal, last=True)
            self._sync(journal)
        finally:
            self._files.close_all()
            journal.close()

    def _tend(self, journal: ReceiverJournal) -> None:
        """Do what is due besides writing."""
        now = time.monotonic()
        if self._unsynced_bytes >= SYNC_BYTES or (self._unsynced_bytes and now >= self._due_sync):
            self._sync(journal)
        if self._parked and now >= self._due_parked:
            self._unpark(journal)
        seconds = self.live_s - self._aged_s
        if seconds >= AGE_STEP_S:
            self._aged_s += seconds
            self._patiently(lambda: self._files.grow_old(seconds, journal))

    def _block(self, block: Block, journal: ReceiverJournal) -> None:
        if block.owner.entry.coded_digest in self._taking:
            self.results.append(BlockWritten(block, ()))
            return
        block.restore()
        pieces = list(block.finished())
        if not pieces:  # abandoned with no codeword finished: it needs no room
            self.results.append(BlockWritten(block, ()))
        elif not self._store(block, pieces, journal):
            self._park(block, pieces)

    def _store(self, block: Block, pieces: list[tuple[int, memoryview]], journal: ReceiverJournal) -> bool:
        """Write a block that is restored, or hand it on if it is all of its object; False if the disk cannot now."""
        owner, entry = block.owner, block.owner.entry
        single = [len(piece) for _, piece in pieces] == [entry.geometry.size]
        try:
            self._files.room(entry, sum(len(piece) for _, piece in pieces), journal, as_partial=not single)
            if not single:
                for offset, piece in pieces:
                    self._write(entry, offset, piece, journal)
        except NoRoom as error:
            self.trouble.began("disk_low", "partial", f"no room for {entry.digest}: {error}")
            return False
        except _FAILURES as error:
            self.trouble.began("disk_failed", "partial", str(error))
            return False
        if single:
            self._from_memory(owner, bytes(pieces[0][1]))
            self.results.append(BlockWritten(block, (), whole=True))
            return True
        self.trouble.ended("disk_failed", "partial")
        ranges = tuple((offset, offset + len(piece)) for offset, piece in pieces)
        opened = self._files.get(entry.coded_digest)
        if opened is not None:
            for start, end in ranges:
                opened.have.add(start, end)
            self._digests.advance(entry.coded_digest, self.path(entry), opened.have.beginning)
        self.results.append(BlockWritten(block, ranges))
        if opened is not None and opened.have.covers(0, entry.geometry.size):
            self._sync(journal)
            self._files.close(entry.coded_digest)
            self._hand_over(owner, self.path(entry))
        return True

    def _park(self, block: Block, pieces: list[tuple[int, memoryview]]) -> None:
        """Keep a block in its buffer until the disk has room; the oldest give way beyond PARKED_BYTES_MAX."""
        self._parked.append((block, pieces))
        self._due_parked = self._due_parked if len(self._parked) > 1 else time.monotonic() + RETRY_S
        while len(self._parked) > 1 and sum(each.shape.size for each, _ in self._parked) > PARKED_BYTES_MAX:
            self.results.append(BlockWritten(self._parked.popleft()[0], (), no_room=True))

    def _unpark(self, journal: ReceiverJournal, *, last: bool = False) -> None:
        """Try those blocks again; the *last* time what finds no room is given up."""
        parked, self._parked = self._parked, deque()
        for block, pieces in parked:
            if block.owner.entry.coded_digest in self._taking:
                self.results.append(BlockWritten(block, ()))
            elif not self._store(block, pieces, journal):
                if last:
                    self.results.append(BlockWritten(block, (), no_room=True))
                else:
                    self._parked.append((block, pieces))
        self._due_parked = time.monotonic() + RETRY_S
        if not self._parked:
            self.trouble.ended("disk_low", "partial")

    def _from_memory(self, owner: IncomingObject, coded: bytes) -> None:
        self._files.close(owner.entry.coded_digest)
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
        if self._files.get(entry.coded_digest) is None and (oldest := self._files.oldest_to_close) is not None:
            self._sync(journal)
            self._files.close(oldest)
        if not self._unsynced_bytes:
            self._due_sync = time.monotonic() + SYNC_S
        self._unsynced_bytes += self._files.write(entry, offset, piece, journal)

    def _sync(self, journal: ReceiverJournal) -> None:
        """Bytes first, then the journal's word that they are there."""
        dirty = self._files.unsynced()
        for opened in dirty:
            self._patiently(lambda opened=opened: self._files.sync(opened))  # type: ignore[misc]
        if dirty:
            finished = [(opened.entry.coded_digest, list(opened.have)) for opened in dirty]
            self._patiently(lambda: journal.save_ranges(finished, time.time()))
        for opened in dirty:
            opened.unsynced = False
        self._unsynced_bytes = 0

    def _forgotten(self, partial: Partial, reason: str) -> None:
        self.results.append(PartialForgotten(partial, reason))
        log.warning("partial_given_up", digest=partial.digest, bytes=partial.coded_size, reason=reason)

    def _patiently(self, action: Callable[[], _T], place: str = "partial") -> _T:
        """Retry while disk or journal fail: what was received is not thrown away for want of room."""
        while True:
            try:
                result = action()
            except _FAILURES as error:
                self.trouble.began("disk_failed", place, str(error))
                if self._stopping.wait(RETRY_S):
                    raise
            else:
                self.trouble.ended("disk_failed", place)
                return result

    # --- the intake thread -----------------------------------------------------------------------------------------

    def _intake_loop(self) -> None:
        journal = ReceiverJournal(self.journal_path)
        writers = ThreadPoolExecutor(WRITERS, "keep", name_thread, ("keep",))
        try:
            intake = Intake(
                self.spool,
                journal,
                self.trust,
                writers,
                now=time.time,
                interrupted=self._stopping.is_set,
                floor=self.floor,
                refusals=Refusals(Audit(self.journal_path.with_name(AUDIT_NAME), "capture")),
            )
            while True:
                try:
                    item = self._whole.get(timeout=RETRY_S if self._deferred else None)
                    if item is None:
                        break
                    self._admit(intake, journal, writers, *item)
                except queue.Empty:
                    pass
                if self._deferred and time.monotonic() >= self._due_deferred:
                    waiting, self._deferred = self._deferred, []
                    for each in waiting:
                        self._admit(intake, journal, writers, *each)
        finally:
            writers.shutdown()
            journal.close()

    def _admit(
        self,
        intake: Intake,
        journal: ReceiverJournal,
        writers: ThreadPoolExecutor,
        owner: IncomingObject,
        coded: Path | bytes,
        head: Head | None = None,
    ) -> None:
        if time.monotonic() >= self._give_up_at:
            self._leaves_memory(coded)
        elif not self._room_to_decode(owner, coded):
            self._defer(owner, coded, head)
        elif isinstance(coded, bytes) and self._is_plain(owner.entry):
            writers.submit(self._guarded, functools.partial(self._take, intake, None, owner, coded))
        else:
            if head is None and isinstance(coded, Path):
                head = self._digests.take(owner.entry.coded_digest)
            self._take(intake, journal, owner, coded, head)

    def _room_to_decode(self, owner: IncomingObject, coded: Path | bytes) -> bool:
        """Whether the content of an object leaves the reserve free: journal and releases come first."""
        entry = owner.entry
        new = entry.content_size if entry.coding is Coding.ZSTD or isinstance(coded, bytes) else 0
        if entry.kind is not Kind.BLOB or new <= ALWAYS_BYTES:
            return True
        try:
            short = self._files.reserve.short(new)
        except OSError:
            return True  # writing says it better
        if short > 0:
            self.trouble.began("disk_low", "spool", f"{short} bytes too few to decode {entry.digest}")
        return short <= 0

    def _defer(self, owner: IncomingObject, coded: Path | bytes, head: Head | None) -> None:
        """Let an object wait for the disk: in its file, or in memory as far as that is bounded."""
        waiting = sum(len(each) for _, each, _ in self._deferred if isinstance(each, bytes))
        if isinstance(coded, bytes) and waiting + len(coded) > WAITING_BYTES_MAX // 2:
            self._leaves_memory(coded)
            self._taking.discard(owner.entry.coded_digest)
            self.results.append(ObjectRefused(owner, Drop.NO_ROOM, "limits.disk_reserve"))
            return
        self._deferred.append((owner, coded, head))
        self._due_deferred = time.monotonic() + RETRY_S

    def _is_plain(self, entry: ObjectEntry) -> bool:
        """Whether taking the object in touches the spool alone, so that any thread may do it in any order."""
        return entry.kind is Kind.BLOB and not self.path(entry).exists()

    def _leaves_memory(self, coded: Path | bytes) -> None:
        with self._room:
            self._waiting_bytes -= len(coded) if isinstance(coded, bytes) else 0
            self._room.notify()

    def _take(
        self,
        intake: Intake,
        journal: ReceiverJournal | None,
        owner: IncomingObject,
        coded: Path | bytes,
        head: Head | None = None,
    ) -> None:
        """Take one object in; without a journal (in a writer thread) one that has no partial file.

        *head* is its digest as far as it is known. What is in a file waits there while the disk fails, and holds
        nothing else up.
        """
        entry = owner.entry
        result: Result
        try:
            if isinstance(coded, Path):
                head = head or Head()
                result = ObjectTaken(owner, intake.take(entry, coded, head))
            else:
                result = ObjectTaken(owner, self._patiently(lambda: intake.take(entry, coded), "spool"))
        except WireError as error:
            result = ObjectRefused(owner, error.drop, error.detail)
        except Interrupted:
            self._leaves_memory(coded)
            return  # the file and the journal's word stay for the next start
        except _FAILURES as error:
            if self._stopping.is_set():
                raise
            self.trouble.began("disk_failed", "spool", str(error))
            self._defer(owner, coded, head)
            return
        self._leaves_memory(coded)
        if journal is not None and (isinstance(coded, Path) or self.path(entry).exists()):
            self._patiently(lambda: journal.close_partial(entry.coded_digest), "spool")
            self._patiently(lambda: self.path(entry).unlink(missing_ok=True), "spool")
        if not self._deferred:
            self.trouble.ended("disk_failed", "spool")
            self.trouble.ended("disk_low", "spool")
        self._taking.discard(entry.coded_digest)
        self.results.append(result)
