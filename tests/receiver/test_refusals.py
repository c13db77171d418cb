"""What the target answers when it does not want to, and what becomes of the image."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from oci.client import Registry
from oci.errors import NotFound
from oci.http import HttpClient
from oci.layout import Layout
from oci.server import serve
from tests.oci_layout.images import single_image
from tests.receiver.peers import DockerRegistry, Fault, FaultyRegistry, free_port
from tests.receiver.site import Site, noise, release_image
from tests.receiver.test_publish import with_zstd

BIG, SMALL = "quay.io/big", "quay.io/small"
Faulty = Callable[[Fault], Awaitable[FaultyRegistry]]
Answer = Callable[[web.Request], web.Response]


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


def _cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response(status=500)


def _lie(request: web.Request) -> web.Response:
    return web.Response(status=201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64, "Location": "/v2/x"})


@pytest.mark.parametrize(
    ("method", "part", "answer", "state", "words"),
    [
        ("PUT", "/blobs/", _cut, "publishing", "look at the server and the way to it"),
        ("PUT", "/manifests/", _cut, "publishing", "look at the server and the way to it"),
        ("PUT", "/blobs/", _lie, "failed", "the registry stored it as 'sha256:0000"),
        ("PUT", "/manifests/", _lie, "failed", "the registry stored it as 'sha256:0000"),
        ("HEAD", "/blobs/", lambda request: _lie_of(request, 200), "failed", "the registry stored it as"),
        (
            "PUT",
            "/manifests/",
            lambda request: web.Response(status=404),
            "failed",
            "(404); check repository",
        ),
        ("POST", "/blobs/", lambda request: web.Response(status=404), "failed", "(404); check repository"),
        ("POST", "/blobs/", lambda request: web.Response(status=401), "failed", "log in to the registry"),
        ("POST", "/blobs/", lambda request: web.Response(status=403), "failed", "the account needs access"),
        ("PUT", "/manifests/", lambda request: web.Response(status=413), "failed", "raise its body size limit"),
    ],
)
async def test_whatever_a_registry_does_is_named_and_ends_when_it_ends(
    site: Site,
    faulty: Faulty,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    part: str,
    answer: Answer,
    state: str,
    words: str,
) -> None:
    monkeypatch.setattr("receiver.target.HttpClient", partial(HttpClient, sleep=_briefly))
    image = single_image()
    site.fill(image)
    site.release(release_image(SMALL, ["1"], image))
    wrong = True

    def fault(request: web.Request) -> web.Response | None:
        return answer(request) if wrong and request.method == method and part in request.path else None

    registry = await faulty(fault)
    async with site.publishing(site.configure(f"{{registry: {{url: '{registry.url}'}}}}")):
        async with asyncio.timeout(25):
            while words not in str((row := site.images().get(SMALL, {})).get("error")):
                await asyncio.sleep(0.01)
        assert row["state"] == state
        assert "\n" not in row["error"]
        assert await registry.layout.repositories() == []  # no tag
        wrong = False
        await site.until(SMALL, "published")


async def _briefly(_seconds: float) -> None:
    await asyncio.sleep(0.01)


def _lie_of(request: web.Request, status: int) -> web.Response:
    return web.Response(status=status, headers={"Docker-Content-Digest": "sha256:" + "0" * 64})


async def test_a_registry_that_hangs_is_given_up_and_asked_again(
    site: Site, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.target.HttpClient", partial(HttpClient, idle_seconds=0.2, sleep=_briefly))
    image = single_image()
    site.fill(image)
    site.release(release_image(SMALL, ["1"], image))
    hanging = asyncio.Event()
    hanging.set()

    def fault(request: web.Request) -> web.Response | None:
        return _Late() if hanging.is_set() and request.method == "PUT" else None

    registry = await faulty(fault)
    async with site.publishing(site.configure(f"{{registry: {{url: '{registry.url}'}}}}")):
        async with asyncio.timeout(30):
            while "no answer" not in str(site.images().get(SMALL, {}).get("error")):
                await asyncio.sleep(0.01)
        assert site.images()[SMALL]["state"] == "publishing"
        hanging.clear()
        await site.until(SMALL, "published")


class _Late(web.Response):
    """Sent after half a minute."""

    async def prepare(self, request: web.BaseRequest) -> None:  # type: ignore[override]
        await asyncio.sleep(30)


async def test_a_registry_whose_disk_is_full_is_waited_for(
    site: Site, registry: DockerRegistry, tmp_path: Path
) -> None:
    """Debian's docker-registry on a file system of its own, which is made larger at last."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "registry/data"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", disk], check=True)
    try:
        big = single_image("big")
        layer = big.add_blob("application/vnd.oci.image.layer.v1.tar", noise(3_000_000))
        big = with_zstd(big)
        site.fill(big)
        site.release(release_image(BIG, ["1"], big))
        settings = site.configure(f"{{registry: {{url: '{registry.url}'}}}}")
        async with site.publishing(settings), Registry(registry.host, plain_http=True) as client:
            async with asyncio.timeout(30):
                while not (row := site.images().get(BIG, {})).get("error"):
                    await asyncio.sleep(0.02)
            assert row["state"] == "publishing"  # it waits; nobody has to tell it to go on
            assert "see its log" in row["error"]
            with pytest.raises(NotFound):
                await client.repository(f"internal/{BIG}").resolve("1")
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            async with asyncio.timeout(30):
                while site.images()[BIG]["state"] != "published":
                    await asyncio.sleep(0.02)
            assert await client.repository(f"internal/{BIG}").exists(layer)
    finally:
        registry.stop()
        subprocess.run(["umount", disk], check=True)
