"""The client with a budget, and with deadlines, against registries that ask for patience or deserve none."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from oci import limits
from oci.budget import Budget, Quota
from oci.client import Registry, RegistryRepository
from oci.closure import walk
from oci.errors import LeftAlone, NotFound, Unreachable
from oci.http import HttpClient
from tests.oci.misbehaving import ScriptedRegistry, blob, cut, hang, instead, redirect, slow, status
from tests.oci.peers import CONFIG, Serve, described, entry, free_port, image_of, index_of
from tests.oci.virtual_time import VirtualTime

LAYER = os.urandom(1_000_000)
IMAGE = image_of(described(b"{}", CONFIG), blob(LAYER))


def scripted() -> ScriptedRegistry:
    return ScriptedRegistry(IMAGE, blobs=(b"{}", LAYER), tags={"v1": IMAGE.descriptor.digest})


def repository(host: str, http: HttpClient, budget: Budget | None = None) -> RegistryRepository:
    return Registry(host, plain_http=True, http=http, budget=budget).repository("a/b")


async def collected(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry_After": "1"},
        {"Retry_After": "Wed, 21 Oct 2015 07:28:01 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"},
    ],
)
async def test_a_paused_registry_is_waited_for_by_all_and_delays_no_other(
    serve: Serve, http: HttpClient, headers: dict[str, str]
) -> None:
    pausing, other = scripted(), scripted()
    pausing.faults["manifests"].append(status(429, **headers))
    budget = Budget("one")
    here = repository(await serve(pausing), http, budget)
    there = repository(await serve(other), http, Budget("two"))
    begun = time.monotonic()
    first = asyncio.ensure_future(here.resolve("v1"))
    while budget.figures.paused_until is None:
        await asyncio.sleep(0.01)
    waiting = [asyncio.ensure_future(here.resolve("v1")) for _ in range(5)]
    assert await there.resolve("v1") == IMAGE.descriptor
    assert time.monotonic() - begun < 0.8
    assert (len(pausing.asked), first.done()) == (1, False)
    await asyncio.gather(first, *waiting)
    assert time.monotonic() - begun >= 1
    assert (len(pausing.asked), budget.figures.failures) == (7, 0)


async def test_a_registry_that_is_down_is_left_alone_and_tried_again(serve: Serve, http: HttpClient) -> None:
    virtual = VirtualTime()
    budget = Budget("r.example", clock=virtual.clock, sleep=virtual.sleep)
    registry = scripted()
    registry.always["manifests"] = status(503)
    source = repository(await serve(registry), http, budget)
    with pytest.raises(Unreachable, match="not able to answer"):  # what happened, not that we gave up
        await source.resolve("v1")
    assert len(registry.asked) == limits.BREAKER_FAILURES
    with pytest.raises(LeftAlone, match=r"r\.example: left alone until .* after 5 failures: .*\(503\)"):
        await source.tags()
    assert len(registry.asked) == limits.BREAKER_FAILURES
    await virtual.advance(limits.BREAKER_SECONDS_BASE)
    del registry.always["manifests"]
    assert await source.resolve("v1") == IMAGE.descriptor
    assert budget.figures.state == "closed"


async def test_breaking_connections_count_too(serve: Serve, http: HttpClient) -> None:
    budget = Budget("r.example")
    registry = scripted()
    registry.always["manifests"] = cut(10)
    source = repository(await serve(registry), http, budget)
    for kind in (Unreachable, LeftAlone):
        with pytest.raises(kind):
            await source.manifest("v1")
    assert budget.figures.state == "open"


async def test_storage_that_is_down_does_not_count_against_the_registry(serve: Serve, http: HttpClient) -> None:
    budget = Budget("r.example")
    storage, registry = scripted(), scripted()
    storage.always["blobs"] = status(503, Retry_After="60")
    host = await serve(storage)
    registry.always["blobs"] = redirect(f"http://{host}/v2/a/b/blobs/{blob(LAYER).digest}")
    source = repository(await serve(registry), http, budget)
    with pytest.raises(Unreachable, match="503"):
        await collected(source.blob(blob(LAYER)))
    assert len(storage.asked) == limits.RETRIES_MAX + 1
    figures = budget.figures
    assert (figures.state, figures.failures, figures.paused_until, figures.blobs) == ("closed", 0, None, 0)


async def test_redirects_in_a_circle_end_and_free_the_slot(serve: Serve, http: HttpClient) -> None:
    budget = Budget("r.example", concurrency=1)
    registry = scripted()
    registry.always["manifests"] = redirect("/v2/a/b/manifests/v1")
    source = repository(await serve(registry), http, budget)
    with pytest.raises(Unreachable, match="redirects"):
        await source.resolve("v1")
    assert (await source.tags(), budget.figures.active) == (["v1"], 0)


async def test_quota_headers_are_seen_on_head_too(serve: Serve, http: HttpClient) -> None:
    budget = Budget("docker.io")
    registry = scripted()
    registry.headers = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "42;w=21600"}
    await repository(await serve(registry), http, budget).resolve("v1")
    assert budget.figures.quota == Quota(100, 42, 21600)


async def test_only_pulls_are_spaced_when_the_quota_is_short(serve: Serve, http: HttpClient) -> None:
    virtual = VirtualTime()
    budget = Budget("docker.io", clock=virtual.clock, sleep=virtual.sleep)
    registry = scripted()
    registry.headers = {"ratelimit-limit": "100;w=2000", "ratelimit-remaining": "4;w=2000"}
    source = repository(await serve(registry), http, budget)
    await source.manifest("v1")
    await source.manifest("v1")  # the first one that counts as scarce goes at once
    third = asyncio.ensure_future(source.manifest("v1"))
    for _ in range(3):
        await source.resolve("v1")
    assert not third.done()
    await virtual.advance(20)
    await third


async def test_so_many_blobs_at_once(serve: Serve, http: HttpClient) -> None:
    budget = Budget("r.example", blobs=2)
    go = asyncio.Event()
    registry = scripted()
    registry.always["blobs"] = hang(go)
    source = repository(await serve(registry), http, budget)
    jobs = [asyncio.ensure_future(collected(source.blob(blob(LAYER)))) for _ in range(4)]
    await asyncio.sleep(0.2)
    assert (len(registry.paths("blobs")), budget.figures.blobs) == (2, 2)
    assert await source.tags() == ["v1"]
    go.set()
    assert await asyncio.gather(*jobs) == [LAYER] * 4


async def test_a_reader_that_leaves_frees_its_slot(serve: Serve, http: HttpClient) -> None:
    budget = Budget("r.example", blobs=1)
    source = repository(await serve(scripted()), http, budget)
    pieces = source.blob(blob(LAYER), verify=False)
    async for _ in pieces:
        break
    await pieces.aclose()  # type: ignore[attr-defined]
    assert await collected(source.blob(blob(LAYER))) == LAYER


async def test_a_document_that_dribbles_in_has_a_deadline(
    serve: Serve, http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DOCUMENT_SECONDS_MAX", 0.3)
    registry = scripted()
    registry.always["manifests"] = slow(0.05)
    source = repository(await serve(registry), http)
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="no whole answer within 0 s"):
        await source.manifest("v1")
    assert time.monotonic() - begun < 5


async def test_a_list_that_goes_on_has_a_deadline(
    serve: Serve, http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGES_SECONDS_MAX", 0.5)
    count = 0

    async def endless(_: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        await asyncio.sleep(0.02)
        return web.json_response(
            {"tags": [f"v{count}"]}, headers={"Link": f'</v2/a/b/tags/list?n={count}>; rel="next"'}
        )

    with pytest.raises(Unreachable, match=r"a/b: tags: the list did not end within .* at page \d+"):
        await repository(await serve(endless), http).tags()
    assert 1 < count < limits.TAG_PAGES_MAX


async def test_a_blob_that_crawls_is_taken_up_elsewhere_in_it(
    serve: Serve, http: HttpClient, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SLOW_SECONDS", 0.3)
    registry = scripted()
    registry.faults["blobs"] += [slow(0.02, first=100_000), slow(0.02, first=100_000)]
    # too much came at once to be slow in the first window: only the second one is judged
    source = repository(await serve(registry), http)
    assert await collected(source.blob(blob(LAYER))) == LAYER
    asked = [condition for _, path, condition in registry.asked if path.startswith("blobs")]
    assert asked[0] is None
    assert all(condition is not None and condition.startswith("bytes=1000") for condition in asked[1:])
    assert naps


async def test_blobs_of_wrong_digest_and_size(serve: Serve, http: HttpClient) -> None:
    registry = scripted()
    source = repository(await serve(registry), http)
    for wrong in (LAYER[::-1], LAYER[:-1], LAYER + b"x"):
        registry.faults["blobs"].append(instead(wrong))
        with pytest.raises(Exception, match="expected"):
            await collected(source.blob(blob(LAYER)))


async def test_head_without_a_digest_is_followed_by_get(serve: Serve, http: HttpClient) -> None:
    registry = scripted()
    registry.names_digests = False
    source = repository(await serve(registry), http)
    assert await source.resolve("v1") == IMAGE.descriptor
    assert await source.moved("v1", IMAGE.descriptor.digest) is None
    assert registry.paths("manifests") == ["HEAD manifests/v1", "GET manifests/v1"] * 2


async def test_a_token_that_expires_in_the_middle_of_a_closure(serve: Serve, http: HttpClient) -> None:
    images = [image_of(described(f"{{{number}}}".encode(), CONFIG)) for number in range(6)]
    root = index_of(*(entry(image.descriptor) for image in images))
    registry = ScriptedRegistry(root, *images)
    good: dict[str, int] = {}  # token → requests it is still good for

    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            token = f"t{len(good)}"
            good[token] = 2
            return web.json_response({"token": token, "expires_in": 3600})
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not good.get(token):
            realm = f'Bearer realm="http://{request.host}/token",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": realm})
        good[token] -= 1
        return await registry(request)

    budget = Budget("r.example")
    closure = await walk(repository(await serve(guarded), http, budget), root.descriptor, referrers=False)
    assert len(closure.manifests) == 7
    assert len(good) == 4
    # first 401, then each token is good for two; tokens are asked for out of the same budget
    assert budget.figures.requests == 7 + 4 + 4


async def test_moved_against_docker_registry(registry: Registry) -> None:
    one, two = image_of(described(b"{}", CONFIG)), image_of(described(b"{}", CONFIG), annotations={"a": "b"})
    target = registry.repository("polite/moved")

    async def config(_: int) -> AsyncIterator[bytes]:
        yield b"{}"

    await target.push_blob(described(b"{}", CONFIG), config)
    await target.push_manifest(one, "v1")
    assert await target.moved("v1", one.descriptor.digest) is None
    assert await target._resolve("v1", one.descriptor.digest) is None  # by 304, not by comparison
    assert await target.moved("v1", two.descriptor.digest) == one.descriptor
    await target.push_manifest(two, "v1")
    assert await target.moved("v1", one.descriptor.digest) == two.descriptor
    with pytest.raises(NotFound):
        await target.moved("gone", one.descriptor.digest)
    found = await target.tag_list()
    assert found is not None
    assert (found.tags, found.etag) == (["v1"], None)  # docker-registry gives lists no ETag


async def test_a_304_that_names_another_digest_is_a_contradiction(serve: Serve, http: HttpClient) -> None:
    registry = scripted()
    registry.always["manifests"] = status(304, Docker_Content_Digest="sha256:" + "b" * 64)
    with pytest.raises(Exception, match="expected sha256:"):
        await repository(await serve(registry), http).moved("v1", IMAGE.descriptor.digest)


async def test_tag_lists_by_etag(serve: Serve, http: HttpClient) -> None:
    tags = ["v1"]
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("If-None-Match"))
        etag = f'"{len(tags)}"'
        if seen[-1] == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.json_response({"tags": tags}, headers={"ETag": etag})

    source = repository(await serve(handler), http)
    first = await source.tag_list()
    assert first is not None
    assert (first.tags, first.etag) == (["v1"], '"1"')
    assert await source.tag_list(first.etag) is None
    tags.append("v2")
    second = await source.tag_list(first.etag)
    assert second is not None
    assert second.tags == ["v1", "v2"]
    assert seen == [None, '"1"', '"1"']


async def test_a_list_of_several_pages_has_no_etag(serve: Serve, http: HttpClient) -> None:
    conditions: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        conditions.append(request.headers.get("If-None-Match"))
        headers = {"ETag": '"x"'}
        if "last" not in request.query:
            headers["Link"] = '</v2/a/b/tags/list?last=v1>; rel="next"'
        return web.json_response({"tags": ["v1" if "last" not in request.query else "v2"]}, headers=headers)

    found = await repository(await serve(handler), http).tag_list('"old"')
    assert found is not None
    assert (found.tags, found.etag) == (["v1", "v2"], None)
    assert conditions == ['"old"', None]


async def test_an_unasked_304_is_no_answer(serve: Serve, http: HttpClient) -> None:
    registry = scripted()
    registry.always.update(tags=status(304), manifests=status(304))
    source = repository(await serve(registry), http)
    for ask in (source.tags, lambda: source.resolve("v1"), lambda: source.manifest("v1")):
        with pytest.raises(Exception, match="304"):
            await ask()


async def test_idle_connections_are_closed(serve: Serve) -> None:
    registry = scripted()
    open_: set[object] = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        open_.add(request.transport)
        return await registry(request)

    host = await serve(handler)
    async with HttpClient(keepalive_seconds=0.2) as client:
        await repository(host, client).resolve("v1")
        assert len(open_) == 1
        for _ in range(50):
            if all(transport is None or transport.is_closing() for transport in open_):  # type: ignore[attr-defined]
                return
            await asyncio.sleep(0.1)
    pytest.fail("the connection is still open")


async def test_storage_that_cannot_be_reached_does_not_count_either(serve: Serve, http: HttpClient) -> None:
    budget = Budget("r.example")
    registry = scripted()
    registry.always["blobs"] = redirect(f"http://127.0.0.1:{free_port()}/blob")
    source = repository(await serve(registry), http, budget)
    with pytest.raises(Unreachable, match="cannot connect"):
        await collected(source.blob(blob(LAYER)))
    assert (budget.figures.state, budget.figures.failures) == ("closed", 0)
