"""Transmit roles that do not outlive their test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.transmit.rig import Side

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a side's role; whatever still runs at the end of the test is killed."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(side: Side, **options: object) -> subprocess.Popen[bytes]:
        running.append(side.start(**options))  # type: ignore[arg-type]
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()
