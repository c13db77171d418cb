"""A journal that is damaged: set aside, begun anew, and nothing old is believed because of it."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from protocol.objects import Kind
from protocol.release import Release, payload_digest, payload_of, seal_release
from protocol.trust import ReleaseMark, TrustedSenders
from receiver import integrity
from receiver.floor import COPIES, Floor
from receiver.incidents import Incidents
from receiver.journal import ReceiverJournal
from receiver.partials import partial_of
from receiver.senders import Trust
from runtime.errors import UserError
from tests.capture.rig import Cargo, Mouth, Side, Wire
from tests.support.content import digest_of, some_bytes
from tests.support.waits import wait_for

Start = Callable[[], object]
SENDER = bytes(32)


def release(sequence: int, previous: str | None = None) -> tuple[str, bytes]:
    payload = payload_of(Release("default", sequence, previous, "2025-01-01T00:00:00Z", ()))
    return payload_digest(payload), payload


class State:
    """The state folder of a receiver that has received two releases and part of an object."""

    def __init__(self, side: Side, unnoted: int = 0) -> None:
        self.path = side.state / "journal.sqlite"
        side.state.mkdir()
        self.trust = Trust(TrustedSenders.of(side.signer.public_key()))
        self.data = some_bytes(300_000)
        journal = ReceiverJournal(self.path)
        previous = None
        for sequence in (1, 2):
            previous, payload = release(sequence, previous)
            journal.save_release("default", sequence, previous, seal_release(payload, side.signer), 1.0)
        self.newest = previous
        journal.save_epoch(SENDER, 9, b"s" * 16)
        journal.open_partial(partial_of(Cargo(self.data).entry()), 1.0)
        journal.save_ranges([(digest_of(self.data), [(0, 1000), (5000, 9000)])], 1.0)
        for number in range(unnoted):  # so that the file has pages of which some can be lost
            journal.note_unpacked(f"sha256:{number:064x}", 1.0)
        journal.close()

    def begin(self) -> Floor:
        return integrity.begin(self.path, self.trust)

    def flip(self, at: slice) -> None:
        data = bytearray(self.path.read_bytes())
        data[at] = random.Random(1).randbytes(len(data[at]))
        self.path.write_bytes(data)

    def aside(self) -> list[Path]:
        return sorted(path for path in self.path.parent.glob("journal.sqlite.damaged-*"))


@pytest.fixture
def state(side: Side) -> State:
    return State(side, unnoted=400)


def test_a_sound_journal_lifts_the_floor_once(state: State) -> None:
    floor = state.begin()
    assert floor.marks.epochs == {SENDER: (9, b"s" * 16)}
    assert floor.marks.releases == {"default": ReleaseMark(2, str(state.newest))}
    written = [(state.path.parent / name).stat().st_mtime_ns for name in COPIES]
    state.begin()
    assert [(state.path.parent / name).stat().st_mtime_ns for name in COPIES] == written
    assert state.aside() == []


def test_a_journal_that_is_no_journal_any_more_is_begun_anew_above_the_floor(state: State) -> None:
    state.begin()
    state.flip(slice(0, None))
    with structlog.testing.capture_logs() as logs:
        floor = state.begin()
    [told] = [entry for entry in logs if entry["event"] == "journal_replaced"]
    assert [str(path) for path in state.aside()] == [told["set_aside"]]
    assert floor.marks.epochs[SENDER][0] == 9
    journal = ReceiverJournal(state.path)
    assert journal.epochs() == {SENDER: (9, b"s" * 16)}
    assert journal.newest_marks() == {}
    [incident] = Incidents(journal).newest(10)
    assert (incident.event, incident.subject) == ("journal_replaced", state.aside()[0].name)
    journal.close()
    assert not [entry for entry in logs if "error" in entry and entry["event"] != "journal_replaced"]


def test_what_proves_itself_is_taken_over_from_a_damaged_journal(state: State) -> None:
    state.begin()
    size = state.path.stat().st_size
    state.flip(slice(size - 8192, size))  # the newest pages: of what was unpacked
    assert integrity.damage_of(state.path) is not None
    state.begin()
    journal = ReceiverJournal(state.path)
    assert journal.newest_marks() == {"default": (2, state.newest)}
    assert journal.ranges(digest_of(state.data)) == [(0, 1000), (5000, 9000)]
    journal.close()


def test_a_release_of_before_the_newest_is_not_made_the_desired_one(state: State, side: Side) -> None:
    """The newest one's row is lost: until it comes again, nothing is desired rather than something old."""
    state.begin()
    with sqlite3.connect(state.path) as connection:
        connection.execute("DELETE FROM releases WHERE sequence = 2")
    state.flip(slice(state.path.stat().st_size - 4096, None))
    state.begin()
    journal = ReceiverJournal(state.path)
    assert journal.newest_marks() == {}
    journal.close()


def test_journal_and_floor_both_lost_is_refused_with_the_way_out(state: State) -> None:
    state.begin()
    state.flip(slice(0, None))
    for name in COPIES:
        (state.path.parent / name).write_bytes(b"rot")
    with pytest.raises(UserError, match=r"is damaged .* restore them from a backup, or move them all away"):
        state.begin()
    assert state.path.exists()
    assert state.aside() == []


def test_a_lost_floor_is_made_again_from_a_sound_journal(state: State) -> None:
    state.begin()
    for name in COPIES:
        (state.path.parent / name).write_bytes(b"rot")
    with structlog.testing.capture_logs() as logs:
        assert state.begin().marks.epochs[SENDER][0] == 9
    assert [entry["copies"] for entry in logs if entry["event"] == "floor_damaged"] == [2]
    assert Floor(state.path.parent).sound == 2


def test_a_journal_that_is_gone_or_empty_is_named_and_begun_above_the_floor(state: State) -> None:
    state.begin()
    for gone in (False, True):
        state.path.unlink()
        if not gone:
            state.path.touch()
        with structlog.testing.capture_logs() as logs:
            assert state.begin().marks.epochs[SENDER][0] == 9
        assert [entry["event"] for entry in logs] == ["journal_lost"]
        journal = ReceiverJournal(state.path)
        assert journal.epochs() == {SENDER: (9, b"s" * 16)}
        journal.close()


def test_damage_twice_in_one_second_overwrites_nothing(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20250101T000000Z")
    for _ in range(3):
        state.begin()
        state.flip(slice(0, None))
    state.begin()
    assert [path.name.partition("damaged-")[2] for path in state.aside()] == [
        "20250101T000000Z",
        "20250101T000000Z-2",
        "20250101T000000Z-3",
    ]


def test_after_the_loss_the_same_release_is_taken_again_and_an_older_one_is_not(
    side: Side, start: Start, mouth: Mouth
) -> None:
    """The whole way: a capture process, its journal destroyed between two lives, and a replaying sender."""
    state = State(side)
    state.begin()
    state.flip(slice(0, None))
    start()
    first, second = (seal_release(release(n, release(1)[0] if n == 2 else None)[1], side.signer) for n in (1, 2))
    mouth.say(Wire(side, 10).send([Cargo(first, kind=Kind.RELEASE)]))
    wait_for(lambda: side.journal().counters().get("drop.release_rolled_back"))
    assert side.journal().newest_marks() == {}
    mouth.say(Wire(side, 11).send([Cargo(second, kind=Kind.RELEASE)]))
    wait_for(lambda: side.journal().newest_marks() == {"default": (2, state.newest)})
    incidents = wait_for(lambda: [i for i in Incidents(side.journal()).newest(9) if i.event == "object_dropped"])
    assert incidents[0].reason == "release_rolled_back"
