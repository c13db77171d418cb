"""From contents in the spool to transport objects in the queue: small ones batched, all compressed where it pays.

One thread of its own does this, so no content gets into two objects and the event loop stays free. It knows
neither registries nor the wire. Memory: one batch, or one chunk and the window of zstd.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from oci.blobs import BlobStore, fsync_folder, make_folder, storage_errors
from oci.descriptor import sha256_digest, short_digest
from oci.errors import ContentMismatch
from oci.limits import BLOB_CHUNK_BYTES
from protocol.batch import pack
from protocol.coding import compress, pays
from protocol.objects import Coding, Kind
from protocol.release import Content
from sender.config import Link, SenderSettings
from sender.journal import SenderJournal

SMALL_BYTES_MAX: Final = 64 * 1024  # contents up to this travel in batches
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
BATCH_MEMBERS_MAX: Final = 2_048
_SAMPLES: Final = 8
_SAMPLE_BYTES: Final = 64 * 1024
_TEMP_PREFIX: Final = ".temp-"
_T = TypeVar("_T")


class Stopped(Exception):
    """The role is ending; what was begun is dropped and begun again at the next start."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A file with the bytes that go on the wire."""

    path: Path
    digest: str
    size: int
    coding: Coding


@dataclass(frozen=True, slots=True)
class Terms:
    """How objects are queued: *urgent* ones overtake the others, those not *cleared* wait for an approval."""

    urgent: bool = False
    cleared: bool = True


