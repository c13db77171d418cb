"""Transmit roles that do not outlive their test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.support.waits import none_left
from tests.transmit.rig import Side

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a side's role; whatever still runs at the end of the test is killed."""
    with none_left() as running:

        def begin(side: Side, **options: object) -> subprocess.Popen[bytes]:
            running.append(side.start(**options))  # type: ignore[arg-type]
            return running[-1]

        yield begin
