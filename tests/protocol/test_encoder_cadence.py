"""What the encoder sends and when: lead-in, table before symbols, beacons, packet numbers used once."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.beacon import Newest, parse_beacon
from protocol.buffers import BlockBuffer
from protocol.encoder import Cadence, Encoder
from protocol.errors import ProtocolMisuse
from protocol.geometry import checked
from protocol.outgoing import OutgoingBlock
from protocol.wire import HEADER, LANE_SHIFT, BurstView, Type
from tests.protocol.harness import bursts_of, encoder_of, entry_of, split
from tests.vectors import definition
from tests.vectors import session as s

SESSION = s.Session()
CONTENT = definition.pattern(20_000)
ENTRY = entry_of(CONTENT, checked(len(CONTENT), 512, 8, 3, 2))


def headers(datagrams: list[bytes]) -> list[tuple[int, ...]]:
    return [HEADER.unpack(datagram[:32])[1:] for datagram in datagrams]


def kinds(encoder: Encoder, now: float, most: int = 64) -> Counter[Type]:
    """Return what is due at *now*, by type, without blocks."""
    view = BurstView(memoryview(bytearray(560 * most)), 560, most)
    count = encoder.next_burst(view, now)
    return Counter(Type(view.headers[index][3]) for index in range(count))


def test_the_lead_in_repeats_announcement_beacon_and_table() -> None:
    encoder = encoder_of(SESSION)
    encoder.set_upcoming([ENTRY])
    cadence = Cadence()
    for copy in range(cadence.lead_in_copies):
        assert not encoder.may_start(ENTRY.toi)
        found = kinds(encoder, copy * cadence.lead_in)
        assert found == {Type.ANNOUNCEMENT: 1, Type.BEACON: 1, Type.OBJECTS: 1}, copy
    assert encoder.may_start(ENTRY.toi)
    assert not encoder.may_start(2)


def test_no_symbol_before_its_table_was_sent_often_enough() -> None:
    encoder = encoder_of(SESSION)
    second = entry_of(CONTENT[:600], checked(600, 512, 2, 2, 1), toi=2)
    datagrams = split(bursts_of(encoder, [(ENTRY, CONTENT), (second, CONTENT[:600])]), 560)
    seen: Counter[int] = Counter()
    tables = 0
    for _, kind, _, _, toi, *_ in headers(datagrams):
        if kind == Type.OBJECTS:
            tables += 1
        if kind == Type.SYMBOL:
            seen[toi] += 1
            assert tables >= Cadence().table_copies * toi, "the table came late"
    assert seen[1] == ENTRY.geometry.datagrams()
    assert seen[2] == second.geometry.datagrams()


def test_packet_numbers_never_repeat_and_symbols_leave_in_wire_order() -> None:
    encoder = encoder_of(SESSION)
    found = headers(split(bursts_of(encoder, [(ENTRY, CONTENT)]), 560))
    numbers = [number for _, kind, _, number, *_ in found if kind != Type.ANNOUNCEMENT]
    assert numbers == list(range(len(numbers)))
    positions = [(sbn, row, column) for _, kind, _, _, _, sbn, row, column, _ in found if kind == Type.SYMBOL]
    expected = []
    for sbn, (_, symbols, columns, rows, _) in enumerate(definition.blocks(20_000, 512, 8, 2)):
        expected += [(sbn, *position) for position in definition.order(symbols, columns, rows, 3)]
    assert positions == expected
    assert encoder.counters.source == ENTRY.geometry.symbols
    assert encoder.counters.datagrams == len(found)


@pytest.mark.parametrize("backend", ["isal", "portable"])
def test_both_backends_send_the_same_bytes(backend: str) -> None:
    sent = bursts_of(encoder_of(SESSION), [(ENTRY, CONTENT)], backend)
    assert b"".join(sent) == b"".join(bursts_of(encoder_of(SESSION), [(ENTRY, CONTENT)]))


def test_what_a_buffer_held_before_does_not_leave() -> None:
    def sent(fill: bytes) -> list[bytes]:
        shape = ENTRY.geometry.block(ENTRY.geometry.blocks - 1)
        buffer = BlockBuffer(64, 512)
        buffer.memory[:] = fill * len(buffer.memory)
        buffer.memory[: shape.size] = CONTENT[shape.offset : shape.offset + shape.size]
        block = OutgoingBlock(ENTRY, shape, buffer)
        at, count = block.next_symbols(1_000)
        return [bytes(symbol) for symbol in block.symbols.symbols[at : at + count]]

    assert sent(b"\xff") == sent(b"\0")


def test_beacons_come_about_every_second_whatever_happens() -> None:
    encoder = encoder_of(SESSION)
    found: list[float] = []
    now = 0.0
    while now < 10:
        if kinds(encoder, now)[Type.BEACON]:
            found.append(now)
        now = max(encoder.next_time(), now)
    gaps = [b - a for a, b in pairwise(found)]
    assert len(found) >= 10
    assert max(gaps) <= 1.0 + 1e-9
    late = kinds(encoder, 1_000.0)
    assert late[Type.BEACON] == 1, "what was missed is not made up for"
    assert kinds(encoder, 1_000.1) == {}


def test_a_closing_session_says_so_often() -> None:
    encoder = encoder_of(SESSION)
    for copy in range(10):
        kinds(encoder, copy * 0.05)
    encoder.close(5.0)
    assert encoder.closing
    found = [kinds(encoder, 5.0 + step * 0.1 + 1e-6) for step in range(5)]
    assert all(one[Type.BEACON] == 1 and one[Type.ANNOUNCEMENT] == 1 for one in found)


def test_more_collections_than_fit_are_spread_over_beacons() -> None:
    encoder = encoder_of(SESSION)
    encoder.newest = [Newest(f"collection-{i}", 1, "sha256:" + "0" * 64, 0) for i in range(10)]
    view = BurstView(memoryview(bytearray(560 * 8)), 560, 8)
    names: list[str] = []
    for second in range(3):
        count = encoder.next_burst(view, float(10 * second))
        for index in range(count):
            if view.headers[index][3] == Type.BEACON:
                payload = open_sealed(bytes(view.datagrams[index]))
                beacon = parse_beacon(payload)
                assert beacon.collections == 10
                names += [newest.collection for newest in beacon.newest]
    assert sorted(names) == sorted(newest.collection for newest in encoder.newest)


def open_sealed(datagram: bytes) -> bytes:
    return AESGCM(SESSION.traffic_key).decrypt(datagram[4:16], datagram[32:], datagram[:32])


def test_control_that_does_not_fit_one_burst_goes_into_the_next() -> None:
    session = s.Session(receivers=tuple(f"receiver {i}" for i in range(9)))
    encoder = encoder_of(session)
    encoder.set_upcoming([ENTRY])
    found = [kinds(encoder, 0.0, most=2) for _ in range(4)]
    assert sum((Counter(one) for one in found), Counter()) == {Type.ANNOUNCEMENT: 3, Type.BEACON: 1, Type.OBJECTS: 1}


def test_lanes_do_not_share_packet_numbers() -> None:
    session = s.Session(lanes=3)
    for lane in range(3):
        datagrams = split(bursts_of(encoder_of(session, lane=lane), [(ENTRY, CONTENT)]), 560)
        sealed = [number for _, kind, _, number, *_ in headers(datagrams) if kind != Type.ANNOUNCEMENT]
        assert {number >> LANE_SHIFT for number in sealed} == {lane}
    with pytest.raises(ProtocolMisuse):
        encoder_of(session, lane=3)


def test_packet_numbers_run_out_rather_than_repeat() -> None:
    encoder = encoder_of(SESSION)
    encoder._counter = (1 << 56) - 1
    with pytest.raises(ProtocolMisuse):
        kinds(encoder, 0.0)


def test_misuse_raises() -> None:
    encoder = encoder_of(SESSION)
    with pytest.raises(ProtocolMisuse):
        encoder.next_burst(BurstView(memoryview(bytearray(1_472)), 1_472, 1), 0.0)
    shape = ENTRY.geometry.block(0)
    encoder.load(OutgoingBlock(ENTRY, shape, BlockBuffer(64, 512)))
    with pytest.raises(ProtocolMisuse):
        encoder.load(OutgoingBlock(ENTRY, shape, BlockBuffer(64, 512)))
    for buffer in (BlockBuffer(1, 512), BlockBuffer(64, 528)):
        with pytest.raises(ProtocolMisuse):
            OutgoingBlock(ENTRY, shape, buffer)
