"""When windows open and close: clocks that are set, overlaps, long windows, jumps of the clock, and faults."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import UserError
from runtime.settings import load_settings
from sender.config import SenderSettings
from sender.windows import Window, Windows
from tests.transmit.rig import Side

BERLIN = ZoneInfo("Europe/Berlin")
LINK = 1_000


def at(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def windows(*given: tuple[str, float, int]) -> Windows:
    return Windows([Window(start, hours * 3600, rate) for start, hours, rate in given], BERLIN, LINK)


def test_without_windows_the_link_is_always_open() -> None:
    assert windows().opening(at("2026-06-01T12:00")).rate == LINK


@pytest.mark.parametrize(
    ("moment", "rate", "until"),
    [
        ("2026-06-01T19:59:59", None, "2026-06-01T20:00"),
        ("2026-06-01T20:00", 800, "2026-06-02T06:00"),
        ("2026-06-02T05:59:59.9", 800, "2026-06-02T06:00"),
        ("2026-06-02T06:00", None, "2026-06-02T20:00"),
        ("2026-06-05T23:00", 800, "2026-06-06T00:00"),  # Saturday's is faster
        ("2026-06-06T03:00", 900, "2026-06-08T00:00"),
        ("2026-06-08T00:00", None, "2026-06-08T20:00"),
    ],
)
def test_a_window_is_open_from_its_start_for_its_time_and_the_fastest_counts(
    moment: str, rate: int | None, until: str
) -> None:
    opening = windows(("0 20 * * mon-fri", 10, 800), ("0 0 * * sat", 48, 900)).opening(at(moment))
    assert (opening.rate, opening.until) == (rate, at(until))


@pytest.mark.parametrize(
    ("start", "hours", "moment", "fold", "rate", "until", "until_fold"),
    [
        ("0 20 * * *", 10, "2026-03-29T06:30", 0, 5, "2026-03-29T07:00", 0),  # ten hours, an hour later by the wall
        ("0 20 * * *", 10, "2026-10-25T05:30", 0, None, "2026-10-25T20:00", 0),
        ("30 2 * * *", 1, "2026-03-29T01:59", 0, None, "2026-03-29T03:00", 0),  # half past two is skipped
        ("30 2 * * *", 1, "2026-03-29T03:59", 0, 5, "2026-03-29T04:00", 0),
        ("30 2 * * *", 1, "2026-10-25T02:30", 0, 5, "2026-10-25T02:30", 1),
        ("30 2 * * *", 1, "2026-10-25T02:15", 1, 5, "2026-10-25T02:30", 1),  # and comes twice, but counts once
        ("30 2 * * *", 1, "2026-10-25T02:45", 1, None, "2026-10-26T02:30", 0),
    ],
)
def test_the_nights_in_which_clocks_are_set(
    start: str, hours: float, moment: str, fold: int, rate: int | None, until: str, until_fold: int
) -> None:
    opening = windows((start, hours, 5)).opening(at(moment, fold))
    assert (opening.rate, opening.until) == (rate, at(until, until_fold))


def test_a_window_longer_than_the_time_between_its_starts_stays_open() -> None:
    opening = windows(("0 0 * * *", 36, 5)).opening(at("2026-06-01T12:00"))
    assert opening.rate == 5
    assert opening.until > at("2026-06-08T00:00")


def test_a_clock_that_jumps_either_way_is_followed() -> None:
    daily = windows(("0 20 * * *", 1, 5))
    moments = ["2026-06-01T20:30", "2026-06-01T12:00", "2026-06-09T20:59", "2026-06-09T21:00", "2020-01-01T20:00"]
    assert [daily.opening(at(moment)).rate for moment in moments] == [5, None, 5, None, 5]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["0 20 * * mon-fri", "30 2 * * *", "*/20 * * * *", "0 0 1 * *", "15 1,2,3 * * sun"]),
    st.floats(0.1, 60),
    st.sampled_from(["2026-03-27T00:00", "2026-10-23T00:00"]),
    st.floats(0, 5 * 86_400),
)
def test_until_is_where_the_state_next_changes(start: str, hours: float, day: str, after: float) -> None:
    moment = at(day) + after
    opening = windows((start, hours, 5)).opening(moment)
    assert opening.since <= moment < opening.until
    for part in range(20):
        within = moment + (opening.until - moment) * part / 20
        assert windows((start, hours, 5)).opening(within).rate == opening.rate
    if opening.rate is None:  # one that stays open longer than is looked ahead ends later than said
        assert windows((start, hours, 5)).opening(opening.until).rate == 5


SCHEDULE = "schedule:\n  windows:\n    - {start: 0 20 * * mon-fri, for: 10h}\n    - "


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        (SCHEDULE + "{start: 0 25 * * *, for: 1h}", 9, "'0 25 * * *' is not a start (Bad hour); give minute, hour"),
        (SCHEDULE + "{start: 0 0 30 2 *, for: 1h}", 9, "'0 0 30 2 *' is not a start (Bad day-of-month)"),
        (SCHEDULE + "{start: 0 0 0 * * *, for: 1h}", 9, "'0 0 0 * * *' is not a start (it has not five fields)"),
        (SCHEDULE + "{start: 0 20 * * *}", 9, "schedule.windows[1].for: is missing; add this key"),
        (SCHEDULE + "{start: 0 20 * * *, for: 0h}", 9, "schedule.windows[1].for: '0h' is too small"),
        (
            SCHEDULE + "{start: 0 20 * * *, for: 1h, rat: 1}",
            9,
            "windows[1].rat: unknown key; did you mean rate?",
        ),
        (
            SCHEDULE + "{start: 0 20 * * *, for: 1h, rate: 2Gbit}",
            6,
            "schedule: windows[1].rate: 2000000000 bit/s is above link.rate; give at most 200000000 bit/s",
        ),
        ("schedule: {timezone: Europe/Bärlin}", 6, "schedule.timezone: 'Europe/Bärlin' is no time zone"),
        ("schedule: {timezone: ../../etc/passwd}", 6, "schedule.timezone: '../../etc/passwd' is no time zone"),
        ("schedule: {carousel_share: 50}", 6, "schedule.carousel_share: 50 is not a ratio; give e.g. 0.1 or 10%"),
    ],
)
def test_faults_are_one_line_with_file_and_line(tmp_path: Path, text: str, line: int, fault: str) -> None:
    side = Side(tmp_path, more=text)
    with pytest.raises(UserError) as caught:
        load_settings(side.config, SenderSettings)
    assert str(caught.value).startswith(f"{side.config}:{line}: ")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)
