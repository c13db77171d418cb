"""Processes of a test end with it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

Started = Callable[[subprocess.Popen[bytes]], subprocess.Popen[bytes]]


@pytest.fixture
def started() -> Iterator[Started]:
    """Called with a process, returns it and ends it after the test."""
    running: list[subprocess.Popen[bytes]] = []

    def keep(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        running.append(process)
        return process

    yield keep
    for process in running:
        process.kill()
        process.wait()
