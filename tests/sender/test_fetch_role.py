"""The fetch role as a process: killed and started again, watched, stopped, and alone."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from oci.blobs import INGEST_FOLDER, BlobStore
from oci.descriptor import OCI_MANIFEST
from tests.oci.peers import Serve
from tests.oci_layout.images import Image, as_json, layout_files, single_image, write_files
from tests.sender.conftest import Site, environment


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.03)


@asynccontextmanager
async def started(site: Site, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *site.argv(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def live_state(site: Site) -> str:
    journal = site.journal()
    try:
        return str(journal.live().get("fetch", ({}, 0.0))[0].get("state", ""))
    finally:
        journal.close()


def big_image() -> Image:
    image = Image()
    parts = [
        image.add_blob("application/vnd.oci.image.config.v1+json", b"{}"),
        image.add_blob("application/vnd.oci.image.layer.v1.tar", b"first " * 50_000),
        image.add_blob("application/vnd.oci.image.layer.v1.tar", b"second " * 200_000),
    ]
    layers = [as_json(part) for part in parts[1:]]
    image.add_manifest({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": as_json(parts[0]), "layers": layers})
    return image


async def test_killed_in_the_middle_of_a_layer_it_goes_on_with_what_it_had(site: Site, serve: Serve) -> None:
    image = big_image()
    files = image.all_files()
    config, first, second = image.blobs
    stalled, healed = asyncio.Event(), False
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        digest = request.path.rpartition("/")[2]
        asked.append(request.path)
        if digest not in files:
            return web.Response(status=404)
        if digest == second and not healed:
            response = web.StreamResponse(headers={"Content-Length": str(len(files[second]))})
            await response.prepare(request)
            await response.write(files[second][:700_000])
            stalled.set()
            await asyncio.sleep(60)
        kind = OCI_MANIFEST if "/manifests/" in request.path else "application/octet-stream"
        return web.Response(body=files[digest], content_type=kind)

    host = await serve(handler)
    site.registries[host] = {"plain_http": True}
    site.write(f"{host}/app:1@{image.root.descriptor.digest}")
    spool = BlobStore(site.settings().spool)
    async with started(site, "fetch", "--once", "--round", "killed") as process:
        await stalled.wait()
        await until(lambda: spool.size(first) is not None and spool.size(config) is not None)
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
    assert spool.size(second) is None
    assert (site.queue(), site.states()) == ([], {f"{host}/app:1": "fetching"})
    assert any((spool.root / INGEST_FOLDER).iterdir())

    healed = True
    asked.clear()
    code, out, err = await site.run("fetch", "--once")
    assert (code, err) == (0, "")
    assert out == "1 ready, 0 failed; queued 3 objects\n"
    assert [path for path in asked if "/blobs/" in path or "/manifests/sha256:" in path] == [
        f"/v2/app/blobs/{second}"
    ]
    assert spool.read(second, 10_000_000) == files[second]
    assert not any((spool.root / INGEST_FOLDER).iterdir())
    assert {entry.digest for entry in site.queue()} >= {first, second}


async def test_the_daemon_sees_edits_keeps_going_and_stops_when_told(site: Site) -> None:
    one, two = single_image("one"), single_image("two")
    for name, image in (("one", one), ("two", two)):
        write_files(site.folder / name, layout_files(image))
    entries = [
        {"image": f"example.org/{name}:1@{image.root.descriptor.digest}", "from": f"oci:{name}"}
        for name, image in (("one", one), ("two", two))
    ]
    site.write(entries[0], logs={"format": "json"})
    site.journal().close()
    async with started(site, "fetch") as process:
        await until(lambda: site.states() == {"example.org/one:1": "ready"} and live_state(site) == "idle")
        site.list(*entries)
        await until(lambda: site.states().get("example.org/two:1") == "ready")
        await until(lambda: len(site.proposal()) == 2)
        site.images.write_text("images: [\n")
        await until(lambda: live_state(site) == "waiting")
        await until(lambda: len(site.proposal()) == 2)
        site.list(entries[1])
        await until(lambda: len(site.proposal()) == 1)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, stderr = await process.communicate()
        assert process.returncode == 0
        assert time.monotonic() - begun < 5
    events = [json.loads(line) for line in stderr.decode().splitlines()]
    (problem,) = [event["problem"] for event in events if event["event"] == "failed"]
    assert problem.startswith(f"{site.images}:2:1: not YAML")
    assert live_state(site) == "stopped"


async def test_a_signal_ends_a_round_within_seconds_and_the_round_counts_as_failed(site: Site, serve: Serve) -> None:
    asked = asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        asked.set()
        await asyncio.sleep(60)
        return web.Response()

    host = await serve(silent)
    site.registries[host] = {"plain_http": True}
    site.write(f"{host}/app:1@sha256:{'1' * 64}")
    async with started(site, "fetch", "--once", "--round", "R") as process:
        await asked.wait()
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 5) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 5
    journal = site.journal()
    assert journal.round_failed("R") == 1
    journal.close()


async def test_a_round_is_always_finished(site: Site) -> None:
    site.write("nginx:1")
    code, _, err = await site.run("fetch", "--once", "--round", "A")
    assert code == 1
    assert err == (
        f"error: {site.images}:2: images[0]: 'nginx:1' has no digest; `checkvalve-sender pin nginx:1` prints the "
        "line with its digest; tags: lets images.lock hold it\n"
    )
    site.images.write_text("images: 7\n")
    code, _, err = await site.run("fetch", "--once", "--round", "B")
    assert (code, err) == (2, f"error: {site.images}:1: images: '7' is not a list; start each item with '- '\n")
    site.list()
    assert (await site.run("fetch", "--once", "--round", "C"))[0] == 0
    journal = site.journal()
    assert [journal.round_failed(token) for token in "ABCD"] == [1, 1, 0, None]
    journal.close()


async def test_one_fetch_role_at_a_time(site: Site) -> None:
    site.write()
    site.journal().close()
    async with started(site, "fetch"):
        await until(lambda: live_state(site) == "idle")
        code, _, err = await site.run("fetch", "--once", "--round", "R")
    assert code == 1
    assert err == f"error: {site.settings().state}: a fetch role is at work here already; stop it first\n"
    journal = site.journal()
    assert journal.round_failed("R") == 1
    journal.close()


async def test_run_once_ends_although_fetch_was_killed(site: Site, serve: Serve) -> None:
    asked = asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        asked.set()
        await asyncio.sleep(60)
        return web.Response()

    host = await serve(silent)
    site.registries[host] = {"plain_http": True}
    site.write(f"{host}/app:1@sha256:{'1' * 64}")
    async with started(site, "run", "--once") as process:
        await asked.wait()
        journal = site.journal()
        pid = journal.live()["fetch"][0]["pid"]
        journal.close()
        subprocess.run(["kill", "-9", str(pid)], check=True)
        out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 128 + signal.SIGKILL
    assert out == b"nothing sent: there is no release yet\n"


async def test_run_once_sends_then_has_nothing_new(site: Site) -> None:
    image = single_image()
    write_files(site.folder / "lay", layout_files(image))
    site.write({"image": f"example.org/app:1@{image.root.descriptor.digest}", "from": "oci:lay"})
    code, out, err = await site.run("run", "--once")
    assert code == 0, err
    assert out.startswith("sent 1 object, ")
    assert "; release default 1 (sha256:" in out
    code, out, err = await site.run("run", "--once")
    assert code == 0, err
    assert out.startswith("nothing new: release default 1 (sha256:")
    assert out.endswith("…) was sent before\n")


async def test_run_needs_its_keys_before_anything_starts(site: Site) -> None:
    site.write()
    private = site.folder / "keys" / "sender.pem"
    private.chmod(0o644)
    for arguments in (("run", "--once"), ("run",)):
        code, out, err = await site.run(*arguments)
        assert (code, out) == (1, "")
        assert err == f"error: {private}: mode is 0644, others could read this private key; run chmod 600 {private}\n"


async def test_run_once_that_failed_does_not_say_that_all_is_well(site: Site) -> None:
    image = single_image()
    write_files(site.folder / "lay", layout_files(image))
    site.write({"image": f"example.org/app:1@{image.root.descriptor.digest}", "from": "oci:lay"})
    assert (await site.run("run", "--once"))[0] == 0
    site.images.unlink()
    code, out, err = await site.run("run", "--once")
    assert code == 2
    assert f"error: {site.images}: no such file; " in err
    assert out.startswith("nothing sent, see the errors above; release default 1 (sha256:")


@pytest.mark.parametrize("damage", [b"", b"not a database, " * 500])
async def test_a_damaged_journal_is_named(site: Site, damage: bytes) -> None:
    site.write()
    path = site.settings().journal
    path.parent.mkdir()
    path.write_bytes(damage)
    code, _, err = await site.run("fetch", "--once")
    if damage:
        assert code == 1
        assert err.startswith(f"error: {path}: is damaged or no journal")
        assert err.count("\n") == 1
    else:
        assert code == 0
        assert sqlite3.connect(path).execute("SELECT COUNT(*) FROM images").fetchone() == (0,)
