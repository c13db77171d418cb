"""The link's past in the journal: bounded, and not for the clock to take away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.journal import ReceiverJournal
from receiver.margin import Meter
from receiver.meters import DAY, HOUR, KEPT, MINUTE, Meters

YEAR = 365 * 86_400.0


@pytest.fixture
def meters(tmp_path: Path) -> Iterator[Meters]:
    journal = ReceiverJournal(tmp_path / "journal.sqlite")
    yield Meters(journal)
    journal.close()


def test_one_minute_adds_up_in_each_span(meters: Meters) -> None:
    now = 1_800_000_000.0
    for second in range(0, 120, 5):
        meters.add(Meter(datagrams=10, lost=1, worst=second % 7, worst_of=8, worst_k=50), now + second)
    assert [each.meter.datagrams for each in meters.series(MINUTE, 10)] == [120, 120]
    [hour] = meters.series(HOUR, 10)
    [day] = meters.series(DAY, 10)
    assert hour.meter.document() == day.meter.document()
    assert (hour.meter.datagrams, hour.meter.lost, hour.meter.worst) == (240, 24, 6)
    assert meters.total(MINUTE, 1).datagrams == 120


def test_each_span_is_bounded(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    for span in KEPT:
        monkeypatch.setitem(KEPT, span, 5)
    for minute in range(20):
        meters.add(Meter(datagrams=1), minute * 60.0)
    assert [each.start for each in meters.series(MINUTE, 100)] == [minute * 60 for minute in range(19, 14, -1)]
    assert len(meters.series(HOUR, 100)) == 1


def test_a_clock_that_leaps_years_takes_nothing_away_and_is_no_error(meters: Meters) -> None:
    now = 1_800_000_000.0
    for leap in (0.0, 30 * YEAR, -50 * YEAR, 0.0, -1_900_000_000.0 - now):
        meters.add(Meter(datagrams=1), now + leap)
    assert sum(each.meter.datagrams for each in meters.series(MINUTE, 100)) == 5
    assert meters.total(DAY, 100).datagrams == 5


def test_a_late_datagram_is_no_longer_lost_and_no_count_is_negative(meters: Meters) -> None:
    meters.add(Meter(datagrams=5, lost=3), 60.0)
    meters.add(Meter(datagrams=1, lost=-4), 61.0)
    [minute] = meters.series(MINUTE, 1)
    assert (minute.meter.datagrams, minute.meter.lost) == (6, 0)


def test_since_gives_what_had_not_ended(meters: Meters) -> None:
    for minute in range(5):
        meters.add(Meter(datagrams=minute + 1), minute * 60.0)
    assert [each.start for each in meters.series(MINUTE, 10, since=150.0)] == [240, 180, 120]
