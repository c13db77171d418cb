"""WIRE_FORMAT.md §4: every object is cut into blocks, codewords and symbols without gap, overlap or excess."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.buffers import BlockBuffer, source_symbols, whole_symbols
from protocol.drops import Drop
from protocol.geometry import Geometry, checked, profile_for_link
from protocol.incoming import IncomingBlock, IncomingObject
from protocol.limits import BLOCK_BYTES_MAX, BLOCKS_PER_OBJECT_MAX, CODEWORD_SYMBOLS_MAX, OBJECT_BYTES_MAX
from protocol.wire import datagram_bytes_for_mtu, symbol_bytes
from tests.protocol.harness import entry_of, outcome
from tests.vectors import definition


@st.composite
def geometries(draw: st.DrawFn, size_max: int = 200_000, depth_max: int = 12) -> Geometry:
    symbol = draw(st.sampled_from((16, 32, 512, 1_424)))
    k = draw(st.integers(1, 60))
    m = draw(st.integers(1, 40))
    return checked(draw(st.integers(1, size_max)), symbol, k, m, draw(st.integers(1, depth_max)))


@given(geometries())
def test_symbols_partition_exactly(geometry: Geometry) -> None:
    at = symbols = 0
    for sbn in range(geometry.blocks):
        shape = geometry.block(sbn)
        assert shape.offset == at
        at += shape.size
        symbols += shape.symbols
    assert at == geometry.size
    assert symbols == geometry.symbols


@given(geometries())
def test_blocks_are_even_and_within_bounds(geometry: Geometry) -> None:
    shapes = [geometry.block(sbn) for sbn in range(geometry.blocks)]
    assert max(shape.symbols for shape in shapes) - min(shape.symbols for shape in shapes) <= 1
    for shape in shapes:
        assert 1 <= shape.depth <= geometry.depth
        assert 1 <= shape.k <= geometry.k
        assert shape.m == geometry.m
        assert shape.depth * shape.k >= shape.symbols
        assert all(1 <= shape.codeword_symbols(column) <= shape.k for column in range(shape.depth))
        assert sum(shape.codeword_symbols(column) for column in range(shape.depth)) == shape.symbols
        assert sum(shape.source_columns(row) for row in range(shape.k)) == shape.symbols
        assert source_symbols(shape) + shape.depth * shape.m <= whole_symbols(geometry)
    assert geometry.datagrams() == sum(shape.datagrams for shape in shapes)


@given(geometries())
def test_the_slow_definition_agrees(geometry: Geometry) -> None:
    table = definition.blocks(geometry.size, geometry.symbol_bytes, geometry.k, geometry.depth)
    shapes = [geometry.block(sbn) for sbn in range(geometry.blocks)]
    assert [(s.offset // geometry.symbol_bytes, s.symbols, s.depth, s.k, s.size) for s in shapes] == table


@given(geometries(size_max=60_000, depth_max=6), st.data())
def test_positions_and_places_are_a_bijection(geometry: Geometry, data: st.DataObject) -> None:
    sbn = data.draw(st.integers(0, geometry.blocks - 1))
    owner = IncomingObject(entry_of(b"", geometry), b"")
    block = IncomingBlock(owner, sbn, BlockBuffer(whole_symbols(geometry), geometry.symbol_bytes))
    shape = block.shape
    sent = list(definition.order(shape.symbols, shape.depth, shape.k, shape.m))
    assert len(sent) == shape.datagrams
    places = [block.index(row, column) for row, column in sent]
    assert len(set(places)) == len(places)
    assert min(places) >= 0
    assert max(places) < whole_symbols(geometry)
    for row in (*range(shape.rows + 2), 255, 65_535):
        for column in (*range(shape.depth + 2), 255, 65_535):
            assert ((row, column) in sent) == shape.sends(row, column) == (block.index(row, column) >= 0)


def test_a_fresh_block_has_zeros_where_symbols_are_virtual() -> None:
    geometry = checked(10 * 512, 512, 4, 2, 3)
    buffer = BlockBuffer(whole_symbols(geometry), 512)
    buffer.memory[:] = b"\xff" * len(buffer.memory)
    block = IncomingBlock(IncomingObject(entry_of(b"", geometry), b""), 0, buffer)
    assert block.shape.codeword_symbols(2) == 2
    assert not any(buffer.memory[10 * 512 : 12 * 512])
    assert all(value == 0xFF for value in buffer.memory[: 10 * 512])


@pytest.mark.parametrize("sbn", [-1, 1, 1 << 31])
def test_blocks_outside_are_refused(sbn: int) -> None:
    with pytest.raises(IndexError):
        checked(100, 512, 1, 1, 1).block(sbn)


@given(
    st.integers(-2, (1 << 64) - 1),
    st.sampled_from((512, 1_424, 9_136)),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 65_535),
)
def test_any_announced_numbers_are_refused_or_bounded(size: int, symbol: int, k: int, m: int, depth: int) -> None:
    geometry, drop = outcome(lambda: checked(size, symbol, k, m, depth))
    if geometry is None:
        assert drop in (Drop.BAD_GEOMETRY, Drop.OBJECT_TOO_LARGE)
        return
    assert 0 < geometry.size <= OBJECT_BYTES_MAX
    assert whole_symbols(geometry) * symbol <= BLOCK_BYTES_MAX
    assert geometry.k + geometry.m <= CODEWORD_SYMBOLS_MAX
    assert 1 <= geometry.blocks <= BLOCKS_PER_OBJECT_MAX
    for sbn in (0, geometry.blocks - 1):
        assert geometry.block(sbn).size > 0


@given(st.sampled_from((1_280, 1_500, 9_000)), st.integers(1, 1 << 40), st.floats(0.01, 0.5), st.floats(0, 0.1))
def test_every_profile_cuts_every_object(mtu: int, size: int, ratio: float, outage: float) -> None:
    symbol = symbol_bytes(datagram_bytes_for_mtu(mtu))
    profile = profile_for_link(symbol, 1e9 / 8 / mtu, ratio, outage)
    geometry = profile.geometry(size)
    assert geometry.size == size
    assert abs(profile.m / profile.k - ratio) <= 1 / profile.k
    for sbn in (0, geometry.blocks - 1):
        shape = geometry.block(sbn)
        assert shape.depth * shape.m >= shape.symbols * profile.m / profile.k * 0.98


@given(st.sampled_from((1_280, 1_500, 9_000)), st.floats(0.05, 0.5), st.floats(0, 0.1), st.integers(1, 1 << 26))
@example(9_000, 0.5, 0.1, 11_666_141_980)
@example(1_280, 0.5, 0.0, 120_412_801)
def test_full_blocks_never_outgrow_their_bound(mtu: int, ratio: float, outage: float, size: int) -> None:
    """A profile's depth may fill a block's memory; rounding must not ask for more."""
    profile = profile_for_link(symbol_bytes(datagram_bytes_for_mtu(mtu)), 1e10 / 8 / mtu, ratio, outage)
    for count in (size, size * 64):
        assert profile.geometry(count).size == count


@given(st.integers(1, 100_000_000), st.sampled_from((1_280, 1_500, 9_000)), st.floats(0, 0.02))
def test_every_block_survives_the_outage_that_a_full_one_does(size: int, mtu: int, outage: float) -> None:
    symbol = symbol_bytes(datagram_bytes_for_mtu(mtu))
    profile = profile_for_link(symbol, 1e9 / 8 / mtu, 0.1, outage)
    geometry = profile.geometry(size)
    for sbn in (0, geometry.blocks - 1):
        shape = geometry.block(sbn)
        # of an object with fewer datagrams than the outage, as many as it has: the rest is for another pass
        assert shape.depth * shape.m >= min(profile.outage, shape.symbols) * 0.98
