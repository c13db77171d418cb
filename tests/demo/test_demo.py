"""The demo as a user runs it: again and again, then without offload, and again after it was cut short."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Process, module

PROCESSES = 9  # two registries, the link, and on each side `run` with its two roles

pytestmark = pytest.mark.timeout(180)


def demo(state: Path, *options: str, code: int = 0) -> str:
    """Run the demo to its end; return everything it said."""
    done = subprocess.run(
        [*module("tests.demo"), "--state", str(state), "--size", "small", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return said


def amount(said: str, row: str) -> int:
    """The number in a row of the demo's table."""
    match = re.search(rf"^ *{row} +([\d,]+) ", said, re.M)
    assert match is not None, said
    return int(match[1].replace(",", ""))


def events(state: Path, name: str) -> list[dict[str, object]]:
    lines = (state / "logs" / f"{name}.err").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def find(found: list[dict[str, object]], event: str) -> dict[str, object]:
    return next(entry for entry in found if entry["event"] == event)


def test_three_times_the_last_with_a_damaged_registry(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = demo(state, "--seed", "2")
    assert "IDENTICAL: 6 manifests (1 by the referrers API) and 10 blobs, every digest matches" in first
    for stage in ("fetch", "send", "receive", "publish"):
        assert re.search(rf"^   {stage} .* done after ", first, re.M), first
    assert amount(first, "datagrams") > 2000
    assert amount(first, "lost") > 0
    assert amount(first, "repaired") > 0
    assert "\x1b" not in first  # no terminal, no escape sequences
    before = (state / "sender" / "images.yaml").read_bytes()

    second = demo(state)
    assert "IDENTICAL" in second
    assert "already there" in second
    assert "Nothing was sent again: release 1 was there already" in second
    assert re.search(r"datagrams +(\d+) +0 of content, \1 of control", second), second
    assert " done after " not in second
    assert (state / "sender" / "images.yaml").read_bytes() == before

    # What is wrong in the internal registry does not pass for right.
    largest = max((state / "internal" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[1000] ^= 1
    largest.write_bytes(content)
    said = demo(state, code=1)
    assert f"blob sha256:{largest.name[:12]}…" in said
    assert "FAILED" in said
    assert "IDENTICAL" not in said


def test_without_offload_and_after_an_interruption(tmp_path: Path) -> None:
    state = tmp_path / "state"
    process = Process(
        "demo",
        [*module("tests.demo"), "--state", str(state), "--size", "small", "--offload", "off"],
        tmp_path / "demo",
    )
    try:
        deadline = time.monotonic() + 60
        while len(running := children(process.pid)) < PROCESSES:
            assert time.monotonic() < deadline, process.describe(f"runs {len(running)} processes only")
            time.sleep(0.02)
        process.signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.stop()
    assert "interrupted; all processes are stopped" in process.err.read_text()
    assert not [pid for pid in running if Path(f"/proc/{pid}/exe").exists()]

    said = demo(state, "--offload", "off")
    assert "IDENTICAL" in said
    assert find(events(state, "sender"), "session_opened")["gso"] is False
    assert find(events(state, "receiver"), "listening")["gro"] is False
    assert json.loads((state / "logs" / "link.out").read_text().splitlines()[-1])["offload"] is False


def children(pid: int) -> list[int]:
    """All processes below *pid*."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = demo(tmp_path / "file", code=1)
    assert "Traceback" not in said
    assert f"error: {tmp_path / 'file'}" in said
    assert sys.executable not in said
