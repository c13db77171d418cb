"""Waiting for what other processes do, and seeing that they are gone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def wait_for(condition: Any, within: float = 15.0) -> Any:
    """Poll until *condition()* is true, *within* seconds; return what it gave."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    return found


@contextmanager
def none_left() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Give a list; whatever of it still runs when the block ends is killed, and all is reaped."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()


def process_gone(pid: int) -> bool:
    """Whether the process has ended: an orphan is reaped by whoever adopted it, at some time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
