"""The capture role with several lanes: real processes, blocks over any lane, and what happens when one is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.buffers import BlockBuffer, block_symbols
from protocol.encoder import Encoder
from protocol.objects import ObjectEntry
from protocol.outgoing import OutgoingBlock
from protocol.wire import BurstView
from tests.capture.rig import Cargo, Mouth, Side, Wire, end, is_symbol
from tests.support.content import digest_of, some_bytes
from tests.support.waits import process_gone, wait_for
from tests.transmit.rig import free_port

LANES = 2
BLOCK = 50 * 10 * 1424  # of Wire's profile
Start = Callable[[], "subprocess.Popen[bytes]"]


class Sender:
    """A session of two lanes; blocks are put on the lane that the test names."""

    def __init__(self, side: Side, epoch: int = 1, lanes: int = LANES) -> None:
        self.wire = Wire(side, epoch, lanes=lanes)
        self.encoders = [self.wire.session.encoder, *(self.wire.session.opening.encoder(n) for n in range(1, lanes))]
        self._view = BurstView(memoryview(bytearray(20 * 1472)), 1472, 20)
        self._mouths = [Mouth(side, lane) for lane in range(lanes)]
        self._now = 0.0
        self._side = side

    def begin(self, cargo: Cargo, lanes: tuple[int, ...] = (0, 1)) -> ObjectEntry:
        """Say on each lane what is to come."""
        entry = self.wire.session.entry_of(cargo.row(1))
        for lane in lanes:
            self.encoders[lane].set_upcoming([entry])
            while not self.encoders[lane].may_start(entry.toi):
                self.say(lane, self._burst(self.encoders[lane]))
        return entry

    def begin_heard(self, cargo: Cargo, lanes: tuple[int, ...] = (0, 1)) -> ObjectEntry:
        """The same, and wait until these lanes want the object: a real sender gives them the time to hear that."""
        entry = self.begin(cargo, lanes)
        wait_for(lambda: self._heard(entry, lanes))
        return entry

    def _heard(self, entry: ObjectEntry, lanes: tuple[int, ...]) -> bool:
        shown, _ = self._side.journal().live().get("capture", ({"objects": []}, 0))
        wanted = [each["digest"] for each in shown["objects"]]
        return entry.digest in wanted and all(
            shown["lanes"][lane]["datagrams"] >= self._side.said[lane] for lane in lanes
        )

    def block(self, cargo: Cargo, entry: ObjectEntry, sbn: int, lane: int) -> list[bytes]:
        """The datagrams of a block."""
        shape = entry.geometry.block(sbn)
        buffer = BlockBuffer(block_symbols(shape), entry.geometry.symbol_bytes)
        buffer.memory[: shape.size] = cargo.coded[shape.offset : shape.offset + shape.size]
        encoder, found = self.encoders[lane], []
        encoder.load(OutgoingBlock(entry, shape, buffer))
        while not encoder.wants_block:
            found += self._burst(encoder)
        return found

    def say_all(self, cargo: Cargo, entry: ObjectEntry) -> None:
        """Say every block, over each lane in turn."""
        for sbn in range(entry.geometry.blocks):
            self.say(sbn % LANES, self.block(cargo, entry, sbn, sbn % LANES))

    def say(self, lane: int, datagrams: list[bytes], port_of: int | None = None) -> None:
        self._mouths[lane if port_of is None else port_of].say(datagrams)

    def close(self) -> None:
        for mouth in self._mouths:
            mouth.close()

    def _burst(self, encoder: Encoder) -> list[bytes]:
        count = encoder.next_burst(self._view, self._now)
        self._now += 0.0002 if count else 0.005
        return [bytes(datagram) for datagram in self._view.datagrams[:count]]


@pytest.fixture
def side(tmp_path: Path) -> Side:
    made = Side(tmp_path)
    port = free_port(LANES)
    text = made.config.read_text().replace(f":{made.port}'", f":{port}', lanes: {LANES}")
    made.config.write_text(text)
    made.port = port
    return made


@pytest.fixture
def sender(side: Side) -> Iterator[Sender]:
    made = Sender(side)
    yield made
    made.close()


def counters(side: Side) -> dict[str, int]:
    return side.journal().counters()


def lane_pid(side: Side) -> int:
    return int(side.events("lane_started")[-1]["pid"])


def test_blocks_may_come_over_any_lane_and_come_once(side: Side, start: Start, sender: Sender) -> None:
    process = start()
    cargo = Cargo(some_bytes(8 * BLOCK - 1234))
    entry = sender.begin_heard(cargo)
    blocks = entry.geometry.blocks
    for sbn in range(blocks):
        if sbn != 3:  # as if an outage had swallowed it
            sender.say(sbn % 2, [d for i, d in enumerate(sender.block(cargo, entry, sbn, sbn % 2)) if i % 31])
    wait_for(lambda: counters(side).get("blocks") == blocks - 1)
    assert not side.spool.size(digest_of(cargo.coded))
    wait_for(lambda: sum(end - start for start, end in side.journal().ranges(digest_of(cargo.coded))) > 6 * BLOCK)
    for sbn in range(blocks):  # again, each over the other lane
        sender.say(1 - sbn % 2, sender.block(cargo, entry, sbn, 1 - sbn % 2))
    wait_for(lambda: side.spool.size(digest_of(cargo.coded)))
    side.spool.verify(digest_of(cargo.coded))
    assert end(process)[0] == 0
    told = counters(side)
    assert told["blocks"] == blocks, "each lane knew what had come over the other"
    assert told["repaired"] > 0
    assert not {name: count for name, count in told.items() if name.startswith("drop.") and count}
    lanes = side.journal().live()["capture"][0]["lanes"]
    assert [lane["path"] for lane in lanes] == ["gro", "gro"]
    assert sum(lane["datagrams"] for lane in lanes) == told["datagrams"]


def test_what_a_lane_has_in_flight_survives_the_end(side: Side, start: Start, sender: Sender) -> None:
    process = start()
    cargo = Cargo(some_bytes(3 * BLOCK))
    entry = sender.begin_heard(cargo)
    symbols = [d for d in sender.block(cargo, entry, 1, 1) if is_symbol(d)]
    first_codewords = [d for d in symbols if int.from_bytes(d[26:28], "little") < 4]
    sender.say(1, first_codewords)
    wait_for(lambda: counters(side).get("symbols", 0) > 0 and counters(side)["symbols"] >= 4 * 50)
    assert end(process)[0] == 0
    assert list(side.journal().ranges(digest_of(cargo.coded))) == [(BLOCK, BLOCK + 4 * 50 * 1424)]
    assert process_gone(lane_pid(side))


def test_an_old_session_stays_old_on_every_lane(side: Side, start: Start, sender: Sender) -> None:
    process = start()
    new, cargo = Sender(side, 7), Cargo(some_bytes(2 * BLOCK))
    new.begin(cargo, (0,))
    wait_for(lambda: side.events("session_joined"))
    entry = sender.begin(cargo, (1,))  # epoch 1, on the lane that has not heard of epoch 7
    sender.say(1, sender.block(cargo, entry, 0, 1))
    wait_for(lambda: counters(side).get("drop.stale_epoch"))
    assert counters(side).get("symbols", 0) == 0
    entry = new.begin_heard(cargo, (1,))
    new.say_all(cargo, entry)
    wait_for(lambda: side.spool.size(digest_of(cargo.coded)))
    new.close()
    assert end(process)[0] == 0
    assert [event["epoch"] for event in side.events("session_joined")] == [7]


def test_a_lane_that_found_an_old_session_first_gives_it_up(side: Side, start: Start, sender: Sender) -> None:
    """The role is held while lane 1 finds epoch 1; then it sees epoch 7 at its own socket before it hears of that."""
    process = start()
    new, cargo = Sender(side, 7), Cargo(some_bytes(2 * BLOCK))
    os.kill(process.pid, signal.SIGSTOP)
    new.begin(cargo, (0,))
    entry = sender.begin(cargo, (1,))
    sender.say(1, sender.block(cargo, entry, 0, 1))
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: counters(side).get("drop.unknown_session", 0) > 400)
    assert counters(side).get("symbols", 0) == 0
    assert [event["epoch"] for event in side.events("session_joined")] == [7]
    assert [epoch for epoch, _ in side.journal().epochs().values()] == [7]
    entry = new.begin_heard(cargo, (1,))
    new.say_all(cargo, entry)
    wait_for(lambda: side.spool.size(digest_of(cargo.coded)))
    new.close()
    assert end(process)[0] == 0


def test_a_session_may_be_found_by_any_lane_first(side: Side, start: Start, sender: Sender) -> None:
    process = start()
    cargo = Cargo(some_bytes(2 * BLOCK))
    entry = sender.begin_heard(cargo, (1,))
    wait_for(lambda: side.events("session_joined"))
    assert [epoch for epoch, _ in side.journal().epochs().values()] == [1]
    sender.begin_heard(cargo, (0,))
    sender.say_all(cargo, entry)
    wait_for(lambda: side.spool.size(digest_of(cargo.coded)))
    assert end(process)[0] == 0
    assert len(side.events("session_joined")) == 1


def test_crossed_lanes_are_counted_by_name(side: Side, start: Start, sender: Sender) -> None:
    process = start()
    cargo = Cargo(some_bytes(2 * BLOCK))
    entry = sender.begin(cargo)
    sender.say(0, sender.block(cargo, entry, 0, 0), port_of=1)
    wait_for(lambda: counters(side).get("drop.wrong_lane", 0) > 400)
    assert end(process)[0] == 0


def test_another_number_of_lanes_is_told_with_what_to_do(side: Side, start: Start) -> None:
    side.config.write_text(side.config.read_text().replace("lanes: 2", "lanes: 1"))
    process = start()
    sender = Sender(side)
    sender.begin(Cargo(b"x"), (0,))
    wait_for(lambda: side.events("lanes_differ"))
    sender.close()
    assert (side.events("lanes_differ")[0]["sender"], side.events("lanes_differ")[0]["receiver"]) == (2, 1)
    assert end(process)[0] == 0


def test_a_killed_lane_ends_the_role_with_a_word_about_it(side: Side, start: Start) -> None:
    process = start()
    os.kill(lane_pid(side), signal.SIGKILL)
    assert process.wait(10) == 1
    assert "lane 1: its process has ended (killed by SIGKILL)" in side.told()


def test_a_killed_role_leaves_no_lane_behind(side: Side, start: Start) -> None:
    process = start()
    pid = lane_pid(side)
    process.kill()
    process.wait()
    wait_for(lambda: process_gone(pid))


def test_sigterm_to_every_process_loses_nothing(side: Side, start: Start) -> None:
    process = start()
    os.kill(lane_pid(side), signal.SIGTERM)  # as systemd does
    time.sleep(0.2)
    assert process.poll() is None
    code, seconds = end(process)
    assert code == 0, side.told()
    assert seconds < 3


def test_a_taken_port_is_named(side: Side, start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", side.port + 1))
        with pytest.raises(AssertionError):  # it ends instead of listening
            start()
    assert f"cannot bind 127.0.0.1:{side.port + 1}" in side.told()
