"""The capture process while its disk fails in every way: named, nothing lost that was received, and it goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.objects import Kind
from protocol.release import Release, payload_of, seal_release
from protocol.wire import Type
from receiver.floor import COPIES, Floor
from receiver.incidents import Incidents
from receiver.watch import StandingAlarms
from tests.capture.rig import ROOT, Cargo, Mouth, Side, Wire, end, zstd
from tests.support.content import digest_of, some_bytes
from tests.support.waits import wait_for

Start = Callable[[], "subprocess.Popen[bytes]"]


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode:
        pytest.skip("cannot mount here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def here(side: Side, *datas: bytes) -> bool:
    return all(side.spool.size(digest_of(data)) == len(data) for data in datas)


def alarms(side: Side) -> set[str]:
    journal = side.journal()
    try:
        return {code for code, _ in StandingAlarms(journal).all()}
    finally:
        journal.close()


def test_below_the_reserve_small_things_and_releases_come_in_and_the_large_waits_for_room(
    side: Side, start: Start, mouth: Mouth
) -> None:
    side.config.write_text(side.config.read_text() + "limits: {disk_reserve: 10MB}\nalarms: {silence: 1h}\n")
    with mounted(side.state, "-t", "tmpfs", "-o", "size=24m", "tmpfs"):
        process = start()
        large, packed, small = some_bytes(3_000_000, 1), bytes(9_000_000), some_bytes(30_000, 2)
        envelope = seal_release(payload_of(Release("default", 1, None, "2025-01-01T00:00:00Z", ())), side.signer)
        wire = Wire(side)
        mouth.say(wire.idle(0.2))
        wait_for(lambda: side.events("session_joined"))
        ballast = side.state / "ballast"
        ballast.write_bytes(bytes(13_000_000))
        cargo = [Cargo(large), zstd(packed), Cargo(envelope, kind=Kind.RELEASE), Cargo(small)]
        mouth.say(wire.send(cargo))  # once: nothing may be lost
        wait_for(lambda: here(side, small) and side.journal().newest_marks())
        wait_for(lambda: side.events("disk_low"))
        wait_for(lambda: "disk_low" in alarms(side))
        assert not here(side, large)
        free = os.statvfs(side.state)
        assert free.f_bavail * free.f_frsize > 8_000_000, "the reserve is still there for journal and releases"
        ballast.unlink()
        wait_for(lambda: here(side, large, packed), 20)
        side.spool.verify(digest_of(large))
        wait_for(lambda: not alarms(side), 20)
        wait_for(lambda: side.events("alarm_cleared"))  # logged once the journal has it
        assert {event["code"] for event in side.events("alarm_cleared")} == {"disk_low"}
        assert not side.journal().counters().get("drop.no_room")
        assert end(process)[0] == 0


def test_something_in_the_way_of_the_spool_is_named_and_waited_for(side: Side, start: Start, mouth: Mouth) -> None:
    process = start()
    blobs = side.state / "spool" / "blobs"
    blobs.parent.mkdir(exist_ok=True)
    blobs.write_text("in the way of the folder")
    small, large = some_bytes(9_000, 1), some_bytes(3_000_000, 2)
    mouth.say(Wire(side).send([Cargo(large), Cargo(small)]))
    told = wait_for(lambda: side.events("disk_failed"))
    assert "blobs" in told[0]["error"]
    wait_for(lambda: "disk_failed" in alarms(side))
    assert process.poll() is None, side.told()
    blobs.unlink()
    wait_for(lambda: here(side, small, large))
    side.spool.verify(digest_of(large))
    wait_for(lambda: side.events("disk_works_again"))
    wait_for(lambda: "disk_failed" not in alarms(side))


def test_a_read_only_spool_is_named_and_waited_for(side: Side, start: Start, mouth: Mouth) -> None:
    spool = side.state / "spool"
    with mounted(spool, "-t", "tmpfs", "tmpfs"):
        process = start()
        subprocess.run(["mount", "-o", "remount,ro", str(spool)], check=True)
        data = some_bytes(9_000)
        mouth.say(Wire(side).send([Cargo(data)]))
        told = wait_for(lambda: side.events("disk_failed"))
        assert "Read-only" in told[0]["error"]
        assert process.poll() is None
        subprocess.run(["mount", "-o", "remount,rw", str(spool)], check=True)
        wait_for(lambda: here(side, data))
        end(process)


def test_folders_that_vanish_are_made_again_and_what_was_in_them_received_again(
    side: Side, start: Start, mouth: Mouth
) -> None:
    process = start()
    one, two = some_bytes(400_000, 1), some_bytes(3_000_000, 2)
    wire = Wire(side)
    mouth.say(wire.send([Cargo(one)]))
    wait_for(lambda: here(side, one))
    shutil.rmtree(side.state / "spool")
    shutil.rmtree(side.state / "partial")
    wait_for(lambda: side.events("object_gone"))
    mouth.say(wire.send([Cargo(one), Cargo(two)]))
    wait_for(lambda: here(side, one, two))
    assert process.poll() is None


@pytest.mark.parametrize("vanished", ["journal", "state"])
def test_a_journal_that_vanishes_ends_the_process_and_the_next_knows_what_is_old(
    side: Side, start: Start, mouth: Mouth, vanished: str
) -> None:
    process = start()
    wire = Wire(side, 5)
    mouth.say(wire.idle(0.3))
    wait_for(lambda: side.events("session_joined"))
    if vanished == "state":
        shutil.rmtree(side.state)
    else:
        (side.state / "journal.sqlite").unlink()
    assert process.wait(10) == 1
    assert side.events("journal_gone")
    start()
    assert {path.name for path in side.state.iterdir()} >= {*COPIES, "journal.sqlite"}
    mouth.say(Wire(side, 4).idle(0.3))
    wait_for(lambda: side.journal().counters().get("drop.stale_epoch"))
    assert [epoch for epoch, _ in Floor(side.state).marks.epochs.values()] == [5]


def test_a_flipped_bit_in_a_partial_file_is_named_and_the_object_comes_again(
    side: Side, start: Start, mouth: Mouth
) -> None:
    process = start()
    data = some_bytes(3_000_000)
    wire = Wire(side)
    sent = wire.send([Cargo(data)])
    mouth.say(sent[: len(sent) * 6 // 10])
    [(start_of, _), *_] = wait_for(lambda: side.journal().ranges(digest_of(data)))
    end(process)
    with side.partials()[0].open("r+b") as file:
        file.seek(start_of + 100)
        byte = file.read(1)
        file.seek(start_of + 100)
        file.write(bytes((byte[0] ^ 4,)))
    start()
    second = Wire(side, 2)
    mouth.say(second.send([Cargo(data)]))
    [incident] = wait_for(lambda: [i for i in Incidents(side.journal()).newest(9) if i.event == "object_dropped"])
    assert (incident.subject, incident.reason) == (digest_of(data), "coded_digest_mismatch")
    assert not here(side, data)
    mouth.say(second.send([Cargo(data)]))
    wait_for(lambda: here(side, data))
    side.spool.verify(digest_of(data))


def test_a_session_counts_when_its_epoch_is_on_disk_and_not_before(side: Side, start: Start, mouth: Mouth) -> None:
    with mounted(side.state, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        process = start()
        ballast = side.state / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4_096))
        data = some_bytes(9_000)
        mouth.say(Wire(side, 3).send([Cargo(data)]))  # waits in the kernel's buffer
        wait_for(lambda: side.events("journal_failed"))
        time.sleep(0.3)
        assert side.events("session_joined") == []
        assert Floor(side.state).marks.epochs == {}
        assert not here(side, data)
        ballast.unlink()
        wait_for(lambda: here(side, data))
        assert [epoch for epoch, _ in Floor(side.state).marks.epochs.values()] == [3]
        assert end(process)[0] == 0


def test_two_captures_in_one_state_folder_are_refused(side: Side, start: Start, tmp_path: Path) -> None:
    start()
    side.config.write_text(side.config.read_text().replace(f"127.0.0.1:{side.port}", "127.0.0.1:0"))
    code = (
        "from runtime.settings import load_settings; from receiver.config import ReceiverSettings;"
        f"from receiver.capture import main; main(load_settings({str(side.config)!r}, ReceiverSettings))"
    )
    found = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=20,
    )
    assert "a capture role is at work here already" in found.stderr


def test_alarms_are_raised_and_cleared_by_the_process_itself(side: Side, start: Start, mouth: Mouth) -> None:
    """Silence, then a session played again, then a sender whose beacons stand still."""
    side.config.write_text(side.config.read_text() + "alarms: {silence: 1s}\n")
    start()
    wire = Wire(side, 5)
    mouth.say(wire.idle(0.5))
    wait_for(lambda: [event for event in side.events("alarm_raised") if event["code"] == "silence"])
    assert alarms(side) == {"silence"}
    mouth.say(Wire(side, 4).idle(0.3))
    until = time.monotonic() + 12
    while not {"replay", "sender_frozen"} <= {event["code"] for event in side.events("alarm_raised")}:
        assert time.monotonic() < until, side.told()
        mouth.say(datagram for datagram in wire.idle(0.2) if datagram[3] != Type.BEACON)
        time.sleep(0.2)
    wait_for(lambda: [event for event in side.events("alarm_cleared") if event["code"] == "silence"])
    noted = {(incident.event, incident.reason) for incident in Incidents(side.journal()).newest(20)}
    assert {("alarm_raised", "silence"), ("alarm_cleared", "silence"), ("alarm_raised", "replay")} <= noted
