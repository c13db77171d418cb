"""Content-addressed blobs in a directory: ``<root>/blobs/<algorithm>/<hex>`` (OCI image-layout.md, "Blobs").

A blob enters by temp file, hash while writing, size and digest compared, fsync, rename, fsync of the folder:
at every instant it is either absent or whole. It knows nothing of what the bytes mean, nor of tags; and it
writes nothing, not even folders, before the first blob is, so a read-only directory can be opened.

Temp files live in ``<root>/.ingest``. Their writer holds an exclusive flock on them, which the kernel drops
with the process: a temp file whose lock can be had belongs to nobody and is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from oci.descriptor import DIGEST_HEX_LENGTH, check_digest, hasher, short_digest
from oci.errors import ContentMismatch, Misconfigured, NotFound, ReferenceError_, StorageFull, TooLarge
from oci.limits import BLOB_CHUNK_BYTES

Buffer = bytes | bytearray | memoryview

INGEST_FOLDER = ".ingest"
_READ_BYTES = 4 * BLOB_CHUNK_BYTES


_UNUSABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or quota into StorageFull and a place we may not write into Misconfigured, naming *path*."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{path}: {reason}; free space and it goes on by itself") from error
        if error.errno in _UNUSABLE:
            where = f" ({error.filename})" if error.filename else ""
            raise Misconfigured(f"{path}: {reason}{where}; expected a folder that we may write to") from error
        raise


def fsync_folder(path: Path) -> None:
    """Make the names in folder *path* durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Create *path* and its parents, durably; harmless if it is there."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    fsync_folder(path.parent)


