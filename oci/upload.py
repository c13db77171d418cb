"""Blob upload: mount, monolithic PUT for small blobs, chunked PATCH with resume for large ones (distribution-spec).

The bytes are verified while they leave; a blob that is not what its descriptor says is never completed, and its
upload is deleted. Memory is one chunk of the opener, whatever the blob's size.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Final
from urllib.parse import quote

from multidict import CIMultiDictProxy
from yarl import URL

from oci import limits
from oci.auth import Scopes
from oci.connection import Connection
from oci.descriptor import Descriptor, hasher
from oci.errors import ContentMismatch, NotFound, OciError, Refused, Unauthorized, Unreachable
from oci.http import Reply, Transient, join
from oci.store import BlobOpener, Progress

_RANGE: Final = re.compile(r"(?:bytes=)?0-(\d{1,19})\Z", re.ASCII)
_OCTETS: Final = {"Content-Type": "application/octet-stream"}


class VerifiedReader:
    """Reads a blob through its opener, from any offset, and vouches for size and digest before the last byte."""

    def __init__(self, descriptor: Descriptor, opener: BlobOpener, where: str, progress: Progress | None) -> None:
        self._descriptor = descriptor
        self._opener = opener
        self._where = where
        self._progress = progress
        self._reported = 0
        self._hash = hasher(descriptor.digest)
        self._iterator: AsyncIterator[bytes] | None = None
        self._rest = b""
        self.hashed = 0
        self.position = 0
        self.failure: Exception | None = None  # the HTTP client hides what a body raises; this is it

    async def take(self, offset: int, count: int) -> AsyncIterator[bytes]:
        """Yield the bytes from *offset* to *offset + count*; *offset* is at most ``hashed``."""
        assert offset <= self.hashed
        if offset == 0:  # all of it again, in another attempt: it may have changed on disk
            self._hash, self.hashed = hasher(self._descriptor.digest), 0
        try:
            await self._seek(offset)
            iterator = self._iterator
            end = min(offset + count, self._descriptor.size)
            if self._descriptor.size == 0:
                await self._finish()
            while self.position < end:
                chunk = self._rest or await self._next()
                if iterator is not self._iterator:
                    return  # a newer attempt has taken over
                part, self._rest = chunk[: end - self.position], chunk[end - self.position :]
                self.position += len(part)
                fresh = self.position - self.hashed
                if fresh > 0:
                    self._hash.update(part[-fresh:])
                    self.hashed = self.position
                if self.position == self._descriptor.size:
                    await self._finish()
                yield part
                self._report()
        except Exception as error:
            self.failure = error
            raise

    async def aclose(self) -> None:
        """Close the opener's iterator."""
        iterator, self._iterator, self._rest = self._iterator, None, b""
        close = getattr(iterator, "aclose", None)
        if close is not None:
            try:
                await close()
            except RuntimeError:
                pass  # an abandoned attempt is just now inside it, and ends on its own

    async def _seek(self, offset: int) -> None:
        if self._iterator is not None and self.position == offset:
            return
        await self.aclose()
        self._iterator = self._opener(offset)
        self.position = offset

    async def _next(self) -> bytes:
        assert self._iterator is not None
        async for chunk in self._iterator:
            if chunk:
                return chunk
        raise ContentMismatch(f"{self._where}: expected {self._descriptor.size:,} bytes, got {self.position:,}")

    async def _finish(self) -> None:
        assert self._iterator is not None
        size = self._descriptor.size
        more = self._rest
        if not more:
            async for chunk in self._iterator:
                more = chunk
                if more:
                    break
        if more:
            raise ContentMismatch(f"{self._where}: expected {size:,} bytes, got more")
        got = f"{self._descriptor.digest.partition(':')[0]}:{self._hash.hexdigest()}"
        if got != self._descriptor.digest:
            raise ContentMismatch(f"{self._where}: the bytes have digest {got}; expected {self._descriptor.digest}")

    def _report(self) -> None:
        if self._progress is not None and self.position > self._reported:
            self._progress(self.position - self._reported)
            self._reported = self.position


