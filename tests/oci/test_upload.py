"""Blob uploads against a registry with faults to order."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from oci import limits
from oci.client import Registry, RegistryRepository
from oci.errors import ContentMismatch, Refused, Unreachable
from oci.http import HttpClient
from oci.upload import VerifiedReader
from tests.oci.peers import Serve, described, opener

DATA = os.urandom(1_000_000)
BLOB = described(DATA)
OTHER = described(b"other")


def repository(host: str, http: HttpClient) -> RegistryRepository:
    return Registry(host, plain_http=True, http=http).repository("a/b")


class UploadServer:
    """Takes one upload as distribution-spec says, with faults to order."""

    def __init__(self) -> None:
        self.data = b""
        self.done: dict[str, bytes] = {}
        self.log: list[str] = []
        self.fail_patch: dict[int, int] = {}  # number of the PATCH → status
        self.keep_bytes = 0  # of a PATCH that fails
        self.headers: dict[str, str] = {}
        self.elsewhere: str | None = None
        self.authorizations: list[str | None] = []
        self.chunked = True
        self.lose_last_answer = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.log.append(f"{request.method} {request.headers.get('Content-Range', '')}".strip())
        self.authorizations.append(request.headers.get("Authorization"))
        location = {"Location": self.elsewhere or "/upload?state=a%2Fb", "OCI-Chunk-Min-Length": "200000"}
        if request.method == "HEAD":
            digest = request.path.rpartition("/")[2]
            if digest not in self.done:
                return web.Response(status=404)
            return web.Response(headers={"Content-Length": str(len(self.done[digest]))})
        if request.method == "POST":
            self.data = b""
            return web.Response(status=202, headers=location)
        assert request.query["state"] == "a/b"
        received = {"Range": f"0-{max(0, len(self.data) - 1)}"}
        if request.method == "GET":
            return web.Response(status=204, headers=location | received)
        if request.method == "DELETE":
            return web.Response(status=204)
        if request.method == "PATCH":
            return await self._patch(request, location)
        self.data += await request.read()
        self.done[request.query["digest"]] = self.data
        if self.lose_last_answer:
            self.lose_last_answer = False
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=201, headers=self.headers)

    async def _patch(self, request: web.Request, location: dict[str, str]) -> web.StreamResponse:
        if not self.chunked:
            return web.Response(status=405)
        body = await request.read()
        number = sum(line.startswith("PATCH") for line in self.log)
        status = self.fail_patch.get(number)
        start, _, end = request.headers["Content-Range"].partition("-")
        assert int(end) - int(start) + 1 == len(body)
        if status is not None:
            self.data += body[: self.keep_bytes]
            return web.Response(status=status)
        if int(start) != len(self.data):
            return web.Response(status=416)
        self.data += body
        return web.Response(status=202, headers=location | {"Range": f"0-{len(self.data) - 1}"})


@pytest.fixture
def chunks_of_100_000(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPLOAD_CHUNK_BYTES", 100_000)


@pytest.mark.usefixtures("chunks_of_100_000")
async def test_chunk_minimum_is_kept(serve: Serve, http: HttpClient) -> None:
    server = UploadServer()
    assert await repository(await serve(server), http).push_blob(BLOB, opener(DATA))
    assert server.done[BLOB.digest] == DATA
    patches = [f"PATCH {start}-{start + 199_999}" for start in range(0, 1_000_000, 200_000)]
    assert server.log == ["HEAD", "POST", *patches, "PUT"]


@pytest.mark.usefixtures("chunks_of_100_000")
@pytest.mark.parametrize(("status", "kept"), [(416, 0), (416, 50_000), (503, 0), (500, 123_456), (429, 200_000)])
async def test_failed_chunk_is_resumed_where_the_registry_stands(
    serve: Serve, http: HttpClient, status: int, kept: int
) -> None:
    server = UploadServer()
    server.fail_patch = {3: status}
    server.keep_bytes = kept
    offsets: list[int] = []
    moved: list[int] = []
    target = repository(await serve(server), http)
    assert await target.push_blob(BLOB, opener(DATA, offsets), progress=moved.append)
    assert server.done[BLOB.digest] == DATA
    assert "GET" in server.log
    assert server.log.count("POST") == 1
    assert f"PATCH {400_000 + kept}-{400_000 + kept + 199_999}" in server.log or kept == 200_000
    assert set(offsets) <= {0, 400_000 + kept}
    assert sum(moved) == len(DATA)


@pytest.mark.usefixtures("chunks_of_100_000")
async def test_registry_that_lost_the_upload_gets_a_new_one(serve: Serve, http: HttpClient) -> None:
    server = UploadServer()
    server.fail_patch = {2: 404}
    assert await repository(await serve(server), http).push_blob(BLOB, opener(DATA))
    assert server.done[BLOB.digest] == DATA
    assert server.log.count("POST") == 2


@pytest.mark.usefixtures("chunks_of_100_000")
async def test_registry_without_chunks_gets_one_put(serve: Serve, http: HttpClient) -> None:
    server = UploadServer()
    server.chunked = False
    assert await repository(await serve(server), http).push_blob(BLOB, opener(DATA))
    assert server.done[BLOB.digest] == DATA


async def test_lost_answer_to_the_last_put_is_found_out(serve: Serve, http: HttpClient) -> None:
    server = UploadServer()
    server.lose_last_answer = True
    assert await repository(await serve(server), http).push_blob(BLOB, opener(DATA))
    assert server.done[BLOB.digest] == DATA


async def test_registry_that_never_takes_a_chunk(
    serve: Serve, http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UPLOAD_CHUNK_BYTES", 100_000)
    server = UploadServer()
    server.fail_patch = dict.fromkeys(range(1000), 503)
    with pytest.raises(Unreachable, match="503"):
        await repository(await serve(server), http).push_blob(BLOB, opener(DATA))
    assert server.log[-1] == "DELETE"
    assert len(server.log) < 100


@pytest.mark.parametrize("chunk", [100_000, 2_000_000])
async def test_failed_verification_deletes_the_upload(
    serve: Serve, http: HttpClient, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(limits, "UPLOAD_CHUNK_BYTES", chunk)
    server = UploadServer()
    with pytest.raises(ContentMismatch, match="have digest"):
        await repository(await serve(server), http).push_blob(BLOB, opener(bytes(len(DATA))))
    assert server.done == {}
    assert server.log[-1] == "DELETE"


async def test_registry_that_computed_another_digest(serve: Serve, http: HttpClient) -> None:
    server = UploadServer()
    server.headers = {"Docker-Content-Digest": OTHER.digest}
    with pytest.raises(ContentMismatch, match="stored it as"):
        await repository(await serve(server), http).push_blob(BLOB, opener(DATA))


async def test_upload_on_another_host_does_not_see_the_token(serve: Serve, http: HttpClient) -> None:
    storage = UploadServer()
    elsewhere = await serve(storage)
    front = UploadServer()
    front.elsewhere = f"http://{elsewhere}/upload?state=a%2Fb"

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            return web.json_response({"token": "t"})
        if request.headers.get("Authorization") != "Bearer t":
            header = f'Bearer realm="http://{request.host}/token"'
            return web.Response(status=401, headers={"WWW-Authenticate": header})
        return await front(request)

    assert await repository(await serve(handler), http).push_blob(BLOB, opener(DATA))
    assert storage.done[BLOB.digest] == DATA
    assert set(storage.authorizations) == {None}


async def test_upload_without_location(serve: Serve, http: HttpClient) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=202 if request.method == "POST" else 404)

    with pytest.raises(Refused, match="without Location"):
        await repository(await serve(handler), http).push_blob(BLOB, opener(DATA))


async def test_put_that_breaks_off_is_sent_again_whole(serve: Serve, http: HttpClient) -> None:
    server = UploadServer()
    cut = False

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal cut
        if request.method == "PUT" and not cut:
            cut = True
            await request.content.readexactly(300_000)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return await server(request)

    assert await repository(await serve(handler), http).push_blob(BLOB, opener(DATA))
    assert cut
    assert server.done[BLOB.digest] == DATA


@pytest.mark.usefixtures("chunks_of_100_000")
async def test_token_that_expires_during_an_upload_is_renewed(serve: Serve, http: HttpClient) -> None:
    server = UploadServer()
    issued = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal issued
        if request.path == "/token":
            issued += 1
            return web.json_response({"token": f"t{issued}"})
        patches = sum(line.startswith("PATCH") for line in server.log)
        if request.headers.get("Authorization") != ("Bearer t1" if patches < 2 else "Bearer t2"):
            header = f'Bearer realm="http://{request.host}/token"'
            return web.Response(status=401, headers={"WWW-Authenticate": header})
        return await server(request)

    assert await repository(await serve(handler), http).push_blob(BLOB, opener(DATA))
    assert server.done[BLOB.digest] == DATA
    assert issued == 2
    assert server.log.count("POST") == 1


async def test_what_is_sent_again_is_hashed_again() -> None:
    """A blob that goes bad on disk between two attempts."""
    versions = iter((DATA, DATA[:-1] + bytes([DATA[-1] ^ 1])))

    def reopened(offset: int) -> AsyncIterator[bytes]:
        return opener(next(versions))(offset)

    reader = VerifiedReader(BLOB, reopened, "here", None)
    assert b"".join([part async for part in reader.take(0, BLOB.size)]) == DATA
    await reader.aclose()
    with pytest.raises(ContentMismatch, match="here: the bytes have digest"):
        [part async for part in reader.take(0, BLOB.size)]
    await reader.aclose()
