"""Digests that run behind the writer: right or not there, never wrong."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.ranges import RangeSet
from receiver.digests import FOLLOWED_MAX, READ_BYTES, Head, RunningDigests
from tests.support.content import some_bytes
from tests.support.waits import wait_for

DATA = some_bytes(3 * READ_BYTES + 17)


@pytest.fixture
def digests() -> Iterator[RunningDigests]:
    made = RunningDigests()
    thread = threading.Thread(target=made.follow)
    thread.start()
    yield made
    made.stop()
    thread.join(5)
    assert not thread.is_alive()


def reached(digests: RunningDigests, name: str, size: int) -> Head:
    """Wait until *size* bytes are hashed, then take the head."""
    wait_for(lambda: digests._runs[name].head.size == size)
    head = digests.take(name)
    assert head is not None
    return head


def open_files(folder: Path) -> list[str]:
    """The files of *folder* that this process has open; other threads open others as they like."""
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(each))
    return [link for link in links if link.startswith(str(folder))]


def test_a_file_is_hashed_as_it_grows(tmp_path: Path, digests: RunningDigests) -> None:
    path = tmp_path / "partial"
    for end in (1, 5_000, READ_BYTES + 1, len(DATA)):
        path.write_bytes(DATA[:end])
        digests.advance("a", path, end)
    head = reached(digests, "a", len(DATA))
    assert head.state.hexdigest() == hashlib.sha256(DATA).hexdigest()
    assert digests.take("a") is None, "taken"


def test_what_is_not_there_yet_is_not_read(tmp_path: Path, digests: RunningDigests) -> None:
    path = tmp_path / "partial"
    path.write_bytes(DATA[:1000] + bytes(len(DATA) - 1000))
    digests.advance("a", path, 0)
    assert digests.take("a") is None
    digests.advance("a", path, 1000)
    head = reached(digests, "a", 1000)
    head.state.update(DATA[1000:])
    assert head.state.hexdigest() == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("there", [None, 700], ids=["gone", "too short"])
def test_a_file_that_is_not_what_was_said_stops_where_it_ends(
    tmp_path: Path, digests: RunningDigests, there: int | None
) -> None:
    path = tmp_path / "partial"
    if there is not None:
        path.write_bytes(DATA[:there])
    digests.advance("a", path, 1000)
    wait_for(lambda: digests._runs["a"].end == (there or 0))
    head = digests.take("a")
    assert head is not None
    assert head.size == (there or 0)
    assert head.state.hexdigest() == hashlib.sha256(DATA[: there or 0]).hexdigest()


def test_a_forgotten_file_is_hashed_from_its_start(tmp_path: Path, digests: RunningDigests) -> None:
    path = tmp_path / "partial"
    path.write_bytes(bytes(2_000))
    digests.advance("a", path, 2_000)
    wait_for(lambda: digests._runs["a"].head.size == 2_000)
    digests.forget("a")
    path.unlink()
    path.write_bytes(DATA)
    digests.advance("a", path, len(DATA))
    assert reached(digests, "a", len(DATA)).state.hexdigest() == hashlib.sha256(DATA).hexdigest()


def test_only_so_many_are_followed_and_files_are_closed(tmp_path: Path, digests: RunningDigests) -> None:
    for number in range(3 * FOLLOWED_MAX):
        path = tmp_path / str(number)
        path.write_bytes(DATA[:100])
        digests.advance(str(number), path, 100)
        wait_for(lambda number=number: digests._runs[str(number)].head.size == 100)
    assert len(open_files(tmp_path)) == FOLLOWED_MAX
    assert list(digests._runs) == [str(number) for number in range(2 * FOLLOWED_MAX, 3 * FOLLOWED_MAX)]
    for number in range(3 * FOLLOWED_MAX):
        digests.forget(str(number))
    assert open_files(tmp_path) == []


def test_stopping_does_not_wait_for_what_is_left(tmp_path: Path) -> None:
    digests, path = RunningDigests(), tmp_path / "partial"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    thread = threading.Thread(target=digests.follow)
    thread.start()
    digests.advance("a", path, 1 << 40)
    time.sleep(0.05)
    digests.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_missing_ranges_from_a_start() -> None:
    have = RangeSet([(0, 10), (20, 30), (50, 60)])
    assert list(have.missing(70)) == [(10, 20), (30, 50), (60, 70)]
    assert list(have.missing(55, 5)) == [(10, 20), (30, 50)]
    assert list(have.missing(28, 22)) == []
    assert list(have.missing(15, 12)) == [(12, 15)]
    assert have.beginning == 10
    assert RangeSet([(1, 5)]).beginning == RangeSet().beginning == 0
