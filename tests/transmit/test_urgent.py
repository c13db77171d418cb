"""Urgent blocks overtake bulk that was read ahead: real lanes over loopback, counted in blocks as they come."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.geometry import LinkProfile
from protocol.wire import HEADER, Type, symbol_bytes
from runtime import keys
from runtime.settings import load_settings
from runtime.signals import StopFlag
from sender.blocks import BUFFERS
from sender.config import SenderSettings
from sender.dispatch import Dispatch
from sender.far_lane import FarLane
from sender.journal import QueuedObject
from sender.lane import Lane
from sender.schedule import Rank, Schedule
from sender.session import Session
from tests.support.content import some_bytes
from tests.transmit.rig import Side, queued

DATAGRAM = 1472
PROFILE = LinkProfile(symbol_bytes(DATAGRAM), k=20, m=2, depth=2, outage=0)
BLOCK = 20 * 2 * PROFILE.symbol_bytes
BULK, URGENT = 1, 2  # object ids


class Wire:
    """A dispatch with its lanes, driven as the role does it, and what comes out at the far end."""

    def __init__(self, folder: Path, lanes: int, stack: ExitStack) -> None:
        # a block takes some 10 ms of a lane, many times what a lane needs to be told something
        side = Side(folder, rate=f"{50 * lanes}Mbit", lanes=lanes)
        side.config.write_text(side.config.read_text().replace(", lanes:", f", burst: {16 * lanes}kB, lanes:"))
        settings = load_settings(side.config, SenderSettings)
        self.folder = folder
        self.sockets = []
        for lane in range(lanes):
            ear = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
            ear.bind(("127.0.0.1", side.port + lane))
            ear.setblocking(False)
            self.sockets.append(ear)
        self.lane = Lane(settings.link)
        stack.callback(self.lane.close)
        self.far = [FarLane(settings, number) for number in range(1, lanes)]
        for far in self.far:
            stack.callback(far.close)
        session = Session(
            1,
            keys.load_signing_key(folder / "s.pem", created_by="test"),
            [keys.load_hpke_public(folder / "r.pub", created_by="test")],
            PROFILE,
            datagram_bytes=self.lane.link.datagram_bytes,
            datagrams_per_second=4_000,
            now=time.monotonic(),
            unix_now=time.time(),
            lanes=lanes,
        )
        self.session = session
        self.schedule = Schedule(PROFILE.geometry, 0)
        self.dispatch = Dispatch(self.schedule, 1_000_000)
        self.lane.open(session.opening, session.encoder)
        for far in self.far:
            far.open(session.opening)
        self.dispatch.open(session, [self.lane, *self.far])
        self.symbols: Counter[tuple[int, int]] = Counter()  # (object, block number), first come first
        self.passes: list[int] = []
        self.heard: Counter[tuple[int, int]] = Counter()  # (lane, type)
        self.until(lambda: all(self.heard[lane, Type.ANNOUNCEMENT] for lane in range(lanes)))

    def object(self, object_id: int, blocks: int, *, urgent: bool = False) -> QueuedObject:
        path = self.folder / str(object_id)
        path.write_bytes(some_bytes(blocks * BLOCK, object_id))
        return queued(object_id, blocks * BLOCK, path=path, urgent=urgent)

    def turn(self, stop: StopFlag) -> None:
        for far in self.far:
            far.listen()
        now = time.monotonic()
        self.dispatch.feed(now)
        if not self.lane.turn(now, stop):
            stop.wait(0.001)
        outcome = self.dispatch.collect(now)
        if outcome is not None:
            self.passes += [each.id for each in outcome.passes]
        for lane, ear in enumerate(self.sockets):
            while True:
                try:
                    fields = HEADER.unpack_from(ear.recv(2_000))
                except BlockingIOError:
                    break
                self.heard[lane, fields[2]] += 1
                if fields[2] == Type.SYMBOL:
                    self.symbols[(fields[5], fields[6])] += 1  # the session's number of an object is ours here

    def until(self, reached: Callable[[], bool]) -> None:
        stop, limit = StopFlag(), time.monotonic() + 30
        while not reached():
            assert time.monotonic() < limit, self.symbols
            self.turn(stop)

    def until_on_all_lanes(self) -> None:
        """Go on until each lane has a bulk block on the wire that is not its first, and has read ahead."""
        lanes = (self.lane, *self.far)
        datagrams = PROFILE.geometry(BLOCK).block(0).datagrams
        self.until(
            lambda: all(
                self.heard[number, Type.SYMBOL] > datagrams and len(lane.orders) == BUFFERS
                for number, lane in enumerate(lanes)
            )
        )

    def until_passed(self, *ids: int) -> None:
        self.until(lambda: sorted(self.passes) == sorted(ids) and not self.dispatch.busy)
        settled = time.monotonic() + 0.05
        self.until(lambda: time.monotonic() > settled)

    def begun(self, object_id: int) -> set[int]:
        return {sbn for each, sbn in self.symbols if each == object_id}


@pytest.fixture(params=[1, 2])
def wire(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(tmp_path, request.param, stack)


def sent_once(wire: Wire, row: QueuedObject) -> bool:
    geometry = PROFILE.geometry(row.coded_size)
    wanted = {(row.id, sbn): geometry.block(sbn).datagrams for sbn in range(geometry.blocks)}
    return {key: count for key, count in wire.symbols.items() if key[0] == row.id} == wanted


def test_the_last_block_of_an_urgent_object_leaves_before_the_third_next_bulk_block(wire: Wire) -> None:
    bulk, urgent = wire.object(BULK, 30), wire.object(URGENT, 4, urgent=True)
    wire.schedule.refresh([bulk])
    wire.until_on_all_lanes()
    before = wire.begun(BULK)
    wire.schedule.hurry([urgent])
    wire.dispatch.announce()
    wire.until(lambda: len(wire.begun(URGENT)) == 4)
    assert len(wire.begun(BULK) - before) <= len(wire.sockets), "each lane may have begun one just then"
    wire.until_passed(BULK, URGENT)
    assert sent_once(wire, bulk), "what was given back went later, once"
    assert sent_once(wire, urgent)


def test_bulk_held_back_stops_after_the_blocks_on_the_wire_and_goes_on_afterwards(wire: Wire) -> None:
    bulk, urgent = wire.object(BULK, 20), wire.object(URGENT, 2, urgent=True)
    wire.schedule.refresh([bulk])
    wire.until_on_all_lanes()
    before = wire.begun(BULK)
    wire.dispatch.hold(Rank.URGENT)
    wire.schedule.hurry([urgent])
    wire.until_passed(URGENT)
    held = wire.begun(BULK)
    assert len(held - before) < 3
    assert not wire.dispatch.busy
    wire.dispatch.hold(Rank.BULK)
    wire.until_passed(URGENT, BULK)
    assert sent_once(wire, bulk)
    assert sent_once(wire, urgent)


def test_a_repair_overtakes_urgent_blocks_and_sends_its_own_beside_the_objects_pass(wire: Wire) -> None:
    bulk, urgent = wire.object(BULK, 10), wire.object(URGENT, 20, urgent=True)
    wire.session.entry_of(bulk)  # the first TOI, though the other goes first
    repair = replace(bulk, id=-1, spans=((3 * BLOCK, 5 * BLOCK), (9 * BLOCK + 1, 9 * BLOCK + 2)))
    wire.schedule.refresh([bulk, urgent])
    wire.until(lambda: len(wire.begun(URGENT)) > len(wire.sockets))
    before = wire.begun(URGENT)
    wire.schedule.hurry([repair, urgent])
    wire.dispatch.announce()
    wire.until(lambda: wire.passes == [-1])
    assert len(wire.begun(URGENT) - before) <= 2 * len(wire.sockets), "on the wire, and on another lane meanwhile"
    datagrams = PROFILE.geometry(bulk.coded_size).block(0).datagrams
    assert {sbn: count for (toi, sbn), count in wire.symbols.items() if toi == BULK} == dict.fromkeys(
        [3, 4, 9], datagrams
    )
    wire.until_passed(-1, URGENT, BULK)
    assert {sbn: wire.symbols[BULK, sbn] // datagrams for sbn in range(10)} == {
        sbn: 2 if sbn in (3, 4, 9) else 1 for sbn in range(10)
    }
    assert sent_once(wire, urgent)
