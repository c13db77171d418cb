"""The client against registries that cut, lie, loop and forget; each test writes its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from oci import limits
from oci.client import Registry, RegistryRepository
from oci.descriptor import DOCKER_MANIFEST, DOCKER_SCHEMA1, OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest
from oci.errors import ContentMismatch, NotFound, Refused, TooLarge, Unauthorized, Unreachable, Unsupported
from oci.http import HttpClient
from oci.paging import next_link
from tests.oci.peers import CONFIG, Serve, described, entry, image_of, index_of

DATA = os.urandom(1_000_000)
BLOB = described(DATA)
IMAGE = image_of(described(b"{}", CONFIG), BLOB)


def repository(host: str, http: HttpClient) -> RegistryRepository:
    return Registry(host, plain_http=True, http=http).repository("a/b")


async def collected(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


class CuttingServer:
    """Serves DATA, and cuts the connection after *cuts* bytes, one number a request."""

    def __init__(self, cuts: list[int], *, ranges: bool = True) -> None:
        self.cuts = cuts
        self.ranges = ranges
        self.asked: list[str | None] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        headers = {"Content-Length": str(len(DATA) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        answer = web.StreamResponse(status=206 if start else 200, headers=headers)
        await answer.prepare(request)
        end = start + self.cuts.pop(0) if self.cuts else len(DATA)
        await answer.write(DATA[start:end])
        if end < len(DATA):
            assert request.transport is not None
            request.transport.close()
        return answer


async def test_cut_connection_is_resumed_by_range(serve: Serve, http: HttpClient) -> None:
    server = CuttingServer([400_000, 300_000])
    assert await collected(repository(await serve(server), http).blob(BLOB)) == DATA
    assert server.asked == [None, "bytes=400000-", "bytes=700000-"]


async def test_server_that_ignores_range_is_skipped_through(serve: Serve, http: HttpClient) -> None:
    server = CuttingServer([400_000, 700_000], ranges=False)
    assert await collected(repository(await serve(server), http).blob(BLOB)) == DATA
    assert len(server.asked) == 3


async def test_offset_is_asked_for(serve: Serve, http: HttpClient) -> None:
    server = CuttingServer([])
    assert await collected(repository(await serve(server), http).blob(BLOB, 999_000)) == DATA[999_000:]
    assert server.asked == ["bytes=999000-"]


async def test_a_trickle_does_not_last_for_ever(serve: Serve, http: HttpClient, naps: list[float]) -> None:
    server = CuttingServer([1] * 1000)
    with pytest.raises(Unreachable, match="broke"):
        await collected(repository(await serve(server), http).blob(BLOB))
    assert len(naps) == limits.RETRIES_MAX


async def test_last_chunk_is_held_back_until_the_digest_is_right(serve: Serve, http: HttpClient) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=DATA[:-1] + bytes([DATA[-1] ^ 1]))

    got: list[int] = []

    async def read(pieces: AsyncIterator[bytes]) -> None:
        async for piece in pieces:
            got.append(len(piece))

    with pytest.raises(ContentMismatch, match=f"expected {BLOB.digest}"):
        await read(repository(await serve(handler), http).blob(BLOB))
    assert 0 < sum(got) < len(DATA)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
async def test_wrong_size(serve: Serve, http: HttpClient, size: int, announced: bool) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(size)} if announced else {})
        await answer.prepare(request)
        await answer.write((DATA + b"xyz")[:size])
        return answer

    with pytest.raises(ContentMismatch, match="expected 1,000,000 bytes, got"):
        await collected(repository(await serve(handler), http).blob(BLOB))


@pytest.mark.parametrize("value", ["", "bytes 0-999999/1000000", "bytes 5-999999/1000001", "bytes 5-x/*"])
async def test_wrong_content_range(serve: Serve, http: HttpClient, value: str) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=206, body=DATA[5:], headers={"Content-Range": value})

    with pytest.raises(ContentMismatch, match="Content-Range"):
        await collected(repository(await serve(handler), http).blob(BLOB, 5))


async def test_blob_on_another_host_does_not_see_the_token(serve: Serve, http: HttpClient) -> None:
    seen: list[str | None] = []

    async def storage(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=DATA)

    elsewhere = await serve(storage)

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            return web.json_response({"access_token": "t"})
        if request.headers.get("Authorization") != "Bearer t":
            header = f'Bearer realm="http://{request.host}/token"'
            return web.Response(status=401, headers={"WWW-Authenticate": header})
        return web.Response(status=307, headers={"Location": f"http://{elsewhere}/blob?signature=x"})

    assert await collected(repository(await serve(handler), http).blob(BLOB)) == DATA
    assert seen == [None]


async def test_a_401_from_elsewhere_gets_no_answer(serve: Serve, http: HttpClient) -> None:
    seen: list[str] = []

    async def storage(request: web.Request) -> web.StreamResponse:
        seen.append(request.path)
        header = f'Bearer realm="http://{request.host}/steal"'
        return web.Response(status=401, headers={"WWW-Authenticate": header})

    elsewhere = await serve(storage)

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"http://{elsewhere}/blob"})

    with pytest.raises(Unauthorized):
        await collected(repository(await serve(handler), http).blob(BLOB))
    assert seen == ["/blob"]


def manifest_server(body: bytes, content_type: str | None, digest: str | None = None) -> object:
    async def handler(_: web.Request) -> web.StreamResponse:
        headers = {"Docker-Content-Digest": digest} if digest else {}
        if content_type is not None:
            headers["Content-Type"] = content_type
        return web.Response(body=body, headers=headers)

    return handler


async def test_manifest_of_other_bytes_than_the_pin(serve: Serve, http: HttpClient) -> None:
    host = await serve(manifest_server(IMAGE.raw + b" ", OCI_MANIFEST, IMAGE.descriptor.digest))
    with pytest.raises(ContentMismatch, match=f"expected {IMAGE.descriptor.digest}"):
        await repository(host, http).manifest(IMAGE.descriptor.digest)
    with pytest.raises(ContentMismatch, match="the registry says"):
        await repository(host, http).manifest("v1")


async def test_sha512_pin(serve: Serve, http: HttpClient) -> None:
    digest = "sha512:" + hashlib.sha512(IMAGE.raw).hexdigest()
    host = await serve(manifest_server(IMAGE.raw, OCI_MANIFEST, IMAGE.descriptor.digest))
    assert (await repository(host, http).manifest(digest)).descriptor.digest == digest


@pytest.mark.parametrize("content_type", [None, "application/json", f"{OCI_MANIFEST}; charset=utf-8"])
async def test_vague_content_type_is_taken_from_the_document(
    serve: Serve, http: HttpClient, content_type: str | None
) -> None:
    host = await serve(manifest_server(IMAGE.raw, content_type))
    assert await repository(host, http).manifest("v1") == IMAGE
    assert await repository(host, http).resolve("v1") == IMAGE.descriptor


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [(DOCKER_MANIFEST, ContentMismatch), (OCI_INDEX, ContentMismatch), (DOCKER_SCHEMA1[1], Unsupported)],
)
async def test_contradicting_content_type(
    serve: Serve, http: HttpClient, content_type: str, kind: type[Exception]
) -> None:
    host = await serve(manifest_server(IMAGE.raw, content_type))
    with pytest.raises(kind):
        await repository(host, http).manifest("v1")


async def test_schema1_is_refused_by_name(serve: Serve, http: HttpClient) -> None:
    host = await serve(manifest_server(b'{"schemaVersion":1}', DOCKER_SCHEMA1[0]))
    for ask in (repository(host, http).manifest, repository(host, http).resolve):
        with pytest.raises(Unsupported, match="schema 1"):
            await ask("v1")


async def test_oversized_manifest(serve: Serve, http: HttpClient) -> None:
    host = await serve(manifest_server(b" " * (limits.MANIFEST_BYTES_MAX + 1), OCI_MANIFEST))
    with pytest.raises(TooLarge, match="4,194,304"):
        await repository(host, http).manifest("v1")


async def test_a_login_page_is_not_a_manifest(serve: Serve, http: HttpClient) -> None:
    host = await serve(manifest_server(b"<html>", "text/html"))
    with pytest.raises(ContentMismatch, match="not a JSON document"):
        await repository(host, http).manifest("v1")


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ('</v2/x?n=1>; rel="next"', "/v2/x?n=1"),
        ("</a>; rel=next", "/a"),
        ('</a>; rel="prev", </b>; title="x"; rel="last next"', "/b"),
        ('</a>; rel="nextish"', None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_next_link(value: str, target: str | None) -> None:
    assert next_link([value]) == target


async def test_tags_over_pages(serve: Serve, http: HttpClient) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        last = int(request.query.get("last", "0"))
        headers = {"Link": f'</v2/a/b/tags/list?last={last + 1}>; rel="next"'} if last < 3 else {}
        return web.json_response({"tags": [f"v{last}", "same"] if last != 2 else None}, headers=headers)

    assert await repository(await serve(handler), http).tags() == ["same", "v0", "v1", "v3"]


@pytest.mark.parametrize(
    ("link", "kind", "says"),
    [
        ("/v2/a/b/tags/list?n=1000", Unreachable, "circle"),
        ("http://127.0.0.1:1/v2/a/b/tags/list", Unreachable, "same registry"),
        ("/v2/a/b/tags/list?page={}", TooLarge, "pages"),
        ("ftp://x/", Unreachable, "http"),
    ],
)
async def test_paging_ends(
    serve: Serve,
    http: HttpClient,
    monkeypatch: pytest.MonkeyPatch,
    link: str,
    kind: type[Exception],
    says: str,
) -> None:
    monkeypatch.setattr(limits, "TAG_PAGES_MAX", 20)
    count = 0

    async def handler(_: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        return web.json_response({"tags": ["v"]}, headers={"Link": f'<{link.format(count)}>; rel="next"'})

    with pytest.raises(kind, match=says):
        await repository(await serve(handler), http).tags()
    assert count <= 20


@pytest.mark.parametrize("body", ["", "[]", '{"tags":"v1"}', '{"tags":["../x"]}', '{"tags":[1]}'])
async def test_bad_tag_lists(serve: Serve, http: HttpClient, body: str) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text=body)

    with pytest.raises(ContentMismatch):
        await repository(await serve(handler), http).tags()


@pytest.mark.parametrize("filters", [True, False])
async def test_referrers_api_pages_and_filters(serve: Serve, http: HttpClient, filters: bool) -> None:
    entries = [
        entry(described(text.encode(), OCI_MANIFEST), artifactType=f"test/{text}", annotations={"a": text})
        for text in ("one", "two", "one-again")
    ]
    entries[2]["artifactType"] = "test/one"

    async def handler(request: web.Request) -> web.StreamResponse:
        page = int(request.query.get("page", "0"))
        wanted = request.query.get("artifactType")
        shown = [entries[page]] if not filters or wanted in {None, entries[page]["artifactType"]} else []
        headers = {"Content-Type": OCI_INDEX}
        if filters and wanted:
            headers["OCI-Filters-Applied"] = "artifactType"
        if page < 2:
            headers["Link"] = f'<{request.path}?page={page + 1}&artifactType={wanted or ""}>; rel="next"'
            if wanted is None:
                headers["Link"] = f'<{request.path}?page={page + 1}>; rel="next"'
        return web.Response(body=index_of(*shown).raw, headers=headers)

    target = repository(await serve(handler), http)
    subject = IMAGE.descriptor.digest
    assert [item.artifact_type for item in await target.referrers(subject)] == ["test/one", "test/two", "test/one"]
    assert len(await target.referrers(subject, "test/one")) == 2
    assert await target.referrers(subject, "test/none") == []


async def test_referrers_api_that_answers_with_a_page_for_people_is_none(serve: Serve, http: HttpClient) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path.split("/")[4])
        if asked[-1] == "referrers":
            return web.Response(text="<html>", content_type="text/html")
        return web.Response(status=404)

    assert await repository(await serve(handler), http).referrers(IMAGE.descriptor.digest) == []
    assert asked == ["referrers", "manifests"]


async def test_pushed_manifest_keeps_bytes_and_type_and_trusts_oci_subject(serve: Serve, http: HttpClient) -> None:
    seen: list[tuple[str, str, bytes]] = []
    manifest = image_of(described(b"{}", CONFIG), subject=entry(IMAGE.descriptor))

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((f"{request.method} {request.path}", request.content_type, await request.read()))
        return web.Response(status=201, headers={"OCI-Subject": IMAGE.descriptor.digest})

    await repository(await serve(handler), http).push_manifest(manifest, "v1")
    assert seen == [("PUT /v2/a/b/manifests/v1", OCI_MANIFEST, manifest.raw)]


async def test_sha512_manifest_is_put_under_its_own_digest_first(serve: Serve, http: HttpClient) -> None:
    seen: list[str] = []
    digest = "sha512:" + hashlib.sha512(IMAGE.raw).hexdigest()

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.path.rpartition("/")[2])
        return web.Response(status=201)

    manifest = Manifest(Descriptor(OCI_MANIFEST, digest, len(IMAGE.raw)), IMAGE.raw)
    await repository(await serve(handler), http).push_manifest(manifest, "v1")
    assert seen == [digest, "v1"]


async def test_fallback_index_survives_a_concurrent_writer(serve: Serve, http: HttpClient) -> None:
    """Someone else overwrites the fallback tag just after our first write: ours is entered again."""
    manifest = image_of(described(b"{}", CONFIG), subject=entry(IMAGE.descriptor))
    theirs = index_of(entry(described(b"other", OCI_MANIFEST)))
    stored: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            if request.path.rpartition("/")[2].startswith("sha256-"):
                stored.append(theirs.raw if not stored else await request.read())
            return web.Response(status=201)
        if not stored:
            return web.Response(status=404)
        return web.Response(body=stored[-1], headers={"Content-Type": OCI_INDEX})

    await repository(await serve(handler), http).push_manifest(manifest)
    digests = [item["digest"] for item in json.loads(stored[-1])["manifests"]]
    assert digests == [described(b"other").digest, manifest.descriptor.digest]


@pytest.mark.parametrize(("status", "kind"), [(400, Refused), (405, Refused), (413, Refused), (403, Unauthorized)])
async def test_refused_pushes_are_named(serve: Serve, http: HttpClient, status: int, kind: type[Exception]) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"errors": [{"code": "DENIED", "message": "no"}]}, status=status)

    with pytest.raises(kind, match=f"a/b: manifest sha256:.*{status}.*DENIED no") as caught:
        await repository(await serve(handler), http).push_manifest(IMAGE, "v1")
    assert len(str(caught.value).splitlines()) == 1


async def test_plain_404_on_a_head_is_absence_and_other_refusals_are_not(serve: Serve, http: HttpClient) -> None:
    status = 404

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    target = repository(await serve(handler), http)
    assert not await target.exists(BLOB)
    with pytest.raises(NotFound):
        await target.resolve("v1")
    status = 403
    with pytest.raises(Unauthorized):
        await target.exists(BLOB)
