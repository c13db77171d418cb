"""Hooks as real executables: what they are given, and every way in which they end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import pytest

from judging.hook import REASON_CHARS_MAX, Unanswered, make_layout, remove_stale, run_hook
from oci.closure import walk
from oci.layout import Layout
from protocol.release import ReleaseImage
from sender.desired import release_image
from tests.oci_layout.images import multi_image, referrer_to, single_image

ENTRY = {"image": "registry.example/app:1", "signers": ["unsigned"]}


class Place:
    """A spool with one image, beside another one, and a folder for hooks."""

    def __init__(self, folder: Path, spool: Layout, image: ReleaseImage) -> None:
        self.folder, self.spool, self.image = folder, spool, image
        self.scratch = folder / "scratch"

    def script(self, text: str, mode: int = 0o755) -> str:
        path = self.folder / "scan.sh"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)
        return str(path)

    async def run(self, *argv: str, timeout: float = 30.0, entry: dict[str, object] | None = None) -> str | None:
        reason = await run_hook(argv, timeout, self.image, "1", entry or ENTRY, self.spool.blobs, self.scratch)
        assert not self.scratch.exists() or list(self.scratch.iterdir()) == []  # nothing stays behind
        return reason


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    spool = Layout(tmp_path / "spool")
    image = multi_image()
    await image.push(spool, None)
    await referrer_to(image.root.descriptor, "application/spdx+json").push(spool, None)
    await single_image("another").push(spool, None)
    closure = await walk(spool, image.root.descriptor)
    return Place(tmp_path, spool, release_image("registry.example/app", closure, foreign=False))


async def test_the_layout_holds_the_image_and_nothing_else(place: Place) -> None:
    folder = make_layout(place.image, "1", place.spool.blobs, place.scratch)
    layout = Layout.open(folder)
    assert await layout.tags() == ["1"]
    assert (await layout.resolve("1")).digest == place.image.root.digest
    assert set(layout.blobs.digests()) == {part.digest for part in place.image.contents()}
    for part in place.image.contents():
        layout.blobs.verify(part.digest)
        assert layout.blobs.path(part.digest).samefile(place.spool.blobs.path(part.digest))  # no copy
    remove_stale(place.scratch)
    assert list(place.scratch.iterdir()) == []
    place.spool.blobs.verify(place.image.root.digest)


async def test_links_are_symbolic_where_hard_ones_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder = make_layout(place.image, None, place.spool.blobs, place.scratch)
    assert all(path.is_symlink() for path in (folder / "blobs" / "sha256").iterdir())
    assert json.loads((folder / "index.json").read_text())["manifests"][0].keys() == {"mediaType", "digest", "size"}
    Layout.open(folder).blobs.verify(place.image.root.digest)


async def test_a_hook_gets_layout_entry_and_its_own_arguments_but_not_our_environment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHECKVALVE_SENDER__SIGNING_KEY", "hidden")
    out = place.folder / "seen"
    script = place.script(f'test -f "$2/oci-layout" && {{ echo "$1 $#"; cat; env; }} > {out}')
    assert await place.run(script, "--quick") is None
    first, entry, *environment = out.read_text().splitlines()
    assert first == "--quick 2"
    assert json.loads(entry) == ENTRY
    assert not [line for line in environment if "CHECKVALVE" in line]


async def test_a_bare_name_is_looked_for_in_path(place: Place) -> None:
    assert await place.run("true") is None
    said = await place.run("false")
    assert said == "hook false: exit code 1"
    assert not isinstance(said, Unanswered)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo fine; exit 3", "exit code 3: fine"),
        ("echo out; echo CVE-1 >&2; echo CVE-2 >&2; exit 1", "exit code 1: CVE-1; CVE-2"),
        ("printf 'a\\033[31mb\\n\\n\\377' >&2; exit 1", "exit code 1: a [31mb; �"),
        ("kill -SEGV $$", "ended by SIGSEGV"),
    ],
)
async def test_what_fails_says_why(place: Place, text: str, reason: str) -> None:
    said = await place.run(place.script(text))
    assert said is not None
    assert said.startswith(f"hook scan.sh: {reason}")
    assert said.isprintable()


async def test_floods_of_output_are_read_and_dropped(place: Place) -> None:
    script = place.script("head -c 20000000 /dev/zero | tr '\\0' x; echo the end >&2; exit 1")
    assert await place.run(script) == "hook scan.sh: exit code 1: the end"
    said = await place.run(place.script("head -c 20000000 /dev/zero | tr '\\0' x >&2; exit 1"))
    assert said is not None
    assert len(said) <= REASON_CHARS_MAX + 40


async def test_an_entry_that_the_hook_does_not_read_stops_nothing(place: Place) -> None:
    assert await place.run("true", entry={"large": "x" * 1_000_000}) is None


async def test_a_hook_that_hangs_is_ended_with_all_it_started(place: Place) -> None:
    pid = place.folder / "pid"
    script = place.script(f"sleep 300 & echo $! > {pid}; wait")
    began = time.monotonic()
    said = await place.run(script, timeout=0.5)
    assert said == "hook scan.sh: not done after 0.5 s (verify.hook.timeout), so it was ended"
    assert isinstance(said, Unanswered)
    assert time.monotonic() - began < 10
    await gone(int(pid.read_text()))


async def test_what_a_hook_leaves_running_is_ended(place: Place) -> None:
    pid = place.folder / "pid"
    assert await place.run(place.script(f"sleep 300 & echo $! > {pid}")) is None
    await gone(int(pid.read_text()))


async def test_a_daemon_that_holds_the_output_open_delays_nothing(place: Place) -> None:
    pid = place.folder / "pid"
    began = time.monotonic()
    said = await place.run(place.script(f"setsid sh -c 'echo $$ > {pid}; exec sleep 300' & sleep 0.3; exit 1"))
    os.kill(int(pid.read_text()), 9)
    assert said == "hook scan.sh: exit code 1"
    assert time.monotonic() - began < 10


async def test_no_descriptor_stays_open(place: Place) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for run in ("true", "false", "no-such-scanner-here"):
        await place.run(run)
    await asyncio.sleep(0.05)  # transports close in the next turns of the loop
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # asyncio's own watcher of children


async def test_a_cancelled_hook_is_ended_and_its_layout_removed(place: Place) -> None:
    pid = place.folder / "pid"
    task = asyncio.ensure_future(place.run(place.script(f"echo $$ > {pid}; sleep 300")))
    while not pid.exists() or not pid.read_text():
        await asyncio.sleep(0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await gone(int(pid.read_text()))
    assert list(place.scratch.iterdir()) == []


async def gone(pid: int) -> None:
    """Wait until the process is no more, or a zombie that nobody has collected."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        await asyncio.sleep(0.01)
    os.kill(pid, 9)
    raise AssertionError(f"{pid} lives")


async def test_what_cannot_be_started_is_a_reason(place: Place) -> None:
    assert "Permission denied; verify.hook.run is an executable file" in str(await place.run(place.script("", 0o644)))
    assert "No such file" in str(await place.run(str(place.folder / "missing.sh")))
    assert "No such file" in str(await place.run("no-such-scanner-here"))
    garbage = place.folder / "garbage"
    garbage.write_bytes(b"\x7fELFnot really")
    garbage.chmod(0o755)
    assert "Exec format error" in str(await place.run(str(garbage)))


async def test_a_spool_that_lacks_a_blob_is_a_reason(place: Place) -> None:
    part = place.image.closure[0]
    place.spool.blobs.remove(part.digest)
    assert f"no blob {part.digest}" in str(await place.run("true"))
