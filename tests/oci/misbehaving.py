"""A registry that holds one repository and misbehaves by script: each fault is for the next request of its kind."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from oci.descriptor import Descriptor, Manifest, sha256_digest

Fault = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
"""What to answer instead; it is given the right body."""


class ScriptedRegistry:
    """A handler for ``serve``. Kinds are ``manifests``, ``blobs``, ``tags`` and ``token``."""

    def __init__(
        self, *manifests: Manifest, blobs: tuple[bytes, ...] = (), tags: Mapping[str, str] | None = None
    ) -> None:
        self.manifests = {manifest.descriptor.digest: manifest for manifest in manifests}
        self.blobs = {sha256_digest(data): data for data in blobs}
        self.tags = dict(tags or {})
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.always: dict[str, Fault] = {}
        self.headers: dict[str, str] = {}  # with every answer
        self.names_digests = True
        self.asked: list[
            tuple[str, str, str | None]
        ] = []  # method, path after the repository, Range or If-None-Match

    def paths(self, kind: str) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.asked if path.startswith(kind)]

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        kind, _, name = "/".join(request.path.split("/")[-2:]).partition("/")
        condition = request.headers.get("Range") or request.headers.get("If-None-Match")
        self.asked.append((request.method, f"{kind}/{name}", condition))
        body, headers = self._content(kind, name)
        fault = self.faults[kind].popleft() if self.faults[kind] else self.always.get(kind)
        if fault is not None:
            return await fault(request, body or b"")
        if body is None:
            return web.Response(status=404)
        return _ranged(request, body, {**headers, **self.headers})

    def _content(self, kind: str, name: str) -> tuple[bytes | None, dict[str, str]]:
        if kind == "manifests":
            manifest = self.manifests.get(self.tags.get(name, name))
            if manifest is None:
                return None, {}
            headers = {"Content-Type": manifest.descriptor.media_type}
            if self.names_digests:
                headers["Docker-Content-Digest"] = manifest.descriptor.digest
            return manifest.raw, headers
        if kind == "blobs":
            return self.blobs.get(name), {}
        if kind == "tags":
            names = ",".join(f'"{tag}"' for tag in self.tags)
            return f'{{"name":"a/b","tags":[{names}]}}'.encode(), {}
        return None, {}


def _ranged(request: web.Request, body: bytes, headers: dict[str, str]) -> web.Response:
    asked = request.headers.get("Range")
    if asked is None:
        return web.Response(body=body, headers=headers)
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    return web.Response(status=206, body=body[start:], headers=headers)


def status(code: int, **headers: str) -> Fault:
    """Refuse, with headers such as ``Retry_After="3"``."""

    async def fault(_: web.Request, __: bytes) -> web.StreamResponse:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return fault


def redirect(location: str) -> Fault:
    """Send on to *location*."""
    return status(307, Location=location)


def cut(after: int) -> Fault:
    """Break the connection after *after* bytes of the body."""

    async def fault(request: web.Request, body: bytes) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await answer.prepare(request)
        await answer.write(body[:after])
        assert request.transport is not None
        request.transport.close()
        return answer

    return fault


def slow(seconds: float, piece: int = 1, first: int = 0) -> Fault:
    """Send *first* bytes at once, then *piece* bytes every so many *seconds*, for longer than a test lasts."""

    async def fault(request: web.Request, body: bytes) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(body))} if body else {})
        await answer.prepare(request)
        await answer.write(body[:first])
        for start in range(first, max(len(body), 10_000), piece):
            await asyncio.sleep(seconds)
            try:
                await answer.write(body[start : start + piece] or b" ")
            except ConnectionError:
                break
        return answer

    return fault


def instead(data: bytes, **headers: str) -> Fault:
    """Answer with other bytes."""

    async def fault(_: web.Request, __: bytes) -> web.StreamResponse:
        return web.Response(body=data, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return fault


def hang(until: asyncio.Event) -> Fault:
    """Answer nothing until told to."""

    async def fault(_: web.Request, body: bytes) -> web.StreamResponse:
        await until.wait()
        return web.Response(body=body)

    return fault


def blob(data: bytes) -> Descriptor:
    return Descriptor("application/vnd.oci.image.layer.v1.tar", sha256_digest(data), len(data))
