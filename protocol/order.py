"""The order in which the symbols of a block are on the wire: row by row, over all codewords (WIRE_FORMAT.md §5)."""

from __future__ import annotations

from array import array
from functools import lru_cache

from protocol.geometry import BlockShape
from protocol.limits import ORDERS_MAX


class WireOrder:
    """Symbols of one kind of block by their position in a pass, from 0.

    ``words[position]`` is ``row | column << 16``, as the header has it; ``starts[row]`` the row's first position.
    """

    def __init__(self, symbols: int, depth: int, k: int, m: int) -> None:
        self.words = array("I")
        self.starts: list[int] = []
        self.places: list[slice] = []  # of each row, in a block buffer
        full, rest = divmod(symbols, k)
        for row in range(k + m):
            width = depth if row >= k else full + (row < rest)
            first, step = (row, k) if row < k else (depth * k + row - k, m)
            self.starts.append(len(self.words))
            self.places.append(slice(first, first + width * step, step))
            self.words.extend(range(row, row + (width << 16), 1 << 16))

    def position(self, row: int, column: int) -> int:
        """Return where a symbol is in the pass; -1 if the block has no such symbol on the wire."""
        if row >= len(self.starts):
            return -1
        at = self.starts[row] + column
        return at if at < len(self.words) and self.words[at] == row | column << 16 else -1

    def rows(self, at: int, count: int) -> list[tuple[slice, int, int]]:
        """Return for each row of *count* symbols from *at* the places in a block buffer, first column and width."""
        found, end = [], at + count
        while at < end:
            word = self.words[at]
            row, column = word & 0xFFFF, word >> 16
            whole = self.places[row]
            width = min(end - at, (whole.stop - whole.start) // whole.step - column)
            first = whole.start + column * whole.step
            found.append((slice(first, first + width * whole.step, whole.step), column, width))
            at += width
        return found


@lru_cache(ORDERS_MAX)
def _order(symbols: int, depth: int, k: int, m: int) -> WireOrder:
    return WireOrder(symbols, depth, k, m)


def wire_order(shape: BlockShape) -> WireOrder:
    """Return the order of the symbols of *shape*; the same object for blocks of the same kind."""
    return _order(shape.symbols, shape.depth, shape.k, shape.m)
