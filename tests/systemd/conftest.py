"""Two booted systems on the two sides of the lab, one pair for all tests here; skipped with the reason elsewhere."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.oneway import OneWay
from tests.systemd import machine, tree
from tests.systemd.machine import Machine
from tests.systemd.site import Site

ROOT = Path(__file__).parents[2]
Say = Callable[[str], None]


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Say:
    """Tell whoever waits in the terminal what is being done, and when."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    began = time.monotonic()

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            print(f"\n  {time.monotonic() - began:5.1f} s  {text}", end="", flush=True)

    return say


@pytest.fixture(scope="session")
def debian(say: Say) -> Path:
    """The tree that both systems begin as."""
    if reason := tree.missing():
        pytest.skip(reason)
    machine.sweep()
    try:
        return tree.debian(say)
    except tree.NoTree as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def oneway(debian: Path) -> Iterator[OneWay]:
    """The lab that the two systems stand in."""
    with OneWay() as built:
        yield built


@pytest.fixture(scope="session")
def bare(debian: Path, oneway: OneWay, say: Say) -> Iterator[tuple[Machine, Machine]]:
    """Both systems, booted, as they are before anything is installed."""
    with Machine("low", debian, oneway.low) as low, Machine("high", debian, oneway.high) as high:
        for each in (low, high):
            each.boot()
            say(f"{each.name} has booted")
        yield low, high


@pytest.fixture(scope="session")
def run_file(tmp_path_factory: pytest.TempPathFactory, say: Say) -> Path:
    """The offline file of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "distribution", "--arch", platform.machine(), "--output", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and "wheels for Python" in done.stderr:
        pytest.skip(f"no offline file: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    say(f"{path.name}, {path.stat().st_size / 1e6:.0f} MB")
    return path


@pytest.fixture(scope="session")
def site(
    bare: tuple[Machine, Machine],
    oneway: OneWay,
    run_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    say: Say,
) -> Site:
    """checkvalve installed and at work on both."""
    made = Site(*bare, oneway, run_file, tmp_path_factory.mktemp("images"))
    made.prepare()
    made.install()
    say("installed on both, without a network")
    made.configure()
    say("all services started")
    return made
