"""Blob download: streamed, verified, and resumed by Range when the connection breaks.

Knows nothing of manifests. The last chunk is handed out only after size and digest were found right.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from typing import Final

import aiohttp

from oci import limits
from oci.auth import Scopes
from oci.connection import Connection
from oci.descriptor import Descriptor, hasher
from oci.errors import ContentMismatch, LeftAlone
from oci.http import Transient, chunks

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\Z", re.ASCII)


def download(
    connection: Connection,
    path: str,
    descriptor: Descriptor,
    offset: int,
    where: str,
    scopes: Scopes,
    *,
    verify: bool = True,
) -> AsyncGenerator[bytes, None]:
    """Yield the blob from *offset*; the digest is verified when *offset* is 0 and *verify*, the size always.

    Raises ContentMismatch for wrong content, Transient when reconnecting no longer helps, and what a refusing
    status means.
    """
    pieces = _resumed(connection, path, descriptor, offset, where, scopes)
    return held_back(pieces, descriptor.digest if offset == 0 and verify else None, where)


async def held_back(
    pieces: AsyncGenerator[bytes, None], digest: str | None, where: str
) -> AsyncGenerator[bytes, None]:
    """Yield *pieces*, the last one only after their end was reached and, with *digest*, found to have it."""
    expected = None if digest is None else hasher(digest)
    held = b""
    # A caller who stops early closes us, and with us the connection.
    async with aclosing(pieces):
        async for chunk in pieces:
            if expected is not None:
                expected.update(chunk)
            if held:
                yield held
            held = chunk
    if expected is not None and digest is not None:
        got = f"{digest.partition(':')[0]}:{expected.hexdigest()}"
        if got != digest:
            raise ContentMismatch(f"{where}: the bytes have digest {got}; expected {digest}")
    if held:
        yield held


async def _resumed(
    connection: Connection, path: str, descriptor: Descriptor, position: int, where: str, scopes: Scopes
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes from *position* to the end, over as many connections as it takes."""
    attempt = 0
    failure: Transient | None = None
    while True:
        before = position
        try:
            async with (
                connection.budget.blob() if connection.budget is not None else nullcontext(),
                aclosing(_from(connection, path, descriptor, position, where, scopes)) as pieces,
            ):
                async for chunk in pieces:
                    position += len(chunk)
                    yield chunk
            return
        except LeftAlone as error:
            raise (failure or error) from (failure or error).__cause__
        except Transient as error:
            failure = error
            # A trickle is no progress: a server that breaks after each byte must not hold us for ever.
            attempt = 0 if position - before >= limits.BLOB_CHUNK_BYTES else attempt + 1
            if attempt > connection.retries:
                raise
            await connection.http.backoff(attempt, error, paused=connection.budget is not None)


async def _from(
    connection: Connection, path: str, descriptor: Descriptor, position: int, where: str, scopes: Scopes
) -> AsyncGenerator[bytes, None]:
    """One connection: yield the bytes from *position* to the end, and check that the end is where it should be."""
    size = descriptor.size
    if position == size and position > 0:
        return
    headers = {"Range": f"bytes={position}-"} if position else {}
    response = await connection.open(
        "GET",
        connection.url(f"{path}/blobs/{descriptor.digest}"),
        where,
        scopes,
        headers,
        ok=(200, 206) if position else (200,),
    )
    try:
        skip = _check_extent(response, position, size, where)
        async for chunk in chunks(response, where):
            if skip:
                skipped = min(skip, len(chunk))
                skip -= skipped
                chunk = chunk[skipped:]
                if not chunk:
                    continue
            position += len(chunk)
            if position > size:
                raise ContentMismatch(f"{where}: expected {size:,} bytes, got more")
            yield chunk
        if position != size:
            raise ContentMismatch(f"{where}: expected {size:,} bytes, got {position:,}")
    finally:
        response.close() if not response.content.at_eof() else response.release()


def _check_extent(response: aiohttp.ClientResponse, position: int, size: int, where: str) -> int:
    """Return how many bytes to skip; ContentMismatch if the announced extent cannot be the blob's."""
    length = response.content_length
    if response.status == 206:
        value = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.match(value)
        if match is None or int(match[1]) != position or match[3] not in {str(size), "*"}:
            raise ContentMismatch(
                f"{where}: Content-Range {value[:80]!r}; expected 'bytes {position}-{size - 1}/{size}'"
            )
        return 0
    # A server that ignores Range starts over; what we have already is skipped.
    if length is not None and length != size:
        raise ContentMismatch(f"{where}: expected {size:,} bytes, got {length:,}")
    return position
