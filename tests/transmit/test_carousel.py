"""Rounds of the carousel over a real journal: what is repeated, in which order, and what a receiver makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.geometry import LinkProfile
from protocol.objects import Coding, Kind
from protocol.release import Content, ReleaseImage, images_document
from sender import carousel as module
from sender import schedule as schedules
from sender.carousel import Carousel
from sender.journal import ReleaseRow, SenderJournal
from sender.schedule import Schedule
from tests.support.content import digest_of

PROFILE = LinkProfile(1424, k=20, m=2, depth=2, outage=0)
BLOCK = 20 * 2 * 1424
EVERY = 3600.0


class Desired:
    """Objects that a release needs, all sent once at their time of queueing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = SenderJournal(path)
        self.carousel = Carousel(self.journal, EVERY)
        self.contents: list[Content] = []
        self.now = 1_700_000_000.0

    def add(self, size: int, *, sent: bool = True) -> int:
        digest = digest_of(f"{len(self.contents)}".encode())
        self.contents.append(Content("application/octet-stream", digest, size))
        object_id = self.journal.queue_object(
            kind=Kind.BLOB,
            coding=Coding.IDENTITY,
            digest=digest,
            content_size=size,
            coded_digest=digest,
            coded_size=size,
            path=Path("/nonexistent"),
            label=str(len(self.contents)),
            passes=1,
            contents=[digest],
            now=self.now,
        )
        if sent:
            self.journal.note_pass(object_id, self.now)
        return object_id

    @property
    def newest(self) -> list[ReleaseRow]:
        image = ReleaseImage("docker.io/library/demo", ("1",), self.contents[0], tuple(self.contents[1:]))
        document = json.dumps(images_document([image]))
        return [ReleaseRow("default", 1, digest_of(document.encode()), document, b"", 0.0)]

    def restart(self) -> None:
        self.journal.close()
        self.journal = SenderJournal(self.path)
        self.carousel = Carousel(self.journal, EVERY)

    def next(self) -> int | None:
        """The object that is repeated now, which takes a second."""
        if self.carousel.turn(self.newest, 0.0, self.now) is None:
            self.carousel.wait(0.0, 0.0)
            return None
        (row,) = self.journal.queue()
        self.now += 1
        self.journal.note_pass(row.id, self.now)
        return row.id

    def round(self) -> list[int]:
        found = []
        while (each := self.next()) is not None:
            found.append(each)
        return found


@pytest.fixture
def desired(tmp_path: Path) -> Iterator[Desired]:
    made = Desired(tmp_path / "journal.sqlite")
    yield made
    made.journal.close()


def test_a_round_repeats_each_object_once_and_the_next_waits(desired: Desired) -> None:
    ids = [desired.add(100) for _ in range(5)]
    assert desired.round() == [], "all is new to the other side"
    desired.now += EVERY
    first = desired.round()
    assert sorted(first) == ids
    assert desired.round() == []
    desired.now += EVERY
    second = desired.round()
    assert sorted(second) == ids
    assert first[0] != second[0], "rounds begin at another object each time"


def test_what_was_queued_lately_or_is_not_desired_waits(desired: Desired) -> None:
    old = [desired.add(100) for _ in range(3)]
    stray = desired.add(100)
    del desired.contents[3]
    desired.now += EVERY
    late = desired.add(100)
    assert sorted(desired.round()) == old
    desired.now += EVERY
    assert sorted(desired.round()) == [*old, late]
    assert stray not in old


def test_a_restart_goes_on_in_the_middle_of_a_round(desired: Desired) -> None:
    ids = [desired.add(100) for _ in range(6)]
    desired.now += EVERY
    order = [desired.next() for _ in range(2)]
    desired.restart()
    order += desired.round()
    assert sorted(each for each in order if each) == ids
    before = desired.journal.connection.execute("SELECT round FROM carousel").fetchone()
    desired.restart()
    desired.now += EVERY
    desired.round()
    assert desired.journal.connection.execute("SELECT round FROM carousel").fetchone() == (before[0] + 1,)


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_jumps_neither_stops_the_carousel_nor_makes_it_rush(desired: Desired, years: int) -> None:
    ids = [desired.add(100) for _ in range(3)]
    desired.now += EVERY
    desired.round()
    desired.now += years * 31_557_600
    seen = desired.round()
    assert len(seen) <= len(ids)
    for _ in range(2):
        desired.now += EVERY
        seen += desired.round()
    assert set(seen) == set(ids)
    assert len(seen) <= 3 * len(ids)


def rounds_until_whole(desired: Desired, sizes: list[int], phase: float, share: float, most: int) -> int | None:
    """How many rounds a receiver needs that always loses the same *share*, from *phase* on; None beyond *most*."""
    blocks = {desired.add(size): PROFILE.geometry(size).blocks for size in sizes}
    lacking = {(each, sbn) for each, count in blocks.items() for sbn in range(count)}
    total, plan = sum(sizes), Schedule(PROFILE.geometry, 0.0)
    for count in range(1, most + 1):
        desired.now += EVERY
        desired.carousel.wait(0.0, 0.0)
        at = 0
        while desired.carousel.turn(desired.newest, 0.0, desired.now) is not None:
            plan.refresh(desired.journal.queue())
            while (step := plan.next_block(0.0)) is not None:
                queued, shape, _ = step
                if not (phase * total < at + shape.size and at < (phase + share) * total):
                    lacking.discard((queued.id, shape.sbn))
                at += shape.size
            plan.pass_ended(queued, 0.0)
            desired.now += 0.1
            desired.journal.note_pass(queued.id, desired.now)
        if not lacking:
            return count
    return None


SHAPES = {
    "one large layer": [40 * BLOCK],
    "many small objects": [BLOCK // 2] * 40,
    "a layer among small ones": [BLOCK // 3] * 10 + [20 * BLOCK] + [BLOCK // 3] * 10,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.62, 0.85])
def test_a_receiver_that_always_loses_the_same_part_is_whole_soon(desired: Desired, shape: str, phase: float) -> None:
    needed = rounds_until_whole(desired, SHAPES[shape], phase, 0.15, 12)
    assert needed is not None
    assert needed <= 8


def test_without_the_rotation_it_would_never_be(desired: Desired, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "rotated", lambda count, number: 0)
    monkeypatch.setattr(module, "rotated", lambda count, number: 0)
    assert rounds_until_whole(desired, SHAPES["a layer among small ones"], 0.3, 0.15, 12) is None