class BlobStore:
    """The blobs below one root. Methods are synchronous and thread-safe unless they say async."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._ingest = self.root / INGEST_FOLDER
        self.remove_stale()

    def path(self, digest: str) -> Path:
        """Return where the blob *digest* is or would be; ReferenceError_ on anything that is no digest."""
        algorithm, _, text = check_digest(digest).partition(":")
        return self.root / "blobs" / algorithm / text

    def size(self, digest: str) -> int | None:
        """Return the size in bytes of the blob, None if it is not there."""
        try:
            found = self.path(digest).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def open(self, digest: str) -> BinaryIO:
        """Open the blob for reading; NotFound if it is not there."""
        try:
            return self.path(digest).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{self.root}: no blob {digest}") from None

    def read(self, digest: str, size_max: int) -> bytes:
        """Return the whole blob, verified; TooLarge above *size_max* bytes, NotFound, ContentMismatch."""
        with self.open(digest) as handle:
            data = handle.read(size_max + 1)
        if len(data) > size_max:
            raise TooLarge(f"{self.path(digest)}: larger than the {size_max} bytes allowed for its kind")
        hashing = hasher(digest)
        hashing.update(data)
        if hashing.hexdigest() != digest.partition(":")[2]:
            raise ContentMismatch(f"{self.path(digest)}: {len(data)} bytes that do not have the digest of its name")
        return data

    def verify(self, digest: str) -> None:
        """Hash the blob again; ContentMismatch if the bytes on disk are wrong, NotFound if absent."""
        with self.open(digest) as handle:
            _check_digest_of(handle, digest, self.path(digest))

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob, sorted within an algorithm; foreign files are passed over."""
        for algorithm in DIGEST_HEX_LENGTH:
            try:
                names = sorted(os.listdir(self.root / "blobs" / algorithm))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                with contextlib.suppress(ReferenceError_):
                    yield check_digest(f"{algorithm}:{name}")

    def remove(self, digest: str) -> bool:
        """Delete the blob; False if it was not there."""
        path = self.path(digest)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        fsync_folder(path.parent)
        return True

    def writer(self, digest: str | None = None, size: int | None = None) -> BlobWriter:
        """Return a writer, a context manager that commits on leaving without an exception.

        Without *digest* (an upload in progress) it hashes sha256 and ``commit(digest)`` must be called.
        """
        return BlobWriter(self, digest, size)

    def write(self, digest: str, data: Buffer) -> None:
        """Store *data* under *digest*; ContentMismatch if it is not that."""
        with self.writer(digest, len(data)) as writer:
            writer.write(data)

    def adopt(self, path: Path, digest: str, size: int, *, verified: bool) -> None:
        """Take the finished file *path* into the store by fsync and rename; *path* is gone afterwards.

        With ``verified=False`` the content is hashed first; ContentMismatch leaves *path* where it is.
        The file must be on the file system of the store (OSError EXDEV otherwise).
        """
        final = self.path(digest)
        with storage_errors(final), path.open("rb") as handle:
            found = os.fstat(handle.fileno()).st_size
            if found != size:
                raise ContentMismatch(f"{path}: {found} bytes, expected {size} for {digest}")
            if not verified:
                _check_digest_of(handle, digest, path)
            os.fsync(handle.fileno())
            self._place(path, final)

    def remove_stale(self) -> int:
        """Remove temp files that no living process writes; return how many. Called on opening the store."""
        removed = 0
        try:
            names = os.listdir(self._ingest)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return 0
        for name in names:
            removed += _remove_if_unlocked(self._ingest / name)
        return removed

    async def stream(self, digest: str, size: int, offset: int = 0, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Yield the blob's bytes from *offset*; ContentMismatch before the last chunk if they are wrong.

        Size is always compared, the digest when *offset* is 0; not without *verify*, for callers who hash anyway.
        """
        handle = await asyncio.to_thread(self.open, digest)
        try:
            found = os.fstat(handle.fileno()).st_size
            if found != size:
                raise ContentMismatch(f"{self.path(digest)}: {found} bytes, expected {size}")
            where = str(self.path(digest))
            async for chunk in stream_verified(handle.fileno(), 0, digest, size, offset, where, verify=verify):
                yield chunk
        finally:
            handle.close()

    async def write_stream(
        self,
        digest: str,
        size: int,
        chunks: AsyncIterator[bytes],
        progress: Callable[[int], None] | None = None,
        *,
        source: str = "",
    ) -> None:
        """Store the bytes of *chunks* under *digest*, file work in threads.

        A mismatch names *source* and leaves nothing. A chunk is written and hashed while the next one arrives.
        """
        writer = await asyncio.to_thread(self.writer, digest, size)
        writing: asyncio.Task[int] | None = None

        async def written() -> None:
            if writing is not None and progress is not None:
                progress(await writing)
            elif writing is not None:
                await writing

        try:
            async for chunk in chunks:
                await written()
                writing = asyncio.create_task(asyncio.to_thread(writer.write, chunk))
            await written()
            try:
                await asyncio.to_thread(writer.commit)
            except ContentMismatch as error:
                raise ContentMismatch(f"{source}: {error}" if source else str(error)) from None
        finally:
            await _over(writing)
            # In a thread: when this task is cancelled a write or fsync may still hold the writer.
            await asyncio.to_thread(writer.abort)

    def _place(self, temp: Path, final: Path) -> None:
        """Rename a whole, synced file to its final name, durably."""
        make_folder(final.parent)
        os.replace(temp, final)
        fsync_folder(final.parent)


class BlobWriter:
    """One blob on its way in. One thread writes at a time; ``abort`` after ``commit`` does nothing."""

    def __init__(self, store: BlobStore, digest: str | None, size: int | None) -> None:
        self._store = store
        self._digest = None if digest is None else check_digest(digest)
        self._size = size
        self._hashing = hasher(digest or "sha256:")
        self._lock = threading.RLock()
        self.written = 0
        with storage_errors(store.root):
            make_folder(store._ingest)
            self._temp, self._file = _create_locked(store._ingest)

    def write(self, data: Buffer) -> int:
        """Append *data*, return its length; ContentMismatch on more than the announced size, StorageFull."""
        length = len(data) if not isinstance(data, memoryview) else data.nbytes
        if self._size is not None and self.written + length > self._size:
            raise ContentMismatch(f"{self._digest}: more than the announced {self._size} bytes")
        with self._lock, storage_errors(self._temp):
            if self._file is None:
                raise ValueError("this writer is closed")
            self._file.write(data)
            self._hashing.update(data)
            self.written += length
        return length

    def commit(self, digest: str | None = None) -> str:
        """Compare size and digest, make the blob durable and visible; return its digest.

        ContentMismatch (nothing is left behind), StorageFull.
        """
        with self._lock:
            return self._commit(digest)

    def _commit(self, digest: str | None) -> str:
        if self._file is None:
            raise ValueError("this writer is closed")
        try:
            wanted = check_digest(digest or self._digest or f"sha256:{self._hashing.hexdigest()}")
            self._compare(wanted)
            final = self._store.path(wanted)
            with storage_errors(final):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._store._place(self._temp, final)
        except BaseException:
            self.abort()
            raise
        self._close()
        return wanted

    def _compare(self, wanted: str) -> None:
        assert self._file is not None
        if self._size is not None and self.written != self._size:
            raise ContentMismatch(f"{wanted}: {self.written} bytes, expected {self._size}")
        algorithm, _, text = wanted.partition(":")
        if algorithm == self._hashing.name:
            if self._hashing.hexdigest() != text:
                got = f"{algorithm}:{self._hashing.hexdigest()}"
                raise ContentMismatch(f"blob {short_digest(wanted)}: the bytes have digest {got}; expected {wanted}")
            return
        # The upload began before its algorithm was known, so it is hashed once more.
        self._file.flush()
        with self._temp.open("rb") as handle:
            _check_digest_of(handle, wanted, self._temp)

    def abort(self) -> None:
        """Drop what was written."""
        with self._lock:
            if self._file is not None:
                with contextlib.suppress(FileNotFoundError):
                    self._temp.unlink()
                self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            # A full disk can fail the flush inside close(); the content is gone or durable by now.
            with contextlib.suppress(OSError):
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._file is not None:
            self.commit()
        self.abort()


def _create_locked(folder: Path) -> tuple[Path, BinaryIO | None]:
    """Create a temp file and lock it; try again if another process took it for stale in between."""
    while True:
        path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                return path, os.fdopen(handle, "wb")
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _remove_if_unlocked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Still in this folder under this name: a writer renames only while it holds the lock.
        if os.fstat(handle).st_ino != path.stat().st_ino:
            return False
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


async def stream_verified(
    file: int, start: int, digest: str, size: int, offset: int, where: str, *, verify: bool = True
) -> AsyncIterator[bytes]:
    """Yield the blob of *size* bytes that begins at *start* of an open file, from *offset* of the blob.

    With *offset* 0 and *verify* it is hashed; ContentMismatch naming *where* comes before the last chunk. The next
    chunk is read and hashed while the caller has one.
    """
    hashing = hasher(digest) if offset == 0 and verify else None
    update = hashing.update if hashing else None

    def read() -> asyncio.Task[bytes]:
        length = min(size - offset, _READ_BYTES)
        return asyncio.create_task(asyncio.to_thread(_read_and_hash, file, length, start + offset, update))

    reading = read() if offset < size else None
    try:
        while reading is not None:
            chunk = await reading
            offset += len(chunk)
            if not chunk:
                raise ContentMismatch(f"{where}: ended {size - offset} bytes early")
            reading = read() if offset < size else None
            if reading is None and hashing and hashing.hexdigest() != digest.partition(":")[2]:
                raise ContentMismatch(f"{where}: the bytes do not have the digest {digest}")
            yield chunk
    finally:
        await _over(reading)


async def _over(task: asyncio.Task[Any] | None) -> None:
    """Wait for a thread's work that nobody wants any more: it may still use the file."""
    if task is not None and not task.done():
        await asyncio.wait([task])
    if task is not None and not task.cancelled():
        task.exception()  # seen


def _read_and_hash(file: int, length: int, position: int, update: Callable[[bytes], None] | None) -> bytes:
    data = os.pread(file, length, position)
    if update is not None:
        update(data)
    return data


def _check_digest_of(handle: BinaryIO, digest: str, path: Path) -> None:
    hashing = hasher(digest)
    while data := handle.read(_READ_BYTES):
        hashing.update(data)
    if hashing.hexdigest() != digest.partition(":")[2]:
        raise ContentMismatch(
            f"{path}: the content has the digest {hashing.name}:{hashing.hexdigest()}, not {digest}"
        )
