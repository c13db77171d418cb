"""Blob uploads of the embedded registry (distribution-spec, "Pushing blobs"): POST, PATCH, PUT, GET, DELETE.

A session streams to a temp file of the blob store, hashing as it goes; a dropped connection keeps what arrived,
so the client can ask for the status and go on. Sessions are limited in number and in idle time.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from oci.blobs import BlobStore, BlobWriter
from oci.descriptor import check_digest
from oci.errors import ContentMismatch, ReferenceError_
from oci.limits import (
    BLOB_CHUNK_BYTES,
    BLOB_SIZE_MAX,
    IDLE_SECONDS_MAX,
    SERVER_UPLOAD_AGE_S_MAX,
    SERVER_UPLOADS_MAX,
)
from oci.server_errors import ApiError

_CONTENT_RANGE: Final = re.compile(r"(?:bytes )?(\d{1,19})-(\d{1,19})(?:/\S+)?")
_GATHER_BYTES: Final = 4 * BLOB_CHUNK_BYTES  # one hop to a thread for this much
_SWEEP_S: Final = 60.0


class _Session:
    """One upload: who may write, and when somebody last did."""

    def __init__(self, name: str, writer: BlobWriter) -> None:
        self.name = name
        self.writer = writer
        self.lock = asyncio.Lock()
        self.touched_s = time.monotonic()


class Uploads:
    """All upload sessions of one server."""

    def __init__(
        self, blobs: BlobStore, *, sessions_max: int = SERVER_UPLOADS_MAX, age_s_max: float = SERVER_UPLOAD_AGE_S_MAX
    ) -> None:
        self._blobs = blobs
        self._sessions: dict[str, _Session] = {}
        self._opening = 0
        self._sessions_max = sessions_max
        self._age_s_max = age_s_max

    async def start(self, request: web.Request, name: str) -> web.Response:
        """POST: mount a blob, take it whole (``?digest=``) or open a session."""
        mount = request.query.get("mount")
        if mount is not None and await asyncio.to_thread(self._blobs.size, _digest(mount)) is not None:
            return _created(name, mount)
        digest = request.query.get("digest")
        if digest is not None:
            _digest(digest)
        await self.sweep()
        if len(self._sessions) + self._opening >= self._sessions_max:
            raise ApiError(429, "TOOMANYREQUESTS", "too many uploads at once", {"Retry-After": "10"})
        identity = secrets.token_hex(16)
        self._opening += 1
        try:
            writer = await asyncio.to_thread(self._blobs.writer)
        finally:
            self._opening -= 1
        session = self._sessions[identity] = _Session(name, writer)
        if digest is None:
            return web.Response(status=202, headers=_where(name, identity, session.writer.written))
        async with session.lock:
            try:
                await _receive(request, session)
            except BaseException:
                await self._drop(identity)
                raise
            return await self._finish(identity, session, digest)

    async def append(self, request: web.Request, name: str) -> web.Response:
        """PATCH: add a chunk, at the end only; 416 tells a client that lost count where the end is."""
        async with self._held(request, name) as (identity, session):
            _check_range(request, identity, session)
            await _receive(request, session)
            return web.Response(status=202, headers=_where(name, identity, session.writer.written))

    async def finish(self, request: web.Request, name: str) -> web.Response:
        """PUT ``?digest=``: add the last chunk, if there is one, and make the blob visible."""
        digest = _digest(request.query.get("digest", ""))
        async with self._held(request, name) as (identity, session):
            _check_range(request, identity, session)
            await _receive(request, session)
            return await self._finish(identity, session, digest)

    async def status(self, request: web.Request, name: str) -> web.Response:
        """GET: how far the upload came."""
        identity, session = self._find(request, name)
        return web.Response(status=204, headers=_where(name, identity, session.writer.written))

    async def cancel(self, request: web.Request, name: str) -> web.Response:
        """DELETE: drop the upload."""
        async with self._held(request, name) as (identity, _):
            await self._drop(identity)
        return web.Response(status=204)

    async def sweep(self) -> None:
        """Drop sessions that nobody has written to for too long."""
        oldest_s = time.monotonic() - self._age_s_max
        for identity, session in list(self._sessions.items()):
            if session.touched_s < oldest_s and not session.lock.locked():
                await self._drop(identity)

    async def run(self, _app: web.Application) -> AsyncIterator[None]:
        """Sweep now and then while the server runs; drop all sessions when it ends (an aiohttp cleanup context)."""

        async def keep_sweeping() -> None:
            while True:
                await asyncio.sleep(_SWEEP_S)
                await self.sweep()

        task = asyncio.create_task(keep_sweeping())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for identity in list(self._sessions):
            await self._drop(identity)

    def _find(self, request: web.Request, name: str) -> tuple[str, _Session]:
        identity = request.match_info["session"]
        session = self._sessions.get(identity)
        if session is None or session.name != name:
            raise ApiError(404, "BLOB_UPLOAD_UNKNOWN", f"{name}: no upload {identity!r}")
        return identity, session

    @asynccontextmanager
    async def _held(self, request: web.Request, name: str) -> AsyncIterator[tuple[str, _Session]]:
        _, session = self._find(request, name)
        async with session.lock:
            # It may have ended while we waited for the lock.
            yield self._find(request, name)

    async def _finish(self, identity: str, session: _Session, digest: str) -> web.Response:
        try:
            await asyncio.to_thread(session.writer.commit, digest)
        except ContentMismatch as error:
            raise ApiError(400, "DIGEST_INVALID", str(error)) from None
        finally:
            await self._drop(identity)
        return _created(session.name, digest)

    async def _drop(self, identity: str) -> None:
        session = self._sessions.pop(identity, None)
        if session is not None:
            await asyncio.to_thread(session.writer.abort)


async def body_chunks(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the request's body as it comes; 408 if nothing comes for too long, so that no slot is held for ever."""
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS_MAX):
                chunk = await request.content.readany()
        except TimeoutError:
            raise ApiError(408, "BLOB_UPLOAD_INVALID", f"nothing came for {IDLE_SECONDS_MAX:.0f} s") from None
        if not chunk:
            return
        yield chunk


