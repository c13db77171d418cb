"""``capacity``: figures that agree with the code that sends, and errors that name the option."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.geometry import profile_for_link
from sender.capacity import HEADER_BYTES, Wishes, capacity
from tests.sender.conftest import environment

USUAL = {
    "rate": 10**9,
    "mtu": 1500,
    "repair": 0.1,
    "outage": 0.01,
    "passes": 1,
    "content": 500 * 10**9,
    "change": 20 * 10**9,
    "keep": 30 * 86_400.0,
    "largest": 10 * 10**9,
    "hold": 2.0,
}


def test_the_content_rate_is_what_whole_passes_take() -> None:
    found = capacity(Wishes(**USUAL))  # type: ignore[arg-type]
    profile = profile_for_link(found.symbol_bytes, 10**9 / 8 / 1500, 0.1, 0.01)
    datagrams = profile.geometry(10**9).datagrams()
    seconds = datagrams * 1500 * 8 / 10**9
    assert 10**9 / seconds == pytest.approx(found.content_rate, rel=0.001)
    assert found.symbol_bytes < 1500 - HEADER_BYTES
    assert found.survived == pytest.approx(0.01, rel=0.05)
    assert found.content_s == pytest.approx(500 * seconds, rel=0.001)
    assert found.receive_buffer == 250_000_000
    assert (found.sender_disk, found.target_disk) == (1_600 * 10**9, 1_100 * 10**9)
    assert found.enough


def test_more_than_a_day_a_day_is_said() -> None:
    found = capacity(Wishes(**USUAL | {"rate": 10**6}))  # type: ignore[arg-type]
    assert not found.enough
    assert capacity(Wishes(**USUAL | {"passes": 3})).change_s == pytest.approx(  # type: ignore[arg-type]
        3 * capacity(Wishes(**USUAL)).change_s  # type: ignore[arg-type]
    )


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sender", "capacity", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(),
    )


def test_the_command(tmp_path: Path) -> None:
    done = run(tmp_path, "--rate", "1Gbit", "--content", "500GB", "--change", "20GB", "--largest", "10GB")
    assert (done.returncode, done.stderr) == (0, "")
    assert "content rate" in done.stdout
    told = json.loads(run(tmp_path, "--rate", "100kbit", "--json").stdout)
    assert (told["enough"], told["given"]["rate"]) == (False, 100_000)
    assert run(tmp_path, "--rate", "100kbit").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--rate: no sender.yaml was found"),
        (["--rate", "fast"], "'fast' is not a rate"),
        (["--rate", "1Gbit", "--content", "2T"], "'2T' is not a size; give e.g. 10GiB or 500MB"),
        (["--rate", "1Gbit", "--keep", "long"], "'long' is not a duration"),
    ],
)
def test_bad_options(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
