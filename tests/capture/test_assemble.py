"""The threads between receive loop and disk: full disks, bounded queues, figures for status."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.beacon import Newest
from protocol.buffers import BlockBuffer, whole_symbols
from protocol.incoming import IncomingBlock, IncomingObject
from receiver import assemble
from receiver import ledger as ledger_module
from receiver.assemble import Assembler
from receiver.journal import ReceiverJournal
from receiver.ledger import Ledger
from receiver.partial_files import Bounds
from receiver.results import BlockWritten, ObjectTaken, PartialForgotten
from receiver.room import Reserve
from receiver.senders import Trust
from tests.capture.rig import Cargo, Mouth, Side, Wire, end, rss_bytes
from tests.support.content import digest_of, some_bytes
from tests.support.waits import wait_for

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def tiny(side: Side) -> Iterator[Path]:
    """The side's state on a file system of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    side.state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(side.state)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    yield side.state
    subprocess.run(["umount", "-l", str(side.state)], check=True)


def fill(folder: Path) -> Path:
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4_096))
        except OSError:
            pass
    return path


def test_a_full_disk_is_waited_for_and_nothing_received_is_lost(
    side: Side, tiny: Path, start: Start, mouth: Mouth
) -> None:
    process = start()
    small, large = some_bytes(40_000, 1), some_bytes(3_000_000, 2)
    wire = Wire(side)
    mouth.say(wire.idle(0.2))
    wait_for(lambda: side.events("session_joined"))
    wait_for(lambda: side.journal().counters().get("datagrams"))
    ballast = fill(tiny)
    mouth.say(wire.send([Cargo(small), Cargo(large)]))  # once: what is lost now would be missing
    wait_for(lambda: side.events("disk_failed"))
    time.sleep(0.3)
    assert process.poll() is None, side.told()
    assert rss_bytes(process) < 300 << 20
    ballast.unlink()
    wait_for(lambda: side.spool.size(digest_of(small)) and side.spool.size(digest_of(large)), 20)
    side.spool.verify(digest_of(large))
    wait_for(lambda: not side.partials())
    assert end(process)[0] == 0
    journal = ReceiverJournal(tiny / "journal.sqlite")
    assert journal.counters()["datagrams"] == journal.live()["capture"][0]["datagrams"]
    journal.close()


def test_with_the_disk_full_it_still_ends_when_told_to(side: Side, tiny: Path, start: Start, mouth: Mouth) -> None:
    process = start()
    wire = Wire(side)
    mouth.say(wire.idle(0.2))
    wait_for(lambda: side.events("session_joined"))
    fill(tiny)
    mouth.say(wire.send([Cargo(some_bytes(3_000_000))]))
    wait_for(lambda: side.events("disk_low"))
    _, seconds = end(process)
    assert seconds < 8


@pytest.fixture
def assembler(side: Side) -> Iterator[Assembler]:
    side.state.mkdir()
    made = Assembler(
        side.spool, side.state / "partial", side.state / "journal.sqlite", Trust(side.trusted), Bounds(1 << 30)
    )
    made.start()
    yield made
    made.stop()


def test_whole_objects_in_memory_wait_within_a_bound(assembler: Assembler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "WAITING_BYTES_MAX", 100_000)
    most = 0
    for number in range(40):
        cargo = Cargo(some_bytes(30_000, number))
        assembler._from_memory(IncomingObject(cargo.entry(), b"s"), cargo.coded)
        most = max(most, assembler._waiting_bytes)
    assert most <= 100_000
    wait_for(lambda: len(assembler.results) == 40)
    assert all(isinstance(result, ObjectTaken) for result in assembler.results)
    assert assembler._waiting_bytes == 0
    assert not assembler._taking