class _Urgent:
    """Work that goes before other work, and what it comes to."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.future: Future[int] = Future()
        self._work = work

    def do(self) -> None:
        """Do it; the future tells."""
        try:
            self.future.set_result(self._work())
        except BaseException as error:
            self.future.set_exception(error)


class Preparer:
    """Queues contents. Use as a context manager; leaving it drops unfinished work within a chunk's time."""

    def __init__(self, settings: SenderSettings, spool: BlobStore) -> None:
        self._settings = settings
        self._spool = spool
        self._folder = settings.coded
        self._stop = threading.Event()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")
        self._urgent: queue.SimpleQueue[_Urgent] = queue.SimpleQueue()
        self._serving = False  # of the worker's thread, as is the journal
        self._journal: SenderJournal | None = None

    def __enter__(self) -> Preparer:
        make_folder(self._folder)
        for stale in self._folder.glob(f"{_TEMP_PREFIX}*"):  # a killed run's; there is one fetch role per state
            stale.unlink(missing_ok=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._worker.submit(self._close)
        self._worker.shutdown()

    async def queue(self, label: str, contents: Sequence[Content], terms: Terms = Terms()) -> int:
        """Queue what no object carries yet of *contents*, all in the spool; return how many objects that made.

        *label* tells people what the objects belong to. *terms* go for what is queued already of *contents* as well.
        Raises OciError (StorageFull, NotFound) and Stopped.
        """
        loop = asyncio.get_running_loop()
        if not terms.urgent:
            return await loop.run_in_executor(self._worker, self._queue, label, contents, terms)
        # A layer of gigabytes may be in the works: this is done between two of its chunks.
        work = _Urgent(partial(self._queue, label, contents, terms))
        self._urgent.put(work)
        self._worker.submit(self._serve_urgent)
        return await asyncio.wrap_future(work.future)

    async def between(self, work: Callable[[SenderJournal], _T]) -> _T:
        """Have *work* done in the thread that queues, and so never while contents are being queued."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, lambda: work(self._own_journal()))

    def _serve_urgent(self) -> None:
        """Do what is urgent, in the middle of other work if need be; at once done is nothing in the middle of it."""
        if self._serving:
            return
        self._serving = True
        try:
            while True:
                work = self._urgent.get_nowait()
                if work.future.set_running_or_notify_cancel():
                    work.do()
        except queue.Empty:
            pass
        finally:
            self._serving = False

    def _own_journal(self) -> SenderJournal:
        if self._journal is None:
            self._journal = SenderJournal(self._settings.journal)
        return self._journal

    def _queue(self, label: str, contents: Sequence[Content], terms: Terms) -> int:
        self._journal = self._own_journal()
        by_digest = {content.digest: content for content in contents}
        if terms.cleared:
            self._journal.clear(by_digest)
        if terms.urgent:
            self._journal.make_urgent(by_digest)
        missing = [by_digest[digest] for digest in self._journal.not_carried(by_digest)]
        small = [content for content in missing if content.size <= SMALL_BYTES_MAX]
        again = self._journal.evicted(content.digest for content in small)  # by themselves: these are not sent anew
        objects = 0
        for members in (
            *_batches([content for content in small if content.digest not in again]),
            *_batches([content for content in small if content.digest in again]),
        ):
            self._check_stop()
            self._queue_batch(label, members, terms)
            objects += 1
        for content in missing:
            # what was urgent meanwhile may have been the same
            if content.size > SMALL_BYTES_MAX and self._journal.not_carried([content.digest]):
                self._check_stop()
                self._queue_blob(label, content, terms)
                objects += 1
        return objects

    def _queue_batch(self, label: str, members: Sequence[Content], terms: Terms) -> None:
        batch = pack((content.digest, self._read(content.digest)) for content in members)
        whole, coding = batch, Coding.IDENTITY
        if pays([batch]):
            whole, coding = b"".join(compress([batch], len(batch))), Coding.ZSTD
        coded = self._write_coded([whole], coding)
        count = "1 small part" if len(members) == 1 else f"{len(members)} small parts"
        digests = [content.digest for content in members]
        self._add(Kind.BATCH, sha256_digest(batch), len(batch), coded, f"{label}: {count}", digests, terms)

    def _read(self, digest: str) -> bytes:
        """Return a small content; one damaged on disk is removed, so that the next round fetches it again."""
        try:
            return self._spool.read(digest, SMALL_BYTES_MAX)
        except ContentMismatch:
            self._spool.remove(digest)
            raise

    def _queue_blob(self, label: str, content: Content, terms: Terms) -> None:
        path = self._spool.path(content.digest)
        coded = None
        if pays(_samples(path, content.size)):
            coded = self._write_coded(compress(_chunks(path), content.size), Coding.ZSTD)
            if coded.size >= content.size:  # the samples promised too much
                coded.path.unlink(missing_ok=True)
                coded = None
        if coded is None:
            coded = Coded(path, self._sha256(content), content.size, Coding.IDENTITY)
        name = f"{label}: {short_digest(content.digest)}"
        self._add(Kind.BLOB, content.digest, content.size, coded, name, [content.digest], terms)

    def _sha256(self, content: Content) -> str:
        """The digest of the coded bytes is sha256 always, also where the content has another."""
        if content.digest.startswith("sha256:"):
            return content.digest
        hashing = hashlib.sha256()
        for chunk in _chunks(self._spool.path(content.digest)):
            self._check_stop()
            hashing.update(chunk)
        return f"sha256:{hashing.hexdigest()}"

    def _write_coded(self, chunks: Iterable[bytes], coding: Coding) -> Coded:
        """Write the coded bytes to a file named by their SHA-256: temp file, fsync, rename, fsync of the folder."""
        hashing = hashlib.sha256()
        size = 0
        temp = self._folder / f"{_TEMP_PREFIX}{os.getpid()}-{int(self._serving)}"
        try:
            with storage_errors(temp), temp.open("wb") as file:
                for chunk in chunks:
                    self._check_stop()
                    self._serve_urgent()
                    hashing.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                final = self._folder / hashing.hexdigest()
                os.replace(temp, final)
                fsync_folder(self._folder)
        except BaseException:
            with contextlib.suppress(OSError):
                temp.unlink(missing_ok=True)
            raise
        return Coded(final, f"sha256:{final.name}", size, coding)

    def _add(
        self, kind: Kind, digest: str, size: int, coded: Coded, label: str, contents: Sequence[str], terms: Terms
    ) -> None:
        assert self._journal is not None
        repeats = self._settings.repeats
        self._journal.queue_object(
            kind=int(kind),
            coding=int(coded.coding),
            digest=digest,
            content_size=size,
            coded_digest=coded.digest,
            coded_size=coded.size,
            path=coded.path,
            label=label,
            passes=repeats.passes if coded.size > swallowed_bytes(self._settings.link) else repeats.passes_small,
            contents=contents,
            now=time.time(),
            urgent=terms.urgent,
            cleared=terms.cleared,
        )

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped("the role is ending")

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()


def _batches(contents: Sequence[Content]) -> Iterator[list[Content]]:
    batch: list[Content] = []
    size = 0
    for content in contents:
        if batch and (size + content.size > BATCH_BYTES_MAX or len(batch) == BATCH_MEMBERS_MAX):
            yield batch
            batch, size = [], 0
        batch.append(content)
        size += content.size
    if batch:
        yield batch


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(BLOB_CHUNK_BYTES):
            yield chunk


def _samples(path: Path, size: int) -> Iterator[bytes]:
    """Yield a few pieces from across the file."""
    with path.open("rb") as file:
        step = max(size // _SAMPLES, 1)
        for position in range(0, size, step):
            file.seek(position)
            yield file.read(_SAMPLE_BYTES)


def swallowed_bytes(link: Link) -> int:
    """Return the size of the objects that one outage of *link* can swallow whole; these get more passes."""
    return max(SMALL_BYTES_MAX, round(link.rate / 8 * link.outage))