async def _receive(request: web.Request, session: _Session) -> None:
    """Stream the request's body into the session, in few hops to a thread."""
    gathered = bytearray()
    try:
        async for chunk in body_chunks(request):
            gathered += chunk
            if session.writer.written + len(gathered) > BLOB_SIZE_MAX:
                raise ApiError(413, "SIZE_INVALID", f"a blob may have {BLOB_SIZE_MAX} bytes at most")
            if len(gathered) >= _GATHER_BYTES:
                await asyncio.to_thread(session.writer.write, bytes(gathered))
                gathered.clear()
                session.touched_s = time.monotonic()
    finally:
        # Also when the connection broke: what arrived need not be sent again.
        if gathered:
            await asyncio.to_thread(session.writer.write, bytes(gathered))
        session.touched_s = time.monotonic()


def _check_range(request: web.Request, identity: str, session: _Session) -> None:
    """Compare Content-Range with what is there; without one the body is a stream that goes on at the end."""
    stated = request.headers.get("Content-Range")
    if stated is None:
        return
    match = _CONTENT_RANGE.fullmatch(stated.strip())
    first, last = (int(match[1]), int(match[2])) if match else (-1, -2)
    length = request.content_length
    if first != session.writer.written or last < first - 1 or length not in (None, last - first + 1):
        message = f"Content-Range {stated!r} does not continue the {session.writer.written} bytes that are here"
        headers = _where(session.name, identity, session.writer.written)
        raise ApiError(416, "BLOB_UPLOAD_INVALID", message, headers)


def _digest(text: str) -> str:
    try:
        return check_digest(text)
    except ReferenceError_ as error:
        raise ApiError(400, "DIGEST_INVALID", str(error)) from None


def _where(name: str, identity: str, written: int) -> dict[str, str]:
    return {
        "Location": f"/v2/{name}/blobs/uploads/{identity}",
        "Docker-Upload-UUID": identity,
        # The end is inclusive; an empty upload is told as 0-0, as all registries do.
        "Range": f"0-{max(written - 1, 0)}",
    }


def _created(name: str, digest: str) -> web.Response:
    headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers=headers)
