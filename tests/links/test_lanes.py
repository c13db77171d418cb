"""Both sides with several lanes, over loopback: everything arrives whole, under kill -9 of a lane too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci.blobs import BlobStore
from receiver.journal import ReceiverJournal
from tests.support.content import some_bytes
from tests.support.waits import wait_for
from tests.transmit.rig import ROOT, Side, end

LANES = 3
Process = subprocess.Popen[bytes]


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def listen(folder: Path, side: Side, processes: list[Process]) -> Process:
    config = folder / "receiver.yaml"
    config.write_text(
        f"state: high\nhpke_key: r.pem\nsenders: [s.pub]\n"
        f"listen: {{on: '127.0.0.1:{side.port}', lanes: {LANES}}}\npublish: {{layout: out}}\n"
    )
    told = folder / "capture.log"
    before = told.read_text().count('"listening"') if told.exists() else 0
    with told.open("ab") as log:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "receiver", "capture", "--config", config],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        )
    wait_for(lambda: told.read_text().count('"listening"') > before)
    return processes[-1]


def test_many_objects_cross_over_three_lanes(tmp_path: Path, processes: list[Process]) -> None:
    side = Side(tmp_path, lanes=LANES, rate="600Mbit")
    contents = [some_bytes(size, size) for size in (60_000_000, 9_000_000, 500_000, *range(1_000, 1_040))]
    digests = [side.queue(content) for content in contents]
    capture = listen(tmp_path, side, processes)
    assert side.start(once=True).wait(60) == 0, side.told()
    spool = BlobStore(tmp_path / "high" / "spool")
    for digest, content in zip(digests, contents, strict=True):
        wait_for(lambda: spool.size(digest) == len(content))  # noqa: B023
        spool.verify(digest)
    assert end(capture)[0] == 0
    journal = ReceiverJournal(tmp_path / "high" / "journal.sqlite", read_only=True)
    live = journal.live()["capture"][0]
    journal.close()
    assert all(lane["datagrams"] > 1_000 for lane in live["lanes"])
    assert sum(lane["datagrams"] for lane in live["lanes"]) == live["datagrams"]
    assert live["drops"] == {}


def test_a_capture_whose_lane_was_killed_goes_on_after_its_restart(tmp_path: Path, processes: list[Process]) -> None:
    """As systemd would start it again; the sender's next pass, over whatever lanes, brings the rest."""
    side = Side(tmp_path, lanes=LANES, rate="300Mbit")
    content = some_bytes(50_000_000)
    digest = side.queue(content, passes=4)
    capture = listen(tmp_path, side, processes)
    processes.append(side.start())
    spool = BlobStore(tmp_path / "high" / "spool")
    wait_for(lambda: ReceiverJournal(tmp_path / "high" / "journal.sqlite").ranges(digest))
    events = [json.loads(line) for line in (tmp_path / "capture.log").read_text().splitlines() if line[0] == "{"]
    os.kill(next(event["pid"] for event in events if event["event"] == "lane_started"), signal.SIGKILL)
    assert capture.wait(10) == 1
    assert not spool.size(digest)
    capture = listen(tmp_path, side, processes)
    wait_for(lambda: spool.size(digest) == len(content), 30)
    spool.verify(digest)
    assert end(capture)[0] == 0
