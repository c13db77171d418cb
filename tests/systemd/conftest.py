"""Two booted systems on the two sides of the lab, one pair for all tests here; skipped with the reason elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.oneway import OneWay
from tests.lab.world import missing_programs
from tests.systemd import machine, tree
from tests.systemd.machine import Machine
from tests.systemd.site import Site, set_up

Say = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bare systems and the first image first: later the journals are full of what the other tests do."""
    first = [Path(__file__).with_name(name) for name in ("test_machines.py", "test_transfer.py")]
    items.sort(key=lambda item: first.index(item.path) if item.path in first else len(first))


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
def site(
    bare: tuple[Machine, Machine], oneway: OneWay, say: Say, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Both systems with checkvalve installed from the offline file, enabled and running."""
    if reason := missing_programs():
        pytest.skip(reason)
    yield set_up(oneway, *bare, tmp_path_factory.mktemp("booted"), say)
    assert oneway.counts().high_sent == 0  # whatever was done here
