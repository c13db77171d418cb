"""From coded bytes to the spool: check, decode, check again, keep. The last gate before anything counts as here.

An object is accepted only if its coded bytes have the announced SHA-256, decode to exactly the announced size, and
the content has its digest. What fails is dropped with its reason and leaves nothing behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from oci.blobs import BlobStore
from oci.errors import ContentMismatch
from protocol.batch import unpack
from protocol.coding import decompress
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.release import SignedRelease, check_order
from protocol.trust import ReleaseMark
from receiver.digests import Head
from receiver.floor import Floor, Marks
from receiver.journal import ReceiverJournal
from receiver.refusals import Refusals
from receiver.senders import Trust

_READ_BYTES: Final = 1024 * 1024
MEMBERS_AT_ONCE: Final = 64

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an object brought."""

    entry: ObjectEntry
    contents: int  # blobs that are new in the spool
    release: SignedRelease | None = None


class Interrupted(Exception):
    """The process is to end; a file that is not taken yet stays for the next start."""


class Intake:
    """Takes whole coded objects into the spool and the journal. Use from one thread.

    *writers* runs several small writes at once: their fsyncs share a commit of the file system's journal, which is
    six times faster than one after the other. *interrupted* is asked between pieces of a file; reading a large one
    takes longer than a service may to stop. *floor* hears of every release before it counts.
    """

    def __init__(
        self,
        spool: BlobStore,
        journal: ReceiverJournal,
        trust: Trust,
        writers: Executor,
        *,
        now: Callable[[], float],
        interrupted: Callable[[], bool] = lambda: False,
        floor: Floor | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._refusals = refusals
        self._writers = writers
        self._interrupted = interrupted
        self._spool = spool
        self._journal = journal
        self._trust = trust
        self._now = now
        self._floor = floor
        known = Marks(releases={name: ReleaseMark(*mark) for name, mark in journal.newest_marks().items()})
        if floor is not None:  # which may know of releases that a damaged journal took along
            known.raise_to(floor.marks)
        self._marks = known.releases

    def take(self, entry: ObjectEntry, coded: Path | bytes, head: Head | None = None) -> Accepted:
        """Accept an object from a file or from memory; WireError with the drop reason.

        *head* is the digest of the coded bytes as far as it is known already, and is used up.
        OSError or StorageFull if the disk fails, sqlite3.OperationalError if the journal does; the call may be
        repeated then, whatever it had done. Interrupted. A file that becomes a blob as it is gets renamed into the
        spool; otherwise it is left for the caller.
        """
        if entry.kind is Kind.BLOB and self._spool.size(entry.digest) is not None:
            return Accepted(entry, 0)
        self._check_coded(entry, coded, head or Head())
        if entry.kind is Kind.BLOB:
            return self._blob(entry, coded)
        content = b"".join(self._decoded(entry, coded))
        if _digest_of(entry.digest, [content]) != entry.digest:
            raise WireError(Drop.CONTENT_DIGEST_MISMATCH, f"object {entry.digest}")
        if entry.kind is Kind.BATCH:
            return self._batch(entry, content)
        accepted = self._release(entry, content)
        self._journal.note_unpacked(entry.digest, self._now())
        return accepted

    def _check_coded(self, entry: ObjectEntry, coded: Path | bytes, head: Head) -> None:
        try:
            for piece in self._chunks(coded, head.size):
                head.state.update(piece)
                head.size += len(piece)  # the call may be repeated with what is left
        except FileNotFoundError:  # somebody tidied up behind our back: it has to come again
            raise WireError(Drop.CODED_DIGEST_MISMATCH, f"{coded!s} is gone") from None
        if f"sha256:{head.state.hexdigest()}" != entry.coded_digest:
            raise WireError(Drop.CODED_DIGEST_MISMATCH, f"object {entry.digest}")

    def _blob(self, entry: ObjectEntry, coded: Path | bytes) -> Accepted:
        try:
            if entry.coding is Coding.IDENTITY and isinstance(coded, Path):
                same = entry.digest == entry.coded_digest  # already checked; a sha512 name still has to be
                if not same and _digest_of(entry.digest, self._chunks(coded)) != entry.digest:
                    raise WireError(Drop.CONTENT_DIGEST_MISMATCH, f"object {entry.digest}")
                self._spool.adopt(coded, entry.digest, entry.content_size, verified=True)
                return Accepted(entry, 1)
            with self._spool.writer(entry.digest, entry.content_size) as writer:
                for piece in self._decoded(entry, coded):
                    writer.write(piece)
                writer.commit()
        except ContentMismatch as error:
            raise WireError(Drop.CONTENT_DIGEST_MISMATCH, str(error)) from None
        return Accepted(entry, 1)

    def _batch(self, entry: ObjectEntry, content: bytes) -> Accepted:
        members = [digest for digest, _ in unpack(content)]  # all of it verified before any of it is kept
        absent = ((digest, body) for digest, body in unpack(content) if self._spool.size(digest) is None)
        new = 0
        while some := list(islice(absent, MEMBERS_AT_ONCE)):
            list(self._writers.map(lambda member: self._spool.write(*member), some))
            new += len(some)
        self._journal.note_unpacked(entry.digest, self._now(), members)
        return Accepted(entry, new)

    def _release(self, entry: ObjectEntry, content: bytes) -> Accepted:
        try:
            return self._checked_release(entry, content)
        except WireError as error:
            if self._refusals is not None:
                self._refusals.note(entry.digest, error, self._now())
            raise

    def _checked_release(self, entry: ObjectEntry, content: bytes) -> Accepted:
        signed = self._trust.open(content)
        release = signed.release
        newer = check_order(signed, self._marks.get(release.collection))
        if newer or self._journal.release(release.collection, release.sequence) is None:
            if self._floor is not None:
                self._floor.release(release.collection, ReleaseMark(release.sequence, signed.digest))
            self._journal.save_release(release.collection, release.sequence, signed.digest, content, self._now())
            self._marks[release.collection] = ReleaseMark(release.sequence, signed.digest)
            log.info(
                "release_received",
                collection=release.collection,
                sequence=release.sequence,
                digest=signed.digest,
                images=len(release.images),
            )
        return Accepted(entry, 0, signed)

    def _decoded(self, entry: ObjectEntry, coded: Path | bytes) -> Iterator[bytes]:
        chunks = self._chunks(coded)
        return decompress(chunks, entry.content_size) if entry.coding is Coding.ZSTD else chunks

    def _chunks(self, coded: Path | bytes, start: int = 0) -> Iterator[bytes]:
        if isinstance(coded, bytes):
            yield coded[start:]
            return
        with coded.open("rb") as file:
            file.seek(start)
            while piece := file.read(_READ_BYTES):
                if self._interrupted():
                    raise Interrupted
                yield piece


def _digest_of(like: str, chunks: Iterable[bytes]) -> str:
    algorithm = like.partition(":")[0]
    state = hashlib.new(algorithm)
    for piece in chunks:
        state.update(piece)
    return f"{algorithm}:{state.hexdigest()}"
