"""Block buffers: one allocation for a block's symbols, sliced once, used again for blocks of the same size.

Big buffers are costly to allocate (the kernel zeroes their pages each time), so both directions pool them.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable

from protocol.errors import ProtocolMisuse
from protocol.geometry import BlockShape, Geometry
from protocol.order import WireOrder


def address_of(memory: bytearray | memoryview) -> int:
    """Return where writable *memory* lies, for libraries called in place; valid while the caller keeps it."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def addresses(memory: bytearray | memoryview, step: int, offset: int = 0) -> array[int]:
    """Return where each piece of *step* bytes of writable *memory* lies, *offset* bytes into it."""
    first = address_of(memory)
    return array("Q", range(first + offset, first + len(memory), step))


class BlockBuffer:
    """Room for *symbols* symbols of *symbol_bytes* each; ``symbols[i]`` is the writable view of symbol i.

    In the beginning of *memory* (writable bytes), or in memory of its own.
    """

    def __init__(self, symbols: int, symbol_bytes: int, memory: memoryview | None = None) -> None:
        self.symbol_bytes = symbol_bytes
        size = symbols * symbol_bytes
        self.memory = memoryview(bytearray(size)) if memory is None else memory[:size]
        if len(self.memory) != size:
            raise ProtocolMisuse(f"{len(self.memory)} bytes are not room for {symbols} symbols of {symbol_bytes}")
        self.symbols = [self.memory[at : at + symbol_bytes] for at in range(0, symbols * symbol_bytes, symbol_bytes)]
        self.addresses = addresses(self.memory, symbol_bytes)
        self._ordered: OrderedSymbols | None = None

    def in_order(self, order: WireOrder) -> OrderedSymbols:
        """Return the symbols of a block in wire order."""
        if self._ordered is None or self._ordered.order is not order:
            self._ordered = OrderedSymbols(self, order)
        return self._ordered


class OrderedSymbols:
    """The symbols of a block buffer in wire order, as views and as addresses."""

    def __init__(self, buffer: BlockBuffer, order: WireOrder) -> None:
        self.order = order
        self.symbol_bytes = buffer.symbol_bytes
        self.symbols: list[memoryview] = []
        self.addresses = array("Q")
        for places in order.places:
            self.symbols += buffer.symbols[places]
            self.addresses += buffer.addresses[places]


class BufferPool:
    """Hands out buffers and takes them back; at most *most*, and *bytes_max* bytes, exist at once.

    *make* (symbols, symbol bytes) makes them, *discard* is told of those that are not used again. For one thread:
    nothing here is locked.
    """

    def __init__(
        self,
        most: int,
        bytes_max: int,
        make: Callable[[int, int], BlockBuffer] = BlockBuffer,
        discard: Callable[[BlockBuffer], None] = lambda buffer: None,
    ) -> None:
        self._make = make
        self._discard = discard
        self._most = most
        self._bytes_max = bytes_max
        self._free: list[BlockBuffer] = []
        self._lent = 0
        self._bytes = 0  # of all buffers, lent and free
        self._lent_bytes = self._last = 0  # of the lent ones; of the one lent last

    def take(self, symbols: int, symbol_bytes: int) -> BlockBuffer | None:
        """Return a buffer of at least that many symbols, contents undefined; None if there is no room for one."""
        for index, buffer in enumerate(self._free):
            if buffer.symbol_bytes == symbol_bytes and symbols <= len(buffer.symbols) <= 2 * symbols:
                self._note_lent(buffer)
                return self._free.pop(index)
        size = symbols * symbol_bytes
        while self._free and (self._lent + len(self._free) >= self._most or self._bytes + size > self._bytes_max):
            unused = self._free.pop(0)
            self._bytes -= len(unused.memory)
            self._discard(unused)
        if self._lent >= self._most or (self._lent and self._bytes + size > self._bytes_max):
            return None
        self._bytes += size
        buffer = self._make(symbols, symbol_bytes)
        self._note_lent(buffer)
        return buffer

    @property
    def exhausted(self) -> bool:
        """Whether there is no room for another buffer like the last one."""
        return self._lent >= self._most or self._lent_bytes + self._last > self._bytes_max

    def give_back(self, buffer: BlockBuffer) -> None:
        """Return a lent buffer."""
        self._lent -= 1
        self._lent_bytes -= len(buffer.memory)
        self._free.append(buffer)

    def _note_lent(self, buffer: BlockBuffer) -> None:
        self._lent += 1
        self._last = len(buffer.memory)
        self._lent_bytes += self._last


def source_symbols(shape: BlockShape) -> int:
    """Return how many symbols a buffer for the source part of *shape* holds, virtual zeros included."""
    return shape.depth * shape.k


def whole_symbols(geometry: Geometry) -> int:
    """Return how many symbols a buffer for any block of *geometry* holds, repair included."""
    return geometry.depth * (geometry.k + geometry.m)


def block_symbols(shape: BlockShape) -> int:
    """Return how many symbols a buffer for one block holds, repair included."""
    return shape.depth * (shape.k + shape.m)
