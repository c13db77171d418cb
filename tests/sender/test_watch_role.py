"""The fetch role watches: tags that move, appear and go, hints, and every kind of edit of its three kinds of file."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from oci.credentials import Credential
from oci.descriptor import OCI_MANIFEST
from tests.oci.peers import Serve, free_port
from tests.oci_layout.images import Image, as_json
from tests.sender.conftest import Site, Upstream
from tests.sender.test_fetch_role import big_image
from tests.sender.watched import live, locked, proposed, push, role_here, started, stays, until

OFTEN = {"interval": "200ms", "settle": "200ms"}


@pytest.fixture(params=["embedded", "docker-registry"])
async def place(request: pytest.FixtureRequest, site: Site, upstream: Upstream) -> tuple[str, Credential | None]:
    """A registry that *site* may read, and who may write to it."""
    if request.param == "embedded":
        _, host = await upstream()
        site.registries[host] = {"plain_http": True, "requests": "1000/s"}
        return host, None
    host = request.getfixturevalue("locked_registry")
    secret = site.folder / "password"
    secret.write_text("correct horse")
    secret.chmod(0o600)
    site.registries[host] = {
        "plain_http": True,
        "username": "me",
        "password_file": "password",
        "requests": "1000/s",
    }
    return host, Credential("me", "correct horse")


@pytest.fixture
async def host(site: Site, upstream: Upstream) -> str:
    _, host = await upstream()
    site.registries[host] = {"plain_http": True, "requests": "1000/s"}
    site.fetch |= OFTEN
    return host


def dated(text: str, created: str) -> Image:
    """A single image that says when it was built."""
    image = Image()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    image.add_manifest(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": as_json(
                image.add_blob("application/vnd.oci.image.config.v1+json", json.dumps(config).encode())
            ),
            "layers": [as_json(image.add_blob("application/vnd.oci.image.layer.v1.tar", text.encode()))],
        }
    )
    return image


def edit(site: Site, pattern: str, replacement: str) -> None:
    """Edit images.lock as an editor does: another file in its place."""
    lock = site.settings().lock_file
    text, count = re.subn(pattern, replacement, lock.read_text(), flags=re.MULTILINE)
    assert count == 1
    temp = lock.with_suffix(".new")
    temp.write_text(text)
    temp.replace(lock)


async def test_tags_that_move_appear_and_leave(site: Site, place: tuple[str, Credential | None]) -> None:
    host, user = place
    site.fetch |= OFTEN
    name = f"{host}/watched/app"

    async def tag(repository: str, tag: str, image: Image | str) -> str:
        return await push(host, f"watched/{repository}", tag, image, user)

    moving, staying = await tag("app", "latest", "l1"), await tag("app", "stays", "s1")
    versions = {f"1.{minor}.0": await tag("sem", f"1.{minor}.0", f"v{minor}") for minor in range(3)}
    days = {
        f"day-{day}": await tag("day", f"day-{day}", dated(f"d{day}", f"2025-01-0{day}T00:00:00Z"))
        for day in (3, 1, 2)
    }
    site.write(
        {"image": name, "tags": ["latest"], "follow": "digest"},
        {"image": name, "tags": ["stays"]},
        {"image": f"{host}/watched/sem", "tags": {"semver": "^1", "keep": "newest 2"}},
        {"image": f"{host}/watched/day", "tags": {"regex": "day-.*", "keep": "newest 2"}},
    )
    expected = {
        f"{name}:latest": moving,
        f"{name}:stays": staying,
        **{f"{host}/watched/sem:{one}": versions[one] for one in ("1.1.0", "1.2.0")},
        **{f"{host}/watched/day:day-{day}": days[f"day-{day}"] for day in (2, 3)},
    }
    async with started(site, "fetch"):
        await until(lambda: proposed(site) == expected == locked(site))
        expected[f"{name}:latest"] = await tag("app", "latest", "l2")
        await tag("app", "stays", "s2")
        expected[f"{host}/watched/sem:1.10.0"] = await tag("sem", "1.10.0", "v10")
        del expected[f"{host}/watched/sem:1.1.0"]
        expected[f"{host}/watched/day:day-0"] = await tag("day", "day-0", dated("d0", "2025-02-01T00:00:00Z"))
        del expected[f"{host}/watched/day:day-2"]
        await until(lambda: proposed(site) == expected == locked(site))
        await stays(lambda: proposed(site) == expected, 0.5)


async def test_a_webhook_is_followed_at_once_however_long_the_interval(site: Site, host: str) -> None:
    first = await push(host, "a/b", "latest", "one")
    (site.folder / "hook").write_text("s3cret-" * 4)
    (site.folder / "hook").chmod(0o600)
    port = free_port()
    rule = {"image": f"{host}/a/b", "tags": ["latest"], "follow": "digest", "interval": "1h"}
    site.write(rule, webhook={"listen": f"127.0.0.1:{port}", "secret_file": "hook"})
    async with started(site, "fetch"):
        await until(lambda: locked(site) == {f"{host}/a/b:latest": first})
        second = await push(host, "a/b", "latest", "two")
        event = {
            "action": "push",
            "target": {"repository": "a/b", "tag": "latest", "digest": second, "mediaType": OCI_MANIFEST},
            "request": {"host": host},
        }
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": f"Bearer {'s3cret-' * 4}"}
            async with session.post(
                f"http://127.0.0.1:{port}/hook", json={"events": [event]}, headers=headers
            ) as answer:
                assert answer.status < 300
        await until(lambda: locked(site) == proposed(site) == {f"{host}/a/b:latest": second}, 5)


# --- edits of the lock ---------------------------------------------------------------------------------------------


async def test_a_deleted_line_is_resolved_again_and_a_line_put_back_pins(site: Site, host: str) -> None:
    name = f"{host}/a/b:1"
    first = await push(host, "a/b", "1", "one")
    site.write({"image": f"{host}/a/b", "tags": ["1"]})
    async with started(site, "fetch"):
        await until(lambda: locked(site) == proposed(site) == {name: first})
        (line,) = site.settings().lock_file.read_text().splitlines()[1:]
        second = await push(host, "a/b", "1", "two")
        await stays(lambda: locked(site) == {name: first}, 0.5)
        edit(site, r"^.*/a/b:1.*\n", "")
        await until(lambda: locked(site) == proposed(site) == {name: second})
        edit(site, r"^.*/a/b:1.*\n", line + "\n")
        await until(lambda: locked(site) == proposed(site) == {name: first})
        await stays(lambda: proposed(site) == {name: first}, 0.5)


async def test_a_line_that_cannot_be_is_held_and_left_to_whoever_wrote_it(site: Site, host: str) -> None:
    first, other = await push(host, "a/b", "1", "one"), await push(host, "a/c", "1", "other")
    site.write({"image": f"{host}/a/b", "tags": ["1"]}, {"image": f"{host}/a/c", "tags": ["1"], "follow": "digest"})
    before = {f"{host}/a/b:1": first, f"{host}/a/c:1": other}
    second = await push(host, "x/y", "1", "two")
    async with started(site, "fetch"):
        await until(lambda: locked(site) == proposed(site) == before)
        edit(site, '"closure": "sha256:.*?"(.*\n.*/a/c)', rf'"closure": "{second}"\1')
        edited = site.settings().lock_file.read_text()
        await until(lambda: site.states().get(f"{host}/a/b:1") == "failed")
        await stays(lambda: site.settings().lock_file.read_text() == edited, 1)
        journal = site.journal()
        (error,) = [row["error"] for row in journal.images() if row["error"]]
        journal.close()
        assert re.search(rf"images\.lock: {host}/a/b:1: closure is {second}; the image has sha256:", error)
        moved = await push(host, "a/c", "1", "moved")  # the others go on
        await until(lambda: proposed(site) == {**before, f"{host}/a/c:1": moved})
        edit(site, r"^.*/a/b:1.*\n", "")
        await until(lambda: locked(site) == {**before, f"{host}/a/c:1": moved} and live(site).get("failed") == 0)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda text: text.replace("checkvalve-lock", "lock"), "images.lock:1: is not '{\"checkvalve-lock\": 1}'"),
        (lambda text: text[: len(text) - 40], "images.lock:2: not JSON"),
        (lambda text: text.replace('"size": ', '"size": -'), "images.lock:2: size: "),
        (lambda text: "", "images.lock:1: is not"),
    ],
    ids=["header", "cut off", "one key", "empty"],
)
async def test_a_lock_that_cannot_be_read_moves_nothing(site: Site, host: str, broken: Any, says: str) -> None:
    name = f"{host}/a/b:1"
    first = await push(host, "a/b", "1", "one")
    site.write({"image": f"{host}/a/b", "tags": ["1"]})
    lock = site.settings().lock_file
    async with started(site, "fetch"):
        await until(lambda: locked(site) == proposed(site) == {name: first})
    text = lock.read_text()
    second = await push(host, "a/b", "1", "two")
    lock.write_text(broken(text))
    async with started(site, "fetch"):
        await until(lambda: any(says in fault for fault in live(site).get("faults", [])))
        await stays(lambda: proposed(site) == {name: first} and lock.read_text() == broken(text), 1)
        assert live(site)["failed"] >= 1
        lock.write_text(text)
        await until(lambda: live(site).get("failed") == 0 and live(site)["faults"] == [])
        assert locked(site) == proposed(site) == {name: first}
        lock.unlink()  # as the message says: without the file everything is resolved again
        await until(lambda: proposed(site) == {name: second})
        assert locked(site) == {name: second}


async def test_no_edit_of_the_lock_is_lost(site: Site, host: str) -> None:
    """Whenever it falls: a role that has just proposed may take an edit for its own writing."""
    name = f"{host}/a/b:1"
    digest = await push(host, "a/b", "1", "0")
    site.write({"image": f"{host}/a/b", "tags": ["1"]})
    async with started(site, "fetch"):
        await until(lambda: locked(site) == {name: digest})
        for number in range(1, 7):
            digest = await push(host, "a/b", "1", str(number))
            await asyncio.sleep(number * 0.13)
            edit(site, r"^.*/a/b:1.*\n", "")
            await until(lambda: locked(site) == proposed(site) == {name: digest}, 6)  # noqa: B023


# --- edits of images.yaml ------------------------------------------------------------------------------------------


async def test_a_file_that_a_glob_includes_is_seen_when_it_comes_changes_and_goes(site: Site, host: str) -> None:
    digests = {name: await push(host, name, "1", name) for name in ("one", "two")}
    site.write()
    (site.folder / "teams").mkdir()
    site.images.write_text("include: teams/*.yaml\nimages: []\n")

    def team(name: str) -> None:
        text = json.dumps({"images": [{"image": f"{host}/{name}", "tags": ["1"]}]})
        (site.folder / "teams" / "new").write_text(text)
        (site.folder / "teams" / "new").replace(site.folder / "teams" / f"{name}.yaml")

    async with started(site, "fetch"):
        await until(lambda: live(site).get("state") == "idle")
        team("one")
        await until(lambda: proposed(site) == {f"{host}/one:1": digests["one"]}, 5)
        team("two")
        await until(lambda: len(proposed(site)) == 2, 5)
        (site.folder / "teams" / "one.yaml").write_text("images: [\n")
        await until(lambda: any("one.yaml:2:1: not YAML" in fault for fault in live(site)["faults"]), 5)
        await stays(lambda: len(proposed(site)) == 2, 0.5)
        (site.folder / "teams" / "one.yaml").unlink()
        await until(lambda: proposed(site) == {f"{host}/two:1": digests["two"]} == locked(site), 5)


async def test_a_shorter_interval_counts_at_once_also_after_a_restart(site: Site, host: str) -> None:
    name = f"{host}/a/b"
    rule = {"image": name, "tags": ["1"], "follow": "digest", "interval": "1d"}
    await push(host, "a/b", "1", "one")
    site.write(rule)
    async with started(site, "fetch"):
        await until(lambda: len(locked(site)) == 1)
        second = await push(host, "a/b", "1", "two")
        site.list({**rule, "interval": "1s"})
        await until(lambda: locked(site) == {f"{name}:1": second}, 5)
        site.list(rule)
        await asyncio.sleep(1.5)
        third = await push(host, "a/b", "1", "three")
        await stays(lambda: locked(site) == {f"{name}:1": second}, 1.5)
    site.list({**rule, "interval": "1s"})
    async with started(site, "fetch"):
        await until(lambda: locked(site) == {f"{name}:1": third}, 5)


async def test_a_line_more_in_images_yaml_breaks_off_no_download(site: Site, host: str, serve: Serve) -> None:
    image = big_image()
    files = image.all_files()
    _, _, second = image.blobs
    asked: list[str] = []
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        digest = request.path.rpartition("/")[2]
        asked.append(digest)
        if digest not in files:
            return web.Response(status=404)
        if digest == second:
            begun.set()
            await go_on.wait()
        kind = OCI_MANIFEST if "/manifests/" in request.path else "application/octet-stream"
        return web.Response(body=files[digest], content_type=kind)

    slow = await serve(handler)
    site.registries[slow] = {"plain_http": True}
    pin = f"{slow}/app:1@{image.root.descriptor.digest}"
    site.write(pin)
    other = await push(host, "one", "1", "one")
    async with role_here(site):
        await begun.wait()
        site.list({"image": f"{host}/one", "tags": ["1"]}, pin)
        await until(lambda: proposed(site) == {f"{host}/one:1": other})
        go_on.set()
        await until(lambda: len(proposed(site)) == 2)
    assert asked.count(second) == 1


async def test_while_one_registry_hangs_another_ones_moved_tag_is_proposed(
    site: Site, host: str, serve: Serve
) -> None:
    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    dead = await serve(silent)
    site.registries[dead] = {"plain_http": True}
    first = await push(host, "one", "1", "one")
    rule = {"image": f"{host}/one", "tags": ["1"], "follow": "digest"}
    site.write(rule, f"{dead}/app:1@sha256:{'1' * 64}", {"image": f"{dead}/b", "tags": ["1"]})
    async with role_here(site):
        await until(lambda: proposed(site) == {f"{host}/one:1": first})
        second = await push(host, "one", "1", "two")
        await until(lambda: proposed(site) == {f"{host}/one:1": second} == locked(site), 5)


async def test_an_idle_role_leaves_the_journal_alone(site: Site, host: str) -> None:
    digest = await push(host, "one", "0", "one")
    tags = [str(number) for number in range(120)]
    for tag in tags[1:]:
        await push(host, "one", tag, "one")
    site.fetch["interval"] = "1h"
    site.write(*({"image": f"{host}/one", "tags": [tag], "referrers": False} for tag in tags))
    async with role_here(site) as role:
        await until(lambda: proposed(site) == {f"{host}/one:{tag}": digest for tag in tags}, 40)
        await until(lambda: live(site)["state"] == "idle")
        await asyncio.sleep(1)
        statements: list[str] = []
        role._journal.connection.set_trace_callback(statements.append)
        await asyncio.sleep(2.5)
        role._journal.connection.set_trace_callback(None)
    assert [one for one in statements if one.startswith("BEGIN")] == []
    assert len(statements) <= 6  # three looks for what `send` and `rollback` ask for
