"""Objects and source blocks on their way in: which symbols are here, when a block can be restored, and restoring.

Memory is only taken for a block once one of its datagrams has authenticated. A block whose buffer must make room
for newer ones is abandoned; its finished codewords are still worth keeping.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from protocol.buffers import BlockBuffer
from protocol.fec import erasure_code
from protocol.geometry import BlockShape
from protocol.handover import UnfinishedBlock
from protocol.limits import CODEWORD_SYMBOLS_MAX
from protocol.objects import ObjectEntry
from protocol.order import wire_order
from protocol.ranges import RangeSet

_ONE_LESS: Final = bytes((0, *range(255)))  # for bytearray.translate
assert CODEWORD_SYMBOLS_MAX <= 255


@dataclass(eq=False)
class IncomingObject:
    """One announced object of one session and what this receiver wants of it."""

    entry: ObjectEntry
    session: bytes  # session id
    lane: int = 0  # whose decoder it belongs to
    wanted: bool = False
    have: RangeSet = field(default_factory=RangeSet)  # coded bytes finished before, in this session or another
    done: RangeSet = field(default_factory=RangeSet)  # numbers of blocks complete in this session, as [sbn, sbn + 1)

    def again(self, sbn: int) -> None:
        """Let block *sbn* come again, which was complete."""
        done = RangeSet()
        for start, end in self.done:
            done.add(start, min(end, sbn))
            done.add(max(start, sbn + 1), end)
        self.done = done

    def needs(self, sbn: int) -> bool:
        """Whether block *sbn* (within the geometry) still lacks bytes."""
        if not self.wanted or self.done.covers(sbn, sbn + 1):
            return False
        shape = self.entry.geometry.block(sbn)
        if self.have.covers(shape.offset, shape.offset + shape.size):
            self.done.add(sbn, sbn + 1)
            return False
        return True


class IncomingBlock:
    """One source block being received into a buffer: source symbols first, then repair symbols, codeword-wise."""

    def __init__(self, owner: IncomingObject, sbn: int, buffer: BlockBuffer) -> None:
        self.owner = owner
        self.done = owner.done  # the set that counts for this block; forgetting the object begins another one
        self.shape: BlockShape = owner.entry.geometry.block(sbn)
        self.buffer = buffer
        shape = self.shape
        self.symbols = buffer.in_order(wire_order(shape))
        self._repair_at = shape.depth * shape.k
        self._have = bytearray(shape.depth * (shape.k + shape.m))
        self._left = bytearray(shape.codeword_symbols(column) for column in range(shape.depth))
        size = shape.symbols * buffer.symbol_bytes
        buffer.memory[size : self._repair_at * buffer.symbol_bytes] = bytes(
            self._repair_at * buffer.symbol_bytes - size
        )
        self._have[shape.symbols : self._repair_at] = b"\1" * (self._repair_at - shape.symbols)
        self._old = self._finished_before()
        for column in self._old:
            self._left[column] = 0
        self._open = sum(left > 0 for left in self._left)
        self.repaired = 0  # source symbols restored by repair symbols
        self.worst = 0  # most repair symbols that one codeword needed

    def index(self, row: int, column: int) -> int:
        """Return the place of a symbol in the buffer, or -1 if the geometry has no such symbol on the wire."""
        shape = self.shape
        if row < shape.k:
            place = column * shape.k + row
            return place if column < shape.depth and place < shape.symbols else -1
        if row < shape.k + shape.m and column < shape.depth:
            return self._repair_at + column * shape.m + row - shape.k
        return -1

    def needs(self, place: int, column: int) -> bool:
        """Whether the symbol at *place* is new and its codeword not complete yet."""
        return self._left[column] > 0 and not self._have[place]

    def missing_rows(self, at: int, count: int) -> list[tuple[slice, int, int]] | None:
        """Return the rows (WireOrder.rows) of *count* symbols from wire position *at*; None if one is here."""
        rows = self.symbols.order.rows(at, count)
        return None if any(1 in self._have[places] for places, _, _ in rows) else rows

    def mark_rows(self, rows: list[tuple[slice, int, int]]) -> int:
        """Note that missing_rows have been written and are authentic; return how many symbols were needed."""
        needed = 0
        for places, first, width in rows:
            self._have[places] = b"\1" * width
            before = self._left[first : first + width]
            left = before.translate(_ONE_LESS)
            self._left[first : first + width] = left
            complete = before.count(0)
            needed += width - complete
            self._open -= left.count(0) - complete
        return needed

    def mark(self, place: int, column: int) -> None:
        """Note that the (needed) symbol at *place* has been written and is authentic."""
        self._have[place] = 1
        self._left[column] -= 1
        if self._left[column] == 0:
            self._open -= 1

    def hand_over(self) -> UnfinishedBlock:
        """Return a copy of the symbols that are here."""
        have, shape, size = bytearray(self._have), self.shape, self.buffer.symbol_bytes
        have[shape.symbols : self._repair_at] = bytes(self._repair_at - shape.symbols)  # padding
        here = b"".join(self.buffer.symbols[place] for place, one in enumerate(have) if one)
        return UnfinishedBlock(self.owner.entry.toi, shape.sbn, size, bytes(have), here)

    def take_over(self, block: UnfinishedBlock) -> int:
        """Take the symbols of this block that another decoder had; return how many. ValueError: of another one."""
        size, shape = self.buffer.symbol_bytes, self.shape
        if len(block.have) != len(self._have) or block.symbol_bytes != size:
            raise ValueError("a block of another geometry")
        taken = at = 0
        for place, one in enumerate(block.have):
            if not one:
                continue
            column = place // shape.k if place < self._repair_at else (place - self._repair_at) // shape.m
            if self.needs(place, column):
                self.buffer.symbols[place][:] = block.symbols[at : at + size]
                self.mark(place, column)
                taken += 1
            at += size
        return taken

    @property
    def complete(self) -> bool:
        """Whether every codeword has enough symbols to be restored."""
        return self._open == 0

    def restore(self) -> None:
        """Recover the lost source symbols of every complete codeword, in place (CPU-bound, no I/O)."""
        shape, buffer = self.shape, self.buffer
        code = erasure_code(shape.k, shape.m)
        size = shape.k * buffer.symbol_bytes
        for column in range(shape.depth):
            if self._left[column] or column in self._old:
                continue
            first = column * shape.k
            have = self._have[first : first + shape.k]
            if 0 not in have:
                continue
            lost = [row for row, here in enumerate(have) if not here]
            base = self._repair_at + column * shape.m
            repair = {i: buffer.symbols[base + i] for i in range(shape.m) if self._have[base + i]}
            code.recover(buffer.memory[column * size : (column + 1) * size], buffer.symbol_bytes, lost, repair)
            self.repaired += len(lost)
            self.worst = max(self.worst, len(lost))

    def finished(self) -> Iterator[tuple[int, memoryview]]:
        """Yield (offset into the object, bytes) of what :meth:`restore` made whole; call that first."""
        shape, buffer = self.shape, self.buffer
        if self.complete and not self._old:
            yield shape.offset, buffer.memory[: shape.size]
            return
        size = shape.k * buffer.symbol_bytes
        for column in range(shape.depth):
            start, end = column * size, min((column + 1) * size, shape.size)
            if not self._left[column] and column not in self._old and start < end:
                yield shape.offset + start, buffer.memory[start:end]

    def _finished_before(self) -> frozenset[int]:
        have, shape = self.owner.have, self.shape
        size = shape.k * self.buffer.symbol_bytes
        if not have.total:
            return frozenset()
        return frozenset(
            column
            for column in range(shape.depth)
            if have.covers(shape.offset + column * size, shape.offset + min((column + 1) * size, shape.size))
        )