class _Restart(Exception):
    """The upload session is lost; a new one may do."""

    def __init__(self, error: OciError, *, chunked: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.chunked = chunked


class _SourceFailed(Exception):
    """The bytes to send are wrong or do not come; no retry at the registry mends that."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Uploader:
    """Uploads into one repository of one registry."""

    def __init__(self, connection: Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._scopes: Scopes = (f"repository:{path}:pull,push",)

    async def upload(
        self,
        descriptor: Descriptor,
        opener: BlobOpener,
        where: str,
        *,
        mount_from: str | None,
        progress: Progress | None,
    ) -> bool:
        """Upload a blob that is not there; return False if mounting *mount_from* spared the bytes."""
        location: tuple[URL, int] | None = None
        if mount_from is not None:
            mounted, location = await self._mount(descriptor, mount_from, where)
            if mounted:
                return False
        reader = VerifiedReader(descriptor, opener, where, progress)
        chunked = descriptor.size > limits.UPLOAD_CHUNK_BYTES
        try:
            for attempt in range(limits.RETRIES_MAX + 1):
                try:
                    url, chunk_bytes = location or await self._start(where)
                    location = None
                    await self._session(url, chunk_bytes if chunked else None, descriptor, reader, where)
                    return True
                except _Restart as restart:
                    if await self._arrived(descriptor, where):
                        return True
                    chunked = chunked and restart.chunked
                    if attempt == limits.RETRIES_MAX:
                        raise restart.error from None
                    await self._connection.http.backoff(
                        attempt, restart.error if isinstance(restart.error, Transient) else None
                    )
        except _SourceFailed as failed:
            raise failed.failure from None
        finally:
            await reader.aclose()
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _mount(self, descriptor: Descriptor, source: str, where: str) -> tuple[bool, tuple[URL, int] | None]:
        """Ask for a cross-repository mount; an upload the registry starts instead is used."""
        query = f"mount={descriptor.digest}&from={quote(source, safe='')}"
        scopes = (*self._scopes, f"repository:{source}:pull")
        url = self._connection.url(f"{self._path}/blobs/uploads/?{query}")
        try:
            reply = await self._connection.fetch("POST", url, where, scopes, body=b"", ok=(201, 202))
        except (Unauthorized, NotFound, Refused):
            return False, None  # not ours to read, or not there: upload
        if reply.status == 201:
            check_answer_digest(reply.headers, descriptor.digest, where)
            return True, None
        return False, self._location(reply, url, where)

    async def _start(self, where: str) -> tuple[URL, int]:
        url = self._connection.url(f"{self._path}/blobs/uploads/")
        reply = await self._connection.fetch("POST", url, where, self._scopes, body=b"", ok=(202,))
        return self._location(reply, url, where)

    def _location(self, reply: Reply, base: URL, where: str) -> tuple[URL, int]:
        """Return where to go on, and the size of chunks the registry takes."""
        location = reply.headers.get("Location")
        if not location:
            raise Refused(f"{where}: the registry started an upload without Location; expected where to send to")
        minimum = reply.headers.get("OCI-Chunk-Min-Length", "")
        least = int(minimum) if minimum.isascii() and minimum.isdigit() and len(minimum) < 16 else 0
        return join(base, location, where), max(limits.UPLOAD_CHUNK_BYTES, least)

    async def _session(
        self, url: URL, chunk_bytes: int | None, descriptor: Descriptor, reader: VerifiedReader, where: str
    ) -> None:
        """Run one upload session to its end; a failure deletes it at the registry."""
        try:
            if chunk_bytes is None:
                await self._complete(url, descriptor, where, reader)
                return
            offset, failures = 0, 0
            while offset < descriptor.size:
                try:
                    url, offset = await self._patch(url, offset, chunk_bytes, descriptor, reader, where)
                    failures = 0
                except Transient as error:
                    failures += 1
                    if failures > limits.RETRIES_MAX:
                        raise
                    await self._connection.http.backoff(failures - 1, error)
                    url, offset = await self._status(url, reader, where)
            await self._complete(url, descriptor, where, None)
        except BaseException:
            await self._abort(url, where)
            raise

    async def _patch(
        self, url: URL, offset: int, count: int, descriptor: Descriptor, reader: VerifiedReader, where: str
    ) -> tuple[URL, int]:
        """Send one chunk; return where the next one goes and from which offset the registry wants it."""
        count = min(count, descriptor.size - offset)
        headers = _OCTETS | {"Content-Length": str(count), "Content-Range": f"{offset}-{offset + count - 1}"}
        try:
            reply = await self._send(
                "PATCH", url, where, headers, lambda: reader.take(offset, count), reader, ok=(202, 201, 204, 416)
            )
        except NotFound as error:
            raise _Restart(error) from None
        except Refused as error:
            raise _Restart(error, chunked=False) from None  # a registry without chunked upload
        if reply.status == 416:
            raise Transient(f"{where}: the registry has other bytes than we sent (416)")
        received = _received(reply.headers)
        next_offset = offset + count if received is None else received
        if not offset < next_offset <= reader.hashed:
            raise _Restart(Unreachable(f"{where}: the registry lost count of the upload"))
        location = reply.headers.get("Location")
        return (join(url, location, where) if location else url), next_offset

    async def _status(self, url: URL, reader: VerifiedReader, where: str) -> tuple[URL, int]:
        """Ask how much of the upload has arrived (distribution-spec: GET of the upload location)."""
        try:
            reply = await self._connection.fetch("GET", url, where, self._scopes, ok=(204, 202, 200))
        except (NotFound, Refused, Transient) as error:
            raise _Restart(error) from None
        received = _received(reply.headers)
        if received is None or received > reader.hashed:
            raise _Restart(Unreachable(f"{where}: the registry does not say how much of the upload it has"))
        location = reply.headers.get("Location")
        return (join(url, location, where) if location else url), received

    async def _complete(self, url: URL, descriptor: Descriptor, where: str, reader: VerifiedReader | None) -> None:
        """PUT with the digest: with all bytes (*reader*) or after chunks (None)."""
        text = str(url)
        final = URL(f"{text}{'&' if '?' in text else '?'}digest={descriptor.digest}", encoded=True)
        headers = _OCTETS | {"Content-Length": str(descriptor.size if reader is not None else 0)}
        try:
            if reader is None:
                reply = await self._send("PUT", final, where, headers, None, None, ok=(201, 204, 200))
            else:
                body = reader.take
                if descriptor.size == 0:
                    await self._verify_empty(reader)
                reply = await self._send(
                    "PUT", final, where, headers, lambda: body(0, descriptor.size), reader, ok=(201, 204, 200)
                )
        except (Transient, NotFound) as error:
            raise _Restart(error) from None
        check_answer_digest(reply.headers, descriptor.digest, where)

    async def _verify_empty(self, reader: VerifiedReader) -> None:
        """Nothing is sent of an empty blob, so the HTTP client would never ask for its bytes."""
        try:
            async for _ in reader.take(0, 0):
                pass
        except Exception as error:
            raise _SourceFailed(error) from error

    async def _send(
        self,
        method: str,
        url: URL,
        where: str,
        headers: dict[str, str],
        body: Callable[[], AsyncIterator[bytes]] | None,
        reader: VerifiedReader | None,
        ok: tuple[int, ...],
    ) -> Reply:
        """One attempt; what the reader found wrong goes before what the connection says of it."""
        if reader is not None:
            reader.failure = None
        try:
            return await self._connection.fetch(
                method, url, where, self._scopes, headers=headers, body=body, ok=ok, retries=0
            )
        except OciError as error:
            if reader is not None and reader.failure is not None:
                raise _SourceFailed(reader.failure) from error
            raise

    async def _arrived(self, descriptor: Descriptor, where: str) -> bool:
        """Whether the blob is there after all: the answer to the last PUT may be what got lost."""
        url = self._connection.url(f"{self._path}/blobs/{descriptor.digest}")
        reply = await self._connection.fetch("HEAD", url, where, self._scopes, ok=(200, 404))
        return reply.status == 200 and reply.headers.get("Content-Length") in {None, str(descriptor.size)}

    async def _abort(self, url: URL, where: str) -> None:
        """Delete the upload. docker-registry 2.8 refuses it after a broken-off request, and purges later."""
        try:
            async with asyncio.timeout(limits.CONNECT_SECONDS_MAX):
                await self._connection.fetch("DELETE", url, where, self._scopes, ok=(204, 202, 200), retries=0)
        except (OciError, TimeoutError):
            pass  # the failure that brought us here is the one to tell


def check_answer_digest(headers: CIMultiDictProxy[str], digest: str, where: str) -> None:
    """ContentMismatch if Docker-Content-Digest is there and names another content of the same algorithm."""
    stated = headers.get("Docker-Content-Digest")
    if stated and stated != digest and stated.partition(":")[0] == digest.partition(":")[0]:
        raise ContentMismatch(f"{where}: the registry stored it as {stated[:140]!r}; expected {digest}")


def _received(headers: CIMultiDictProxy[str]) -> int | None:
    """Return how many bytes a Range header says have arrived; ``0-0`` is how registries write none."""
    match = _RANGE.match(headers.get("Range", "").strip())
    if match is None:
        return None
    last = int(match[1])
    return last + 1 if last else 0
