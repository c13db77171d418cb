"""A receiver's side, and capture processes that do not outlive their test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.capture.rig import Mouth, Side
from tests.support.waits import none_left

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


@pytest.fixture
def start(side: Side) -> Iterator[Start]:
    with none_left() as running:

        def begin() -> subprocess.Popen[bytes]:
            running.append(side.start())
            return running[-1]

        yield begin


@pytest.fixture
def mouth(side: Side) -> Iterator[Mouth]:
    made = Mouth(side)
    yield made
    made.close()