def complete(owner: IncomingObject, sbn: int, content: bytes) -> IncomingBlock:
    """A block as the decoder hands it over when nothing was lost."""
    geometry = owner.entry.geometry
    block = IncomingBlock(owner, sbn, BlockBuffer(whole_symbols(geometry), geometry.symbol_bytes))
    block.buffer.memory[: len(content)] = content
    for place in range(block.shape.symbols):
        block.mark(place, place // block.shape.k)
    assert block.complete
    return block


def test_finished_bytes_are_never_written_again(assembler: Assembler) -> None:
    """They are hashed behind the writer: what comes later in their place would go unseen."""
    cargo = Cargo(some_bytes(3_000_000))
    owner = IncomingObject(cargo.entry(), b"s")
    shapes = [owner.entry.geometry.block(sbn) for sbn in range(owner.entry.geometry.blocks)]
    assert len(shapes) > 2
    contents = [cargo.coded[shape.offset : shape.offset + shape.size] for shape in shapes]
    for sbn, content in enumerate(contents[:-1]):
        assert not assembler.put(complete(owner, sbn, content))
    digest = cargo.entry().coded_digest
    runs = assembler._digests._runs
    wait_for(lambda: digest in runs and runs[digest].head.size == shapes[-1].offset)
    assembler.put(complete(owner, 0, bytes(shapes[0].size)))
    assembler.put(complete(owner, len(shapes) - 1, contents[-1]))
    wait_for(lambda: any(isinstance(result, ObjectTaken) for result in assembler.results))
    assert sum(isinstance(result, BlockWritten) for result in assembler.results) == len(shapes) + 1
    assembler.spool.verify(digest)


def test_a_block_of_which_nothing_can_be_restored_takes_no_room(assembler: Assembler) -> None:
    owner = IncomingObject(Cargo(some_bytes(3_000_000)).entry(), b"s")
    geometry = owner.entry.geometry
    empty = IncomingBlock(owner, 0, BlockBuffer(whole_symbols(geometry), geometry.symbol_bytes))
    assert not assembler.put(empty)
    [result] = wait_for(lambda: list(assembler.results))
    assert result == BlockWritten(empty, ())
    assert list(assembler.partial.iterdir()) == []


def test_blocks_wait_for_room_within_a_bound_and_the_oldest_are_dropped(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "RETRY_S", 0.1)
    monkeypatch.setattr(assemble, "SYNC_S", 0.05)
    side.state.mkdir()
    paths = side.state / "partial", side.state / "journal.sqlite"
    made = Assembler(side.spool, *paths, Trust(side.trusted), Bounds(1 << 30, reserve=1 << 60))
    made.start()
    cargo = Cargo(some_bytes(3_000_000))
    owner = IncomingObject(cargo.entry(), b"s")
    shapes = [owner.entry.geometry.block(sbn) for sbn in range(5)]
    monkeypatch.setattr(assemble, "PARKED_BYTES_MAX", 2 * shapes[0].size)
    blocks = [complete(owner, s.sbn, cargo.coded[s.offset : s.offset + s.size]) for s in shapes]
    for block in blocks:
        made.put(block)
    wait_for(lambda: len(made.results) == 3)
    assert list(made.results) == [BlockWritten(block, (), no_room=True) for block in blocks[:3]]
    assert made.trouble.document()[0][:2] == ("disk_low", "partial")
    made._files.reserve = Reserve(paths[0], 0)
    wait_for(lambda: len(made.results) == 5)
    assert [result.ranges for result in list(made.results)[3:]] == [
        ((s.offset, s.offset + s.size),) for s in shapes[3:]
    ]
    assert made.trouble.document() == []
    made.stop()
    journal = ReceiverJournal(paths[1])
    assert journal.ranges(digest_of(cargo.coded)) == [(shapes[3].offset, shapes[4].offset + shapes[4].size)]
    journal.close()


def test_partial_objects_grow_old_while_the_link_lives_and_only_then(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "AGE_STEP_S", 0.05)
    monkeypatch.setattr(assemble, "SYNC_S", 0.05)
    side.state.mkdir()
    paths = side.state / "partial", side.state / "journal.sqlite"
    made = Assembler(side.spool, *paths, Trust(side.trusted), Bounds(1 << 30, age=100.0))
    made.start()
    cargo = Cargo(some_bytes(3_000_000))
    owner = IncomingObject(cargo.entry(), b"s")
    shape = owner.entry.geometry.block(0)
    made.put(complete(owner, 0, cargo.coded[: shape.size]))
    journal = ReceiverJournal(paths[1])
    wait_for(lambda: journal.ranges(digest_of(cargo.coded)))
    made.live_s += 99
    time.sleep(0.5)
    assert len(list(paths[0].iterdir())) == 1
    made.live_s += 2
    wait_for(lambda: not list(paths[0].iterdir()))
    forgotten = wait_for(lambda: [each for each in made.results if isinstance(each, PartialForgotten)])
    assert [(each.partial.digest, each.reason) for each in forgotten] == [
        (digest_of(cargo.coded), "limits.partial_age")
    ]
    assert journal.partials() == []
    journal.close()
    made.stop()


def test_the_ledger_keeps_only_the_newest_while_the_journal_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = ReceiverJournal(path)
    journal.note_capture(None, {"datagrams": 100}, {}, 1.0)
    ledger = Ledger(path)
    ledger.start()
    ledger.publish({"n": 0}, {"datagrams": 5, "lost": 3})
    wait_for(lambda: journal.counters() == {"datagrams": 105, "lost": 3})
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    for number in range(1, 5_000):
        ledger.publish({"n": number}, {"datagrams": 5 + number, "lost": 2})
        ledger.heard([Newest("default", number, "sha256:" + "a" * 64, 0)], 1.0)
    assert time.monotonic() - begun < 1, "nobody waits for the lock"
    locker.execute("ROLLBACK")
    ledger.stop()
    assert not ledger.alive
    assert journal.counters() == {"datagrams": 100 + 5 + 4_999, "lost": 2}, "a late datagram is no longer lost"
    assert journal.live()["capture"][0] == {"n": 4_999}
    assert journal.heard()["default"][0] == 4_999
    journal.close()


def test_a_journal_that_is_damaged_while_it_is_used_ends_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "CHECK_S", 0.0)
    path = tmp_path / "journal.sqlite"
    journal = ReceiverJournal(path)
    for number in range(500):
        journal.note_unpacked(f"sha256:{number:064x}", 1.0)
    journal.close()
    ledger = Ledger(path)
    ledger.start()
    ledger.publish({"n": 0}, {"datagrams": 5})
    time.sleep(0.3)
    assert ledger.alive
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"rot" * 5_000)
    ledger.publish({"n": 1}, {"datagrams": 6})
    wait_for(lambda: not ledger.alive)


def test_thousands_of_small_objects_come_through_in_one_pass() -> None:
    """On a file system in memory, so that the figures are ours and not the disk's."""
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        pytest.skip("no /dev/shm")
    side = Side(folder / f"checkvalve-{os.getpid()}")
    process = None
    try:
        process, mouth = side.start(), Mouth(side)
        cargo = [Cargo(b"small object %d " % number * 8) for number in range(2_000)]
        mouth.say(Wire(side).send(cargo))
        mouth.close()
        wait_for(lambda: len(list(side.spool.digests())) == len(cargo), 30)
        assert side.partials() == []
        assert rss_bytes(process) < 300 << 20
        assert end(process)[0] == 0
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(side.folder)
