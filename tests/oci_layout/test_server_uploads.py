from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oci import server, server_uploads
from oci.descriptor import sha256_digest
from oci.server import serve
from tests.oci_layout.served import NAME, Client
from tests.oci_layout.test_blobs import files_below
from tests.support.content import digest_of

ABSENT = sha256_digest(b"absent")
DATA = bytes(range(256)) * 40


async def test_uploads_whole(client: Client) -> None:
    for data, algorithm in ((DATA, "sha256"), (b"", "sha256"), (DATA[:-1], "sha512")):
        digest = digest_of(data, algorithm)
        answer = await client("POST", f"/v2/{NAME}/blobs/uploads/", params={"digest": digest}, data=data)
        assert answer.status == 201
        assert answer.headers["Location"] == f"/v2/{NAME}/blobs/{digest}"
        assert answer.headers["Docker-Content-Digest"] == digest
        assert client.layout.blobs.read(digest, 10**6) == data
    other = DATA * 300
    answer = await client("PUT", await client.start(), params={"digest": sha256_digest(other)}, data=other)
    assert answer.status == 201
    assert client.layout.blobs.size(sha256_digest(other)) == len(other)


async def test_uploads_in_chunks(client: Client) -> None:
    where, digest = await client.start(), sha256_digest(DATA)
    answer = await client("PATCH", where, data=DATA[:1000], headers={"Content-Range": "0-999"})
    assert (answer.status, answer.headers["Range"]) == (202, "0-999")
    for wrong in ("0-999", "1001-1010", "1000-1001", "999-1008", "x", "9-3"):
        answer = await client("PATCH", where, data=b"0123456789", headers={"Content-Range": wrong})
        assert (answer.status, answer.code) == (416, "BLOB_UPLOAD_INVALID"), wrong
        assert answer.headers["Range"] == "0-999"
        assert answer.headers["Location"] == where
    answer = await client("GET", where)
    assert (answer.status, answer.headers["Range"]) == (204, "0-999")
    answer = await client("PATCH", where, data=DATA[1000:2000])
    assert answer.headers["Range"] == "0-1999"
    last = {"Content-Range": f"2000-{len(DATA) - 1}"}
    assert client.layout.blobs.size(digest) is None
    answer = await client("PUT", where, params={"digest": digest}, data=DATA[2000:], headers=last)
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
    assert client.layout.blobs.read(digest, 10**6) == DATA
    answer = await client("GET", where)
    assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_uploads_of_other_bytes_leave_nothing(client: Client) -> None:
    for answer in (
        await client("POST", f"/v2/{NAME}/blobs/uploads/", params={"digest": ABSENT}, data=DATA),
        await client("PUT", await client.start(), params={"digest": ABSENT}, data=DATA),
        await client("PUT", await client.start(), data=DATA),
        await client("POST", f"/v2/{NAME}/blobs/uploads/", params={"digest": "sha256:1"}, data=DATA),
    ):
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert list(client.layout.blobs.digests()) == []


async def test_a_cancelled_upload_is_gone(client: Client) -> None:
    where = await client.start()
    assert (await client("PATCH", where, data=DATA)).status == 202
    assert (await client("DELETE", where.replace(NAME, "other"))).status == 404
    assert (await client("DELETE", where)).status == 204
    assert (await client("PATCH", where, data=DATA)).code == "BLOB_UPLOAD_UNKNOWN"
    assert files_below(client.layout.root) == []


async def test_a_broken_connection_keeps_what_arrived(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    where = await client.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.running.port)
    head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n"
    writer.write(head.encode() + DATA[:777])
    await writer.drain()
    writer.close()
    for _ in range(100):
        answer = await client("GET", where)
        if answer.headers["Range"] == "0-776":
            break
        await asyncio.sleep(0.02)
    assert answer.headers["Range"] == "0-776"
    answer = await client("PUT", where, params={"digest": sha256_digest(DATA)}, data=DATA[777:])
    assert answer.status == 201
    assert await reader.read() == b""
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_mounts(client: Client) -> None:
    digest = sha256_digest(DATA)
    query = {"mount": digest, "from": "some/where"}
    answer = await client("POST", f"/v2/{NAME}/blobs/uploads/", params=query)
    assert answer.status == 202
    assert (await client("DELETE", answer.headers["Location"])).status == 204
    client.layout.blobs.write(digest, DATA)
    answer = await client("POST", f"/v2/{NAME}/blobs/uploads/", params=query)
    assert (answer.status, answer.headers["Location"]) == (201, f"/v2/{NAME}/blobs/{digest}")


async def test_uploads_are_limited_in_number_and_age(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uploads = server_uploads.Uploads(client.layout.blobs, sessions_max=2, age_s_max=0.2)
    monkeypatch.setattr(server, "Uploads", lambda _: uploads)
    running = await serve(client.layout)
    try:
        path = f"{running.url}/v2/{NAME}/blobs/uploads/"
        first, second, third = [await client("POST", path) for _ in range(3)]
        assert (first.status, second.status) == (202, 202)
        assert (third.status, third.code, "Retry-After" in third.headers) == (429, "TOOMANYREQUESTS", True)
        await asyncio.sleep(0.25)
        assert (await client("POST", path)).status == 202
        assert (await client("GET", running.url + first.headers["Location"])).status == 404
    finally:
        await running.close()


async def test_a_full_disk_asks_to_come_back(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    where = await client.start()
    monkeypatch.setattr("oci.blobs.os.replace", full)
    answer = await client("PUT", where, params={"digest": sha256_digest(DATA)}, data=DATA)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert "free space" in json.loads(answer.body)["errors"][0]["message"]


async def test_a_client_that_stalls_is_let_go(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_uploads, "IDLE_SECONDS_MAX", 0.1)
    where = await client.start()

    async def stalling() -> AsyncIterator[bytes]:
        yield DATA[:10]
        await asyncio.sleep(1)

    answer = await client("PATCH", where, data=stalling())
    assert answer.status == 408
    assert (await client("GET", where)).headers["Range"] == "0-9"


async def test_the_number_of_uploads_holds_when_they_open_at_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "Uploads", lambda blobs: server_uploads.Uploads(blobs, sessions_max=3))
    running = await serve(client.layout)
    try:
        path = f"{running.url}/v2/{NAME}/blobs/uploads/"
        answers = await asyncio.gather(*(client("POST", path) for _ in range(12)))
        assert sorted(answer.status for answer in answers) == [202] * 3 + [429] * 9
    finally:
        await running.close()
