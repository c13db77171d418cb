"""Both roles as processes over each path: the content arrives whole, and the live documents name the path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oci.blobs import BlobStore
from receiver.journal import ReceiverJournal
from tests.support.content import some_bytes
from tests.support.waits import wait_for
from tests.transmit.rig import ROOT, Side, end


@pytest.mark.parametrize(
    ("choice", "out", "into"), [("auto", "gso", "gro"), ("mmsg", "sendmmsg", "recvmmsg"), ("off", "plain", "plain")]
)
def test_a_blob_crosses_by_the_configured_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, out: str, into: str
) -> None:
    monkeypatch.setenv("CHECKVALVE_SENDER__LINK__GSO", choice)
    monkeypatch.setenv("CHECKVALVE_RECEIVER__LISTEN__GRO", choice)
    side = Side(tmp_path, rate="400Mbit")
    config = tmp_path / "receiver.yaml"
    config.write_text(
        f"state: high\nhpke_key: r.pem\nsenders: [s.pub]\nlisten: {{on: '127.0.0.1:{side.port}'}}\n"
        "publish: {layout: out}\n"
    )
    data = some_bytes(3_000_000)
    digest = side.queue(data)
    with (tmp_path / "capture.log").open("wb") as log:
        capture = subprocess.Popen(
            [sys.executable, "-m", "receiver", "capture", "--config", config],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: '"listening"' in (tmp_path / "capture.log").read_text())
        transmit = side.start()
        try:
            spool = BlobStore(tmp_path / "high" / "spool")
            wait_for(lambda: spool.size(digest) == len(data))
            wait_for(lambda: "transmit" in side.journal().live())
            assert end(transmit)[0] == 0
        finally:
            transmit.kill()
            transmit.wait()
        assert end(capture)[0] == 0
    finally:
        capture.kill()
        capture.wait()
    assert spool.path(digest).read_bytes() == data
    assert side.journal().live()["transmit"][0]["path"] == out
    journal = ReceiverJournal(tmp_path / "high" / "journal.sqlite", read_only=True)
    live = journal.live()["capture"][0]
    journal.close()
    assert (live["path"], live["kernel_drops"], live["lost"]) == (into, 0, 0)
