"""The transmit role as a process, heard by a real Decoder on loopback."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.objects import Kind
from protocol.release import open_release
from protocol.trust import TrustedSenders
from runtime import keys
from sender.decisions import Decisions
from sender.releases import Signer
from tests.support.content import digest_of, some_bytes
from tests.support.waits import wait_for
from tests.transmit.rig import Ear, Side, end, images_of

Start = Callable[..., "subprocess.Popen[bytes]"]


def test_once_sends_all_there_is_and_ends(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path)
    blobs = [some_bytes(size, seed) for seed, size in enumerate([1, 700, 30_000, 400_000, 3_000_000])]
    digests = [side.queue(blob) for blob in blobs]
    with Ear(side) as ear:
        assert start(side, once=True).wait(20) == 0, side.told()
        wait_for(lambda: set(digests) <= set(ear.objects))
        wait_for(lambda: any(beacon.closing for beacon in ear.beacons))
    assert [ear.content(digest) for digest in digests] == blobs
    journal = side.journal()
    assert journal.queue() == []
    assert journal.live()["transmit"][0]["state"] == "closed"


def test_once_ends_only_when_the_round_is_over_and_what_it_queued_has_left(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path)
    with Ear(side) as ear:
        process = start(side, once=True, token="round-7")
        wait_for(lambda: ear.sessions)
        time.sleep(0.7)
        assert process.poll() is None, "the round goes on"
        last = side.queue(some_bytes(500_000))
        journal = side.journal()
        Decisions(journal).propose("default", images_of("1"), "", time.time())
        journal.finish_round("round-7", 0, time.time())
        assert process.wait(10) == 0
        wait_for(lambda: last in ear.objects)
    assert Kind.RELEASE in ear.kinds.values()
    assert journal.queue() == []


def test_an_idle_role_sends_control_traffic_and_its_release_only(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path)
    Decisions(side.journal()).propose("default", images_of("1"), "", time.time())
    with Ear(side) as ear:
        process = start(side)
        wait_for(lambda: ear.kinds)
        wait_for(lambda: len(ear.beacons) > 3 and ear.beacons[-1].newest and ear.beacons[-1].newest[0].toi)
        assert end(process)[0] == 0
    assert list(ear.kinds.values()) == [Kind.RELEASE]
    [digest] = ear.objects
    signer = keys.load_signing_key(tmp_path / "s.pem", created_by="test")
    signed = open_release(ear.content(digest), TrustedSenders.of(signer.public_key()))
    assert ear.beacons[-1].newest[0].digest == signed.digest
    assert ear.decoder.counters.symbols + ear.decoder.counters.surplus < 100


def test_an_unreadable_object_is_named_forgotten_and_does_not_stop_the_others(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path)
    one = side.queue(some_bytes(1_000, 1))
    bad = side.queue(some_bytes(2_000_000, 2), label="bad layer")
    (tmp_path / bad[7:]).write_bytes(b"short")
    with Ear(side) as ear:
        process = start(side)
        wait_for(lambda: one in ear.objects)
        journal = side.journal()
        wait_for(lambda: journal.not_carried([one, bad]) == [bad])
        # fetch prepares it again; SQLite gives the new row the id of the one that was dropped
        assert side.queue(some_bytes(2_000_000, 2), label="bad layer") == bad
        wait_for(lambda: bad in ear.objects)
        third = side.queue(some_bytes(900, 3))
        wait_for(lambda: third in ear.objects)
        assert end(process)[0] == 0
    assert ear.content(bad) == some_bytes(2_000_000, 2)
    assert "object_unreadable" in side.told()
    assert "bad layer" in side.told()
    assert "Traceback" not in side.told()


def test_a_release_whose_file_is_gone_is_made_again(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, more="repeats: {release_every: 300ms, spacing: 10ms}\n")
    Decisions(side.journal()).propose("default", images_of("1"), "", time.time())
    coded = tmp_path / "state" / "coded"
    process = start(side)
    wait_for(lambda: len(side.passes()) >= 4)
    for path in coded.iterdir():
        path.unlink()
    other = side.queue(some_bytes(1_000_000), label="other")  # or the reader would keep the file open
    wait_for(lambda: "other" in side.passes())
    assert other
    wait_for(lambda: "object_unreadable" in side.told())
    heard = len(side.passes())
    wait_for(lambda: len(side.passes()) >= heard + 3)
    assert [path.is_file() for path in coded.iterdir()] == [True]
    assert end(process)[0] == 0


def test_a_crash_between_signing_and_queueing_heals(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path)
    signer = keys.load_signing_key(tmp_path / "s.pem", created_by="test")
    journal = side.journal()
    Decisions(journal).propose("default", images_of("1"), "", time.time())
    Signer(journal, signer).sign_approved()
    assert journal.queue() == []
    with Ear(side) as ear:
        assert start(side, once=True).wait(10) == 0
        wait_for(lambda: Kind.RELEASE in ear.kinds.values())
    assert [row.sequence for row in journal.newest_releases()] == [1]


@pytest.mark.parametrize("rate", ["200Mbit", "100kbit"])
def test_sigterm_ends_within_two_seconds_with_the_state_saved(tmp_path: Path, start: Start, rate: str) -> None:
    side = Side(tmp_path, rate=rate)
    done = side.queue(b"small")
    side.queue(some_bytes(60_000_000))
    with Ear(side) as ear:
        process = start(side)
        wait_for(lambda: done in ear.objects, 20)
        time.sleep(0.3)
        code, seconds = end(process)
    assert code == 0
    assert seconds < 2
    journal = side.journal()
    assert [row.passes_left for row in journal.queue()] == [1], "the one that is not through stays queued"
    assert journal.live()["transmit"][0]["state"] == "closed"


def test_an_idle_link_repeats_the_desired_state_oldest_first(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, more="repeats: {carousel: 300ms, spacing: 10ms}\n")
    one, two = side.queue(b"1" * 900, label="one"), side.queue(b"2" * 900, label="two")
    side.queue(b"not desired", label="stray", contents=())
    journal = side.journal()
    journal.connection.execute("DELETE FROM carried")
    for digest, content in ((one, b"a"), (two, b"b")):
        row = journal.connection.execute("SELECT id FROM objects WHERE digest = ?", (digest,)).fetchone()
        journal.connection.execute("INSERT INTO carried VALUES (?, ?)", (digest_of(content), row[0]))
    Decisions(journal).propose("default", images_of("a", "b"), "", time.time())
    process = start(side)
    wait_for(lambda: side.passes().count("one") >= 4 and side.passes().count("two") >= 4)
    # what is queued after the release was signed belongs to it as well
    Decisions(journal).propose("default", images_of("a", "b", "c"), "", time.time())
    wait_for(lambda: journal.newest_releases()[0].sequence == 2)
    wait_for(lambda: side.passes().count("release default 2") >= 3)
    side.queue(b"3" * 900, label="late", contents=[digest_of(b"c")])
    wait_for(lambda: side.passes().count("late") >= 3)
    assert end(process)[0] == 0
    repeated = [label for label in side.passes() if label in ("one", "two")]
    rounds = [set(pair) for pair in zip(repeated[::2], repeated[1::2], strict=False)]
    assert all(pair == {"one", "two"} for pair in rounds), "each once before one comes again"
    assert side.passes().count("stray") == 1


def test_once_never_repeats(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, more="repeats: {carousel: 1ms}\n")
    side.queue(b"x" * 900, label="one")
    assert start(side, once=True).wait(10) == 0
    assert side.passes() == ["one"]


def test_a_worn_session_gives_way_to_the_next_in_the_middle_of_an_object(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(
        "import sender.session\nsender.session.SESSION_DATAGRAMS_MAX = 5_000\n"
    )
    side.modules = tmp_path
    Decisions(side.journal()).propose("default", images_of("1"), "", time.time())
    big = side.queue(some_bytes(40_000_000))
    with Ear(side) as ear:
        assert start(side, once=True).wait(30) == 0, side.told()
        wait_for(lambda: big in ear.objects)
        wait_for(lambda: ear.beacons[-1].closing)
    assert ear.content(big) == some_bytes(40_000_000)
    epochs = [parameters.epoch for parameters in ear.sessions]
    assert len(epochs) >= 3
    assert epochs == sorted(set(epochs))
    assert ear.beacons[-1].newest[0].toi > 0, "the last session carries the release as well"


def test_a_locked_journal_or_a_full_disk_does_not_end_the_role(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path)
    side.journal().close()
    with Ear(side) as ear:
        process = start(side)
        wait_for(lambda: ear.beacons)
        blocker = sqlite3.connect(tmp_path / "state" / "journal.sqlite", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        wait_for(lambda: "journal_failed" in side.told())
        heard = len(ear.beacons)
        wait_for(lambda: len(ear.beacons) >= heard + 2)
        blocker.execute("ROLLBACK")
        blob = side.queue(some_bytes(1_000))
        wait_for(lambda: blob in ear.objects)
        wait_for(lambda: "journal_works_again" in side.told())
        assert end(process)[0] == 0


def test_a_second_role_is_refused_and_takes_no_session_from_the_first(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path)
    with Ear(side) as ear:
        first = start(side)
        wait_for(lambda: ear.sessions)
        second = start(side, once=True)
        assert second.wait(10) == 1
        time.sleep(0.5)
        assert len(ear.sessions) == 1
        assert end(first)[0] == 0
    assert f"{tmp_path}/state: a transmit role is at work here already; stop it first" in side.told()
    assert side.journal().epoch() == 1


def test_what_a_killed_write_left_behind_is_removed_at_the_start(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path)
    coded = tmp_path / "state" / "coded"
    coded.mkdir(parents=True)
    names = {".0123.89abcdef.tmp", "0123", ".temp-of-fetch"}
    for name in names:
        (coded / name).write_bytes(b"x")
    assert start(side, once=True).wait(20) == 0, side.told()
    assert {path.name for path in coded.iterdir()} == names - {".0123.89abcdef.tmp"}
