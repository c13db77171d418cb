"""Each alarm: when it stands and when not, that it begins and ends once in the log, and that the manual knows it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from receiver.alarms import BY_PUBLISH, CATALOGUE, Alarm, Facts, Severity, judge
from receiver.config import Alarms
from receiver.incidents import Incidents
from receiver.journal import ReceiverJournal
from receiver.margin import Meter
from receiver.meters import Meters
from receiver.watch import StandingAlarms, Watch
from tests.receiver.site import hear

MANUAL = Path(__file__).parents[2] / "systemd" / "OPERATIONS.md"
NOW = 1_800_000_000.0
YEAR = 365 * 86_400.0
BEACON = {"sequence": 5, "age_s": 0.4, "clock_age_s": 0.4, "toi": 0, "sbn": 0, "queued_bytes": 0, "closing": False}
GOOD: dict[str, Any] = {
    "state": "receiving",
    "running_s": 99.0,
    "silent_s": 0.2,
    "session": {"epoch": 1},
    "beacon": BEACON,
    "drops": {},
    "drops_recent": {"replayed": 3},
    "trouble": [],
    "lanes": [],
}
PUBLISH = {"state": "idle"}
BOUNDS = Alarms()


def facts(**changes: Any) -> Facts:
    given = {"now": NOW, "capture": GOOD, "capture_told": NOW - 1, "publish": PUBLISH, "publish_told": NOW - 1}
    return Facts(**(given | changes))


def capture(**changes: Any) -> Facts:
    return facts(capture=GOOD | changes)


def codes(given: Facts) -> list[str]:
    return [alarm.code for alarm in judge(given, BOUNDS)]


def test_nothing_is_alarming_when_all_is_well() -> None:
    assert codes(facts()) == []


LANE = {"datagrams": 1, "lost": 0, "path": "gro"}
CASES: list[tuple[str, Facts, str]] = [
    ("capture_down", facts(capture_told=NOW - 60), "last heard of 1 min ago"),
    ("capture_down", facts(capture={}, capture_told=0.0), "it never started"),
    ("capture_down", facts(capture_told=NOW + YEAR), "not heard of since the clock was set"),
    ("journal_stuck", facts(capture_told=NOW - 60, capture_at_work=True), "does not write its journal"),
    ("publish_down", facts(publish_told=NOW - 60), "publish is not running"),
    ("silence", capture(silent_s=31.0), "no datagram for 32 s"),
    ("silence", capture(silent_s=None), "no datagram ever"),
    ("lane_silent", capture(lanes=[LANE | {"last_datagram": NOW}, LANE | {"last_datagram": 0.0}]), "lane 1"),
    ("session_refused", capture(session=None, drops={"not_for_us": 2}), "dropped as not_for_us"),
    ("sender_frozen", capture(beacon=BEACON | {"age_s": 31.0, "clock_age_s": 31.0}), "no new beacon for 31 s"),
    ("sender_frozen", capture(beacon=BEACON | {"clock_age_s": 45.0}), "clock stands still for 45 s"),
    (
        "replay",
        capture(drops_recent={"stale_epoch": 12, "release_rolled_back": 1}),
        "1 release_rolled_back, 12 stale",
    ),
    ("release_conflict", capture(drops_recent={"release_conflict": 1}), "contradicts"),
    ("release_behind", facts(behind={"edge": (7, 601.0)}), "release edge 7 was heard of 10 min 1 s ago"),
    (
        "release_unapproved",
        facts(capture=GOOD | {"drops": {"release_unapproved": 1}}, gaps={"edge": 7}),
        "release edge 7 is heard of and not here",
    ),
    ("release_not_allowed", capture(drops={"sender_not_allowed": 2}), "refused as sender_not_allowed (2)"),
    ("release_unusable", facts(unusable={"edge 7": "no trusted signature"}), "release edge 7 is not used"),
    ("image_failed", facts(failed={"a@sha256:1": ("a:1", "401")}), "a:1: 401"),
    ("disk_failed", capture(trouble=[["disk_failed", "spool", "Read-only file system"]]), "spool: Read-only"),
    ("disk_low", capture(trouble=[["disk_low", "partial", "no room"]]), "partial: no room"),
    (
        "kernel_drops",
        facts(hour=Meter(datagrams=99, lost=9, kernel_drops=9, blocks=1)),
        "raise listen.receive_buffer",
    ),
    (
        "margin_low",
        facts(hour=Meter(datagrams=99_000, lost=1_000, blocks=9, worst=17, worst_of=20, worst_k=200)),
        "1.0 % lost, worst block used 17 of 20 repair symbols",
    ),
]


@pytest.mark.parametrize(("code", "given", "words"), CASES)
def test_each_alarm_stands_alone_and_says_what_is_wrong(code: str, given: Facts, words: str) -> None:
    [alarm] = judge(given, BOUNDS)
    assert alarm.code == code
    assert words in alarm.text
    assert set(alarm.document()) == {"code", "text", "subject", "since", "severity", "remedy"}


BORDER = {"image_held", "rejected_is_out", "audit_broken"}  # cases in tests/border
RETENTION = {"release_shrinks", "release_waits", "nothing_deleted"}  # cases in test_retention.py and test_activate.py


def test_every_alarm_has_a_case_here_and_a_row_in_the_manual() -> None:
    assert {code for code, _, _ in CASES} | BORDER | RETENTION == set(CATALOGUE)
    manual = MANUAL.read_text()
    assert [code for code in CATALOGUE if f"| `{code}` |" not in manual] == []


@pytest.mark.parametrize(
    "given",
    [
        facts(now=NOW + 5),
        capture(silent_s=29.0),
        capture(silent_s=None, running_s=3.0),  # just started
        facts(capture={}, capture_told=0.0, publish={}, publish_told=0.0),  # nothing was ever started
        facts(
            capture={"state": "stopped"}, capture_told=0.0, publish={"state": "stopped"}, publish_told=0.0
        ),  # by a person
        facts(behind={"edge": (7, 599.0)}),
        capture(beacon=BEACON | {"age_s": 29.0, "clock_age_s": 29.0}),
        capture(drops={"stale_epoch": 9}),  # long ago
        facts(hour=Meter(datagrams=99_000, lost=1_000, blocks=9, worst=15, worst_of=20, worst_k=200)),
        facts(hour=Meter(datagrams=9, blocks=9, blocks_lost=1, worst=1, worst_of=20, worst_k=200)),  # a session ended
    ],
)
def test_what_is_no_alarm(given: Facts) -> None:
    assert codes(given) == []


def test_only_what_leaves_work_undone_is_an_error() -> None:
    warnings = {code for code, kind in CATALOGUE.items() if kind.severity is Severity.WARNING}
    assert warnings == {"kernel_drops", "margin_low"}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[ReceiverJournal]:
    made = ReceiverJournal(tmp_path / "journal.sqlite")
    yield made
    made.close()


def test_an_alarm_begins_and_ends_once(journal: ReceiverJournal) -> None:
    watch = Watch(journal, BOUNDS)
    with structlog.testing.capture_logs() as logs:
        for second, silent in enumerate((1.0, 31.0, 32.0, 33.0, 0.1, 0.1)):
            watch.look(GOOD | {"silent_s": silent}, NOW + second)
            standing = StandingAlarms(journal).all()
            assert [alarm.since for alarm in standing.values()] == ([NOW + 1] if silent > 30 else [])
    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("alarm_raised", "silence"),
        ("alarm_cleared", "silence"),
    ]
    assert logs[0]["remedy"] == CATALOGUE["silence"].remedy
    assert [incident.event for incident in Incidents(journal).newest(9)] == ["alarm_cleared", "alarm_raised"]


def test_an_alarm_that_stood_when_the_process_died_is_not_raised_again(journal: ReceiverJournal) -> None:
    Watch(journal, BOUNDS).look(GOOD | {"silent_s": 31.0}, NOW)
    with structlog.testing.capture_logs() as logs:
        Watch(journal, BOUNDS).look(GOOD | {"silent_s": 41.0}, NOW + 10)
    assert logs == []
    assert [alarm.since for alarm in StandingAlarms(journal).all().values()] == [NOW]


def test_each_role_leaves_the_alarms_of_the_other_alone(journal: ReceiverJournal) -> None:
    held = Alarm("image_held", "a:1: held: no signature", "a@sha256:1")
    StandingAlarms(journal, BY_PUBLISH).settle([held], NOW)
    watch = Watch(journal, BOUNDS)
    watch.look(GOOD | {"silent_s": 31.0}, NOW)
    assert set(StandingAlarms(journal).all()) == {("image_held", "a@sha256:1"), ("silence", "")}
    StandingAlarms(journal, BY_PUBLISH).settle([], NOW)
    assert set(StandingAlarms(journal).all()) == {("silence", "")}
    watch.look(GOOD, NOW)
    assert StandingAlarms(journal).all() == {}


def test_behind_is_counted_by_the_running_process_whatever_the_clock_does(journal: ReceiverJournal) -> None:
    elapsed = [0.0]
    watch = Watch(journal, BOUNDS, clock=lambda: elapsed[0])
    hear(journal, "default", 3, "sha256:" + "3" * 64, NOW)
    for leap in (0.0, 30 * YEAR, -30 * YEAR):
        elapsed[0] += 200
        watch.look(GOOD, NOW + leap)
        assert StandingAlarms(journal).all() == {}
    hear(journal, "default", 4, "sha256:" + "4" * 64, NOW)  # newer ones do not begin it anew
    elapsed[0] += 300
    watch.look(GOOD, NOW)
    assert set(StandingAlarms(journal).all()) == {("release_behind", "default")}
    journal.save_release("default", 4, "sha256:" + "4" * 64, b"", NOW)
    watch.look(GOOD, NOW)
    assert StandingAlarms(journal).all() == {}


def test_the_last_hour_is_what_the_journal_has_of_it(journal: ReceiverJournal) -> None:
    bad = Meter(datagrams=900, lost=100, blocks=9, worst=20, worst_of=20, worst_k=200)
    Meters(journal).add(bad, NOW - 90 * 60)
    watch = Watch(journal, BOUNDS)
    watch.look(GOOD, NOW)
    assert set(StandingAlarms(journal).all()) == {("margin_low", "")}
    for minute in range(60):
        Meters(journal).add(replace(bad, lost=0, worst=0), NOW - minute * 60)
    watch.look(GOOD, NOW)
    assert StandingAlarms(journal).all() == {}


def test_the_clock_may_leap_and_roles_that_run_are_said_to_run() -> None:
    """A role tells twice a second: what it told before the leap is old for a moment, and no longer."""
    for leap in (10 * YEAR, -10 * YEAR):
        told = time.time() + leap
        assert codes(facts(now=told + 0.5, capture_told=told, publish_told=told)) == []
