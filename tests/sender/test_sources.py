"""Sources that live as long as the process: logins, certificates, and files that change meanwhile."""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import tarfile
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from oci.client import Registry
from oci.errors import LeftAlone, Misconfigured, NotFound, Unauthorized, Unreachable
from oci.layout import Layout
from oci.reference import parse_reference
from oci.store import Upstream
from sender.config import Fetch, RegistryAccess
from sender.images import parse_origin
from sender.sources import Sources, advice
from tests.oci.peers import CONFIG, Serve, described, image_of, opener
from tests.sender.conftest import Upstream as ServeLayout

IMAGE = image_of(described(b"{}", CONFIG))


def sources_of(host: str, docker_config: Path | None = None, **access: Any) -> Sources:
    return Sources(Fetch(docker_config=docker_config, registries={host: RegistryAccess(**access)}))


async def repository(sources: Sources, host: str) -> Upstream:
    return await sources.repository(parse_reference(f"{host}/a/b"))


class Locked:
    """Lists tags for whoever has one of the logins."""

    def __init__(self, *logins: str) -> None:
        self.logins = list(logins)
        self.seen: list[str | None] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization")
        self.seen.append(given)
        if given not in ["Basic " + base64.b64encode(login.encode()).decode() for login in self.logins]:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        return web.json_response({"tags": ["v1"]})


def docker_config(path: Path, host: str, login: str) -> Path:
    path.write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(login.encode()).decode()}}}))
    return path


async def test_a_login_of_its_own_goes_before_docker_s(serve: Serve, tmp_path: Path) -> None:
    server = Locked("me:from-file")
    host = await serve(server)
    config = docker_config(tmp_path / "config.json", host, "docker:pw")
    password = tmp_path / "password"
    password.write_text("from-file\n")
    password.chmod(0o600)
    async with sources_of(host, config, plain_http=True, username="me", password_file=password) as sources:
        source = await repository(sources, host)
        assert await source.tags() == ["v1"]
        server.logins, _ = ["me:rotated"], password.write_text("rotated")
        assert await source.tags() == ["v1"]


async def test_a_password_from_the_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = await serve(Locked("me:from-env"))
    async with sources_of(host, plain_http=True, username="me", password_env="REGISTRY_PW") as sources:
        source = await repository(sources, host)
        says = rf"fetch\.registries\.{host}\.password_env: environment variable REGISTRY_PW is not set"
        with pytest.raises(Misconfigured, match=says):
            await source.tags()
        monkeypatch.setenv("REGISTRY_PW", "from-env")
        assert await source.tags() == ["v1"]


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"pw", 0o644, "mode is 0644, everyone could read this secret; run chmod o="),
        (b"", 0o600, "expected a secret in one line"),
        (b"two\nlines", 0o600, "expected a secret in one line"),
        (b"\xff\xfe", 0o600, "expected a secret in one line"),
        (b"x" * 70_000, 0o600, "at most 65,536 bytes"),
        (None, 0o600, "No such file"),
    ],
)
async def test_password_files_that_are_none(
    serve: Serve, tmp_path: Path, content: bytes | None, mode: int, says: str
) -> None:
    host = await serve(Locked("me:pw"))
    password = tmp_path / "password"
    if content is not None:
        password.write_bytes(content)
        password.chmod(mode)
    async with sources_of(host, plain_http=True, username="me", password_file=password) as sources:
        with pytest.raises(Misconfigured, match=says) as caught:
            await (await repository(sources, host)).tags()
    assert str(password) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


async def test_docker_s_config_is_read_again_when_it_changes(serve: Serve, tmp_path: Path) -> None:
    server = Locked("a:1")
    host = await serve(server)
    path = docker_config(tmp_path / "config.json", host, "a:1")
    async with sources_of(host, path, plain_http=True) as sources:
        source = await repository(sources, host)
        assert await source.tags() == ["v1"]
        server.logins = ["a:2"]
        with pytest.raises(Unauthorized):
            await source.tags()
        fresh = docker_config(tmp_path / "config.new", host, "a:2")
        fresh.replace(path)
        assert await source.tags() == ["v1"]
        path.unlink()
        server.logins = []
        with pytest.raises(Misconfigured, match=r"config\.json: no such file"):
            await source.tags()


