"""WIRE_FORMAT.md §2: what BurstView writes is what the 32-byte header says, and the other way round."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import wire
from protocol.limits import (
    BURST_BYTES_MAX,
    BURST_DATAGRAMS_MAX,
    DATAGRAM_BYTES_MAX,
    DATAGRAM_BYTES_MIN,
    HEADER_BYTES,
)
from protocol.wire import HEADER, MAGIC, NONCE, VERSION, BurstView, Type, prefix
from tests.vectors import session as s

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))


@given(st.lists(st.tuples(U16, U16), min_size=1, max_size=9), U32, U32, st.binary(min_size=4, max_size=4), st.data())
def test_burst_view_writes_what_the_header_unpacks(
    positions: list[tuple[int, int]], toi: int, sbn: int, tag: bytes, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, (1 << 64) - 1 - len(positions)))
    size = data.draw(st.sampled_from((560, 576, 1_472)))
    memory = bytearray(b"\xaa" * (9 * size))
    view = BurstView(memoryview(memory), size, 9)
    words = array("I", [row | column << 16 for row, column in positions])
    view.write_headers(prefix(Type.SYMBOL, tag), number, toi, sbn, words)
    for index, (row, column) in enumerate(positions):
        raw = bytes(memory[index * size : index * size + HEADER_BYTES])
        tag_number = int.from_bytes(tag, "little")
        expected = (MAGIC, VERSION, Type.SYMBOL, tag_number, number + index, toi, sbn, row, column, 0)
        assert HEADER.unpack(raw) == expected
        assert raw == s.header(4, tag, number + index, toi, sbn, row, column)
        assert raw[NONCE] == bytes(view.nonces[index])
        assert bytes(view.headers[index]) == raw
    assert memory[len(positions) * size :] == b"\xaa" * ((9 - len(positions)) * size)


@given(st.lists(st.tuples(U64, U32, U32, U16, U16, U32), min_size=3, max_size=6), st.integers(0, 2))
def test_burst_view_reads_what_was_packed(headers: list[tuple[int, ...]], start: int) -> None:
    packed = [HEADER.pack(MAGIC, VERSION, 4, 7, *fields).ljust(560, b"\0") for fields in headers]
    view = BurstView(memoryview(bytearray(b"".join(packed))), 560, len(packed))
    count = len(headers) - start
    columns = [
        view.numbers(count, start),
        view.tois(count, start),
        view.sbns(count, start),
        [word & 0xFFFF for word in view.positions(count, start)],
        [word >> 16 for word in view.positions(count, start)],
        view.reserved(count, start),
    ]
    assert [tuple(column[i] for column in columns) for i in range(count)] == headers[start:]
    assert view.prefixes(count, start) == [prefix(Type.SYMBOL, b"\7\0\0\0")] * count


def test_big_endian_machines_write_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the native order claimed to be big, values are swapped twice over: once by the claim, once for real."""
    view = BurstView(memoryview(bytearray(560)), 560, 1)
    monkeypatch.setattr(wire, "LITTLE_ENDIAN", False)
    view.write_headers(0x0102030405060708, 1, 2, 3, array("I", [5 << 16 | 4]))
    assert bytes(view.headers[0][:8]) == bytes(range(1, 9))
    assert view.numbers(1) == [1]
    assert view.positions(1) == [5 << 16 | 4]


@pytest.mark.parametrize(
    ("size", "valid"),
    [
        (DATAGRAM_BYTES_MIN - 16, False),
        (DATAGRAM_BYTES_MIN, True),
        (DATAGRAM_BYTES_MIN + 1, False),
        (DATAGRAM_BYTES_MAX - DATAGRAM_BYTES_MAX % 16, True),
        (DATAGRAM_BYTES_MAX - DATAGRAM_BYTES_MAX % 16 + 16, False),
        (0, False),
    ],
)
def test_valid_datagram_sizes(size: int, valid: bool) -> None:
    assert wire.valid_datagram_bytes(size) is valid


@given(st.integers(DATAGRAM_BYTES_MIN + 48, 20_000))
def test_the_size_for_an_mtu_is_valid_and_wastes_little(mtu: int) -> None:
    size = wire.datagram_bytes_for_mtu(mtu)
    assert wire.valid_datagram_bytes(size)
    assert size <= mtu - 28
    assert min(mtu - 28, DATAGRAM_BYTES_MAX) - size < 16
    count = wire.datagrams_per_burst(size)
    assert 1 <= count <= BURST_DATAGRAMS_MAX
    assert count * size <= BURST_BYTES_MAX


def test_headers_are_whole_after_others_were_written_between() -> None:
    view = BurstView(memoryview(bytearray(4 * 576)), 576, 4)
    tag = b"abcd"

    def written(count: int) -> list[tuple[int, ...]]:
        symbol = prefix(Type.SYMBOL, tag)
        view.write_headers(symbol, 7, 5, 6, array("I", [index << 16 | index for index in range(count)]))
        return [HEADER.unpack(view.headers[index])[4:] for index in range(count)]

    expected = [(7 + index, 5, 6, index, index, 0) for index in range(4)]
    assert written(1) == expected[:1]
    assert written(4) == expected
    view.write_header(2, b"\xff" * 32)
    assert written(4) == expected
    view.write_datagram(3, b"\xff" * 576)
    assert written(4) == expected
