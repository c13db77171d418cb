"""Notifications of pushes: what three kinds of registry send, and what strangers may."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci.errors import Misconfigured
from runtime.errors import UserError
from runtime.units import HostPort
from sender import webhook
from sender.config import Webhook
from sender.webhook import Notice, WebhookServer, parse_notices

SECRET = "s3cret-" * 4
DIGEST = "sha256:" + "a" * 64
OCI = "application/vnd.oci.image.manifest.v1+json"


def event(**target: Any) -> dict[str, Any]:
    return {"id": "1", "action": "push", "target": target, "request": {"host": "r.example:5000", "method": "PUT"}}


HARBOR = {
    "type": "PUSH_ARTIFACT",
    "occur_at": 1586922308,
    "operator": "admin",
    "event_data": {
        "resources": [{"digest": DIGEST, "tag": "latest", "resource_url": "harbor.example/team/debian:latest"}],
        "repository": {"repo_full_name": "team/debian", "repo_type": "private"},
    },
}
HUB = {"callback_url": "https://x", "push_data": {"tag": "1.2"}, "repository": {"repo_name": "svendo/testhook"}}


@pytest.mark.parametrize(
    ("document", "notices"),
    [
        (
            {"events": [event(repository="team/app", tag="v1", digest=DIGEST, mediaType=OCI)]},
            [Notice("r.example:5000/team/app", "v1", DIGEST)],
        ),
        ({"events": [event(repository="team/app", digest=DIGEST, mediaType="application/octet-stream")]}, []),
        ({"events": [{**event(repository="a/b"), "action": "pull"}]}, []),
        ({"events": [{**event(repository="a/b"), "request": {}}]}, [Notice("a/b", None, None)]),
        ({"events": [{**event(repository="app"), "request": {}}]}, [Notice("app", None, None)]),
        (
            {"events": [event(repository="A B"), event(repository="a", tag="../x")] * 2},
            [Notice("r.example:5000/a", None, None)],
        ),
        ({"events": [event(repository="a", digest="sha256:nonsense")]}, []),
        ({"events": []}, []),
        (HARBOR, [Notice("harbor.example/team/debian", "latest", DIGEST)]),
        ({**HARBOR, "type": "DELETE_ARTIFACT"}, []),
        (HUB, [Notice("docker.io/svendo/testhook", "1.2", None)]),
        ({**HUB, "repository": {"repo_name": "nginx"}}, [Notice("docker.io/library/nginx", "1.2", None)]),
    ],
)
def test_formats(document: dict[str, Any], notices: list[Notice]) -> None:
    assert parse_notices(json.dumps(document).encode()) == notices


def test_one_body_gives_so_many_at_most() -> None:
    body = json.dumps({"events": [event(repository=f"a/b{number}") for number in range(1500)]}).encode()
    assert len(parse_notices(body)) == webhook.NOTICES_MAX


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("push"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["events", "action", "target", "repository", "type", "event_data", "push_data", "tag"]),
            inner,
        )
    ),
    max_leaves=8,
)


@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 100_000))
def test_any_bytes_are_notices_or_refused(body: bytes) -> None:
    try:
        found = parse_notices(body)
    except ValueError:
        return
    assert all(isinstance(notice, Notice) for notice in found)


@pytest.fixture
async def server() -> AsyncIterator[WebhookServer]:
    async with WebhookServer(HostPort("127.0.0.1", 0), SECRET) as running:
        yield running


async def post(server: WebhookServer, path: str, body: Any = b"", **headers: str) -> int:
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}{path}"
        async with session.post(url, data=body, headers=headers, skip_auto_headers=["Content-Type"]) as answer:
            return answer.status


async def test_both_ways_to_show_the_secret(server: WebhookServer) -> None:
    body = json.dumps(HUB).encode()
    assert await post(server, "/hook", body, Authorization=f"Bearer {SECRET}") == 202
    assert await post(server, f"/hook/{SECRET}", body) == 202
    assert server.notices.qsize() == 2
    assert server.notices.get_nowait() == Notice("docker.io/svendo/testhook", "1.2", None)


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        ("/hook", "", 401),
        ("/hook", f"Bearer {SECRET}x", 401),
        ("/hook", f"Basic {SECRET}", 401),
        ("/hook", "Bearer \udce4", 401),
        (f"/hook?token={SECRET}", "", 401),
        ("/hook/wrong", "", 401),
        ("/hook/%E4%F6", "", 401),
        ("/", f"Bearer {SECRET}", 404),
        (f"/hook/{SECRET}/more", "", 404),
    ],
)
async def test_strangers_are_refused_unread(
    server: WebhookServer, path: str, authorization: str, status: int
) -> None:
    assert await post(server, path, json.dumps(HUB).encode(), Authorization=authorization) == status
    assert server.notices.empty()


async def test_what_is_no_notification(server: WebhookServer) -> None:
    path = f"/hook/{SECRET}"
    assert await post(server, path, b"{}") == 400
    assert await post(server, path, b" " * (webhook.BODY_BYTES_MAX + 1)) == 413
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}{path}") as answer:
            assert answer.status == 405


async def test_slow_bodies_end_and_only_so_many_are_read(
    server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "BODY_SECONDS_MAX", 0.5)
    monkeypatch.setattr(webhook, "REQUESTS_AT_ONCE", 2)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(1)

    path = f"/hook/{SECRET}"
    jobs = [asyncio.ensure_future(post(server, path, slow())) for _ in range(2)]
    await asyncio.sleep(0.2)
    assert await post(server, path, json.dumps(HUB).encode()) == 503
    assert await asyncio.gather(*jobs) == [408, 408]
    assert await post(server, path, json.dumps(HUB).encode()) == 202


async def test_a_full_queue_drops_and_counts(server: WebhookServer) -> None:
    for _ in range(2):
        body = json.dumps({"events": [event(repository=f"a/b{number}") for number in range(600)]}).encode()
        assert await post(server, f"/hook/{SECRET}", body) == 202
    assert (server.notices.qsize(), server.dropped) == (1000, 200)


async def test_the_secret_is_in_no_log(server: WebhookServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await post(server, f"/hook/{SECRET}", json.dumps(HUB).encode())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"PO ST /hook/{SECRET} HTTP/1.1\r\n\r\n".encode())
    assert b" 400 " in await reader.readline()
    writer.close()
    assert SECRET not in caplog.text


async def test_settings_that_cannot_work(tmp_path: Path, server: WebhookServer) -> None:
    secret = tmp_path / "secret"

    def made(text: str, mode: int = 0o640) -> WebhookServer:
        secret.write_text(text)
        secret.chmod(mode)
        return WebhookServer.from_settings(Webhook(listen=HostPort("127.0.0.1", server.port), secret_file=secret))

    for text in ("short", "with spaces in it all", "slash/slash/slash/slash"):
        with pytest.raises(UserError, match=r"webhook\.secret_file: .*16 to 512") as caught:
            made(text)
        assert text not in str(caught.value)
    with pytest.raises(Misconfigured, match="everyone could read"):
        made(SECRET, 0o644)
    with pytest.raises(UserError, match=rf"webhook\.listen: 127\.0\.0\.1:{server.port}: cannot listen"):
        async with made(SECRET + "\n"):
            pass