async def test_a_client_certificate_is_shown_to_who_asks_for_it(
    serve: Serve, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    public, _ = certificate
    key = public.parent / "key.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(public)

    async def tags(_: web.Request) -> web.StreamResponse:
        return web.json_response({"tags": ["v1"]})

    host = await serve(tags, context)
    async with sources_of(host, ca=public, cert=public, key=key) as sources:
        assert await (await repository(sources, host)).tags() == ["v1"]
    async with sources_of(host, ca=public) as sources:
        with pytest.raises(Unreachable):
            await (await repository(sources, host)).tags()
    async with sources_of(host, ca=public, cert=public, key=public) as sources:
        with pytest.raises(Misconfigured, match="PEM certificate and its key"):
            await repository(sources, host)


async def test_a_tarball_that_was_replaced_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"

    async def write(tag: str, text: str) -> bytes:
        folder = tmp_path / tag
        layout = Layout(folder)
        layer = text.encode() * 100_000
        await layout.push_blob(described(b"{}", CONFIG), opener(b"{}"))
        await layout.push_blob(described(layer), opener(layer))
        await layout.push_manifest(image_of(described(b"{}", CONFIG), described(layer)), tag)
        with tarfile.open(tmp_path / "new.tar", "w") as tar:
            for entry in sorted(folder.rglob("*")):
                if entry.is_file() and not entry.name.startswith("."):
                    tar.add(entry, entry.relative_to(folder).as_posix())
        os.replace(tmp_path / "new.tar", path)
        shutil.rmtree(folder)
        return layer

    layer = await write("v1", "one")
    origin = parse_origin(f"archive:{path}", Path())
    async with Sources(Fetch()) as sources:
        first = await sources.folder(origin)
        assert await sources.folder(origin) is first
        assert await first.tags() == ["v1"]
        reading = first.blob(described(layer))
        got = await anext(reading)
        await write("v2", "two")
        assert await (await sources.folder(origin)).tags() == ["v2"]
        assert got + b"".join([chunk async for chunk in reading]) == layer  # who reads the old one reads on
        del first, reading
        opened = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        assert [name for name in opened if name.startswith(str(path))] == [str(path)]  # and then it is closed
        path.unlink()
        with pytest.raises(NotFound, match="no such file"):
            await sources.folder(origin)


async def test_a_layout_that_changes_is_seen(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    await layout.push_blob(described(b"{}", CONFIG), opener(b"{}"))
    await layout.push_manifest(IMAGE, "v1")
    origin = parse_origin(f"oci:{tmp_path / 'layout'}", Path())
    async with Sources(Fetch()) as sources:
        source = await sources.folder(origin)
        assert await source.tags() == ["v1"]
        await Layout(tmp_path / "layout").push_manifest(IMAGE, "v2")
        assert await (await sources.folder(origin)).tags() == ["v1", "v2"]


async def test_registries_at_one_place_share_its_budget(upstream: ServeLayout) -> None:
    _, host = await upstream()
    entries = {
        "one.example": {"location": f"{host}/one", "plain_http": True, "parallel": 3},
        "two.example": {"location": f"{host}/two", "plain_http": True, "requests": "5/s"},
        host: {"plain_http": True, "parallel": 9, "requests": "8/s"},
    }
    fetch = Fetch.model_validate({"parallel": 7, "registries": entries})
    assert fetch.budget(host) == (5.0, 3)
    assert fetch.budget("other.example") == (20.0, 7)
    async with Sources(fetch) as sources:
        for name in ("one.example", "two.example"):
            with pytest.raises(NotFound):
                await (await repository(sources, name)).resolve("v1")
        assert list(sources.figures) == [host]
        assert sources.figures[host].requests == 2


async def test_docker_registry_behind_a_password(locked_registry: str, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse")
    password.chmod(0o600)
    async with sources_of(locked_registry, plain_http=True, username="me", password_file=password) as sources:
        source = await repository(sources, locked_registry)
        with pytest.raises(NotFound):  # let in, and nothing there
            await source.resolve("v1")
    async with Registry(locked_registry, plain_http=True) as stranger:
        with pytest.raises(Unauthorized, match="log in"):
            await stranger.ping()


async def test_a_registry_left_alone_still_says_what_would_mend_it(
    serve: Serve, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    async def nothing(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    for context, mend in ((certificate[1], "{ca: FILE}"), (None, "{plain_http: true}")):
        host = await serve(nothing, context)
        async with sources_of(host) as sources:
            source = await repository(sources, host)
            for _ in range(5):
                with pytest.raises(Unreachable):
                    await source.tags()
            with pytest.raises(LeftAlone) as caught:
                await source.tags()
        assert advice(caught.value, host).endswith(f'; sender.yaml: fetch.registries: {{"{host}": {mend}}}')
