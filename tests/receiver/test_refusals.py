"""What the target answers when it does not want to, and what becomes of the image."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from oci.layout import Layout
from oci.server import serve
from tests.oci_layout.images import single_image
from tests.receiver.peers import Fault, FaultyRegistry, free_port
from tests.receiver.site import Site, release_image

BIG, SMALL = "quay.io/big", "quay.io/small"
Faulty = Callable[[Fault], Awaitable[FaultyRegistry]]


def two_images(site: Site) -> None:
    big, small = single_image("big"), single_image("small")
    site.fill(big, small)
    site.release(release_image(BIG, ["1"], big), release_image(SMALL, ["1"], small))


async def test_401_is_a_failure_with_the_remedy_and_ends_when_there_are_credentials(site: Site) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(SMALL, ["1"], image))
    server = await serve(Layout(site.folder / "target"), users={"ci": "secret"})
    login = site.folder / "docker.json"
    login.write_text("{}")
    try:
        settings = site.configure(f"{{registry: {{url: '{server.url}', docker_config: docker.json}}}}")
        assert await site.once(settings) == 1
        row = site.images()[SMALL]
        assert row["state"] == "failed"
        assert "credentials are missing or wrong (401" in row["error"]
        assert "\n" not in row["error"]
        host = server.url.removeprefix("http://")
        auth = base64.b64encode(b"ci:secret").decode()
        login.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        assert await site.once(settings) == 0
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("status", "method", "words"),
    [
        (413, "PUT", "too large for the registry (413"),
        (400, "PUT", "the registry refused (400"),
        (403, "POST", "403"),
    ],
)
async def test_a_refusal_fails_that_image_only_and_is_tried_again(
    site: Site, faulty: Faulty, status: int, method: str, words: str
) -> None:
    refusing = True

    def fault(request: web.Request) -> web.Response | None:
        return web.Response(status=status) if refusing and request.method == method and BIG in request.path else None

    registry = await faulty(fault)
    two_images(site)
    settings = site.configure(f"{{registry: {{url: '{registry.url}'}}}}")
    assert await site.once(settings) == 1
    rows = site.images()
    assert (rows[BIG]["state"], rows[SMALL]["state"]) == ("failed", "published")
    assert words in rows[BIG]["error"]
    assert await registry.layout.repositories() == [f"internal/{SMALL}"]
    async with site.publishing(settings):
        await asyncio.sleep(0.1)
        refusing = False
        await site.until(BIG, "published")


@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "1"}), (503, {}), (500, {})])
async def test_trouble_that_passes_is_waited_out(
    site: Site, faulty: Faulty, status: int, headers: dict[str, str]
) -> None:
    left = 2

    def fault(request: web.Request) -> web.Response | None:
        nonlocal left
        if request.method == "PUT" and "/manifests/" in request.path and left:
            left -= 1
            return web.Response(status=status, headers=headers)
        return None

    registry = await faulty(fault)
    two_images(site)
    assert await site.once(site.configure(f"{{registry: {{url: '{registry.url}'}}}}")) == 0
    assert left == 0


async def test_content_that_the_target_does_not_keep_gets_no_tag(site: Site, faulty: Faulty) -> None:
    image = single_image()
    layer = next(iter(image.blobs))
    forgetful = True

    def fault(request: web.Request) -> web.Response | None:
        if forgetful and request.method == "HEAD" and layer in request.path:
            return web.Response(status=404)
        return None

    registry = await faulty(fault)
    site.fill(image)
    site.release(release_image(SMALL, ["1"], image))
    async with site.publishing(site.configure(f"{{registry: {{url: '{registry.url}'}}}}")):
        async with asyncio.timeout(5):
            while "was pushed and is not there" not in str(site.images().get(SMALL, {}).get("error")):
                await asyncio.sleep(0.01)
        assert await registry.layout.repositories() == []
        assert site.images()[SMALL]["state"] == "publishing"
        forgetful = False
        await site.until(SMALL, "published")


async def test_a_target_that_is_not_there_yet_is_waited_for(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(SMALL, ["1"], image))
    port = free_port()
    settings = site.configure(f"{{registry: {{url: 'http://127.0.0.1:{port}'}}}}")
    async with site.publishing(settings):
        await asyncio.sleep(0.3)
        assert site.images()[SMALL]["state"] in ("publishing", "receiving")
        server = await serve(Layout(tmp_path_factory.mktemp("late")), port=port)
        try:
            await site.until(SMALL, "published")
        finally:
            await server.close()


async def test_a_registry_that_speaks_no_tls(site: Site, faulty: Faulty) -> None:
    registry = await faulty(lambda request: None)
    image = single_image()
    site.fill(image)
    site.release(release_image(SMALL, ["1"], image))
    settings = site.configure(f"{{registry: {{url: '{registry.url.replace('http', 'https')}'}}}}")
    assert await site.once(settings) == 1
    assert "does not speak TLS as expected" in site.images()[SMALL]["error"]
