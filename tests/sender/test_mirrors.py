"""Mirrors of a registry: what they may give, what they may not say, and what happens when they fail."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import structlog
from aiohttp import web

from oci import limits
from oci.descriptor import Manifest
from oci.errors import ContentMismatch, NotFound
from oci.mirrors import MirroredRepository, distrust
from oci.reference import parse_reference
from oci.store import Upstream
from runtime.settings import load_settings
from sender.config import SenderSettings
from sender.sources import Sources
from tests.oci.misbehaving import Fault, ScriptedRegistry, blob, cut, instead, status
from tests.oci.peers import CONFIG, Serve, described, free_port, image_of
from tests.sender.conftest import Site

LAYER = os.urandom(600_000)
IMAGE = image_of(described(b"{}", CONFIG), blob(LAYER))
OTHER = image_of(described(b"{}", CONFIG), annotations={"other": "yes"})


def holding(tag: Manifest = IMAGE) -> ScriptedRegistry:
    return ScriptedRegistry(IMAGE, OTHER, blobs=(b"{}", LAYER), tags={"v1": tag.descriptor.digest})


async def collected(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


class Place:
    """An origin, a mirror beneath ``cache/``, and the sources that know both."""

    def __init__(self, site: Site, serve: Serve) -> None:
        self.site, self.serve = site, serve
        self.origin, self.mirror = holding(), holding()

    async def open(self, *first: str, **access: object) -> Sources:
        self.origin_host, self.mirror_host = await self.serve(self.origin), await self.serve(self.mirror)
        self.site.registries[self.origin_host] = {
            "plain_http": True,
            "mirrors": [*first, f"{self.mirror_host}/cache"],
            **access,
        }
        self.site.registries[self.mirror_host] = {"plain_http": True}
        self.site.write()
        return Sources(load_settings(self.site.config, SenderSettings).fetch)

    async def source(self, sources: Sources) -> Upstream:
        return await sources.repository(parse_reference(f"{self.origin_host}/a/b"))


@pytest.fixture
def place(site: Site, serve: Serve) -> Place:
    return Place(site, serve)


async def test_content_comes_from_the_mirror_and_names_from_the_registry(place: Place) -> None:
    place.mirror = holding(OTHER)  # it lags, or lies
    async with await place.open() as sources:
        source = await place.source(sources)
        assert source.name == f"{place.origin_host}/a/b"
        assert (await source.resolve("v1")).digest == IMAGE.descriptor.digest
        assert (await source.manifest("v1")).raw == IMAGE.raw
        assert await source.moved("v1", OTHER.descriptor.digest) == IMAGE.descriptor
        assert await source.tags() == ["v1"]
        assert await source.referrers(IMAGE.descriptor.digest) == []
        assert place.mirror.asked == []
        place.origin.asked.clear()
        assert (await source.manifest(IMAGE.descriptor.digest)).raw == IMAGE.raw
        assert await source.resolve(IMAGE.descriptor.digest) == IMAGE.descriptor
        assert await source.exists(blob(LAYER))
        assert await collected(source.blob(blob(LAYER))) == LAYER
        assert place.origin.asked == []
        assert set(sources.figures) == {place.origin_host, place.mirror_host}


async def test_mirrors_speak_for_names_only_if_told_so(place: Place) -> None:
    place.mirror = holding(OTHER)
    async with await place.open(mirrors_resolve=True) as sources:
        source = await place.source(sources)
        assert (await source.resolve("v1")).digest == OTHER.descriptor.digest
        assert await source.moved("v1", OTHER.descriptor.digest) is None
        found = await source.tag_list('"x"')
        assert found is not None
        assert (found.tags, found.etag) == (["v1"], None)
        assert place.origin.asked == []
        place.mirror.tags.clear()
        assert (await source.resolve("v1")).digest == IMAGE.descriptor.digest


@pytest.mark.parametrize(
    "fault", [status(404), status(401), status(403), status(400), status(503, Retry_After="999"), instead(b"{}")]
)
async def test_what_a_mirror_cannot_give_the_registry_does(place: Place, fault: Fault) -> None:
    place.mirror.always.update(manifests=fault, blobs=fault)
    async with await place.open() as sources:
        source = await place.source(sources)
        assert (await source.manifest(IMAGE.descriptor.digest)).raw == IMAGE.raw
        assert await collected(source.blob(blob(LAYER))) == LAYER


async def test_mirrors_in_their_order_past_one_that_is_down(place: Place) -> None:
    down = f"127.0.0.1:{free_port()}"
    place.site.registries[down] = {"plain_http": True}
    async with await place.open(down) as sources:
        source = await place.source(sources)
        with structlog.testing.capture_logs() as logs:
            for _ in range(limits.BREAKER_FAILURES):
                assert (await source.manifest(IMAGE.descriptor.digest)).raw == IMAGE.raw
        assert place.origin.asked == []
        assert [(line["event"], line["mirror"]) for line in logs] == [("mirror_passed_over", down)]
        assert sources.figures[down].state == "open"
        assert sources.figures[place.origin_host].state == "closed"


async def test_a_blob_goes_on_where_the_mirror_broke_off(place: Place) -> None:
    place.mirror.faults["blobs"] += [cut(100_000), cut(250_000)]  # less than counts as progress
    async with await place.open() as sources:
        source = await place.source(sources)
        assert await collected(source.blob(blob(LAYER))) == LAYER
    (condition,) = [condition for method, path, condition in place.origin.asked if path.startswith("blobs")]
    assert condition is not None
    assert int(condition.removeprefix("bytes=").rstrip("-")) >= 100_000
    assert len(place.mirror.paths("blobs")) == 2


async def test_a_mirror_that_gave_wrong_bytes_is_not_asked_for_them_again(place: Place) -> None:
    place.mirror.always["blobs"] = instead(LAYER[::-1])
    async with await place.open() as sources:
        source = await place.source(sources)
        with pytest.raises(ContentMismatch, match=f"expected {blob(LAYER).digest}"):
            await collected(source.blob(blob(LAYER)))
        assert await collected(source.blob(blob(LAYER))) == LAYER
        assert len(place.mirror.paths("blobs")) == 1
        assert not distrust(source, blob(LAYER).digest)
        again = await place.source(sources)  # it is the mirror that is remembered
        assert await collected(again.blob(blob(LAYER), verify=False)) == LAYER
        assert len(place.mirror.paths("blobs")) == 1


async def test_a_round_survives_a_lying_mirror(place: Place) -> None:
    place.mirror.always["blobs"] = instead(LAYER[::-1])
    async with await place.open():
        pass
    place.site.list(f"{place.origin_host}/a/b:v1@{IMAGE.descriptor.digest}")
    outcome = await place.site.round()
    assert (outcome.ready, place.site.said) == (1, [])
    assert len(place.mirror.paths("blobs")) == 2  # config and layer, each once
    journal = place.site.journal()
    (row,) = journal.images()
    journal.close()
    assert row["state"] == "ready"


async def test_the_registry_s_error_is_the_one_that_is_told(place: Place) -> None:
    place.mirror.always["manifests"] = status(403)
    async with await place.open() as sources:
        source = await place.source(sources)
        with pytest.raises(NotFound, match=f"{place.origin_host}/a/b: manifest sha256:cccccccccccc"):
            await source.manifest("sha256:" + "c" * 64)
        assert not await source.exists(blob(b"absent"))


async def test_what_a_mirror_distrusts_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MIRROR_DISTRUST_MAX", 2)
    async with await place.open() as sources:
        source = await place.source(sources)
        assert isinstance(source, MirroredRepository)
        ((mirror, _),) = source._mirrors
        for digest in "abc":
            mirror.distrust(digest)
        assert [mirror.distrusted(digest) for digest in "abc"] == [False, True, True]


async def test_a_stuck_registry_delays_no_image_of_another(site: Site, serve: Serve) -> None:
    stuck_until = asyncio.Event()

    async def stuck(_: web.Request) -> web.StreamResponse:
        await stuck_until.wait()
        return web.Response(status=404)

    stuck_host, good_host = await serve(stuck), await serve(holding())
    site.registries.update({host: {"plain_http": True} for host in (stuck_host, good_host)})
    entries = [f"{stuck_host}/a/b{number}@{IMAGE.descriptor.digest}" for number in range(12)]
    site.write(*entries, f"{good_host}/a/b:v1@{IMAGE.descriptor.digest}")
    running = asyncio.ensure_future(site.round())
    for _ in range(100):
        await asyncio.sleep(0.05)
        if "ready" in site.states().values():
            break
    assert [name for name, state in site.states().items() if state == "ready"] == [f"{good_host}/a/b:v1"]
    stuck_until.set()
    outcome = await running
    assert outcome.failed >= 1
