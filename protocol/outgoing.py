"""One source block on its way out: its repair symbols are computed, then its symbols handed out row by row."""

from __future__ import annotations

from protocol.buffers import BlockBuffer, block_symbols, source_symbols
from protocol.errors import ProtocolMisuse
from protocol.fec import erasure_code
from protocol.geometry import BlockShape
from protocol.objects import ObjectEntry
from protocol.order import wire_order


class BlockEncoder:
    """Adds to a block what its content lacks: zeros up to the last codeword's end, and the repair symbols.

    *buffer* holds the content from symbol 0; a codeword is encoded once it is there, best while it is in the cache.
    """

    def __init__(self, shape: BlockShape, buffer: BlockBuffer, backend: str | None = None) -> None:
        if len(buffer.symbols) < block_symbols(shape):
            raise ProtocolMisuse("the buffer does not fit the block")
        self.shape = shape
        self.buffer = buffer
        self.encoded = 0  # codewords whose repair symbols are in the buffer
        self._code = erasure_code(shape.k, shape.m, backend)
        end = source_symbols(shape) * buffer.symbol_bytes
        buffer.memory[shape.size : end] = bytes(end - shape.size)

    def codeword(self, column: int) -> tuple[int, int]:
        """Return where the content of codeword *column* begins and ends in the block (bytes)."""
        size = self.shape.k * self.buffer.symbol_bytes
        return min(column * size, self.shape.size), min((column + 1) * size, self.shape.size)

    def encode_until(self, codewords: int) -> None:
        """Compute the repair symbols of the first *codewords* codewords, as far as they are not there yet."""
        shape, memory, unit = self.shape, self.buffer.memory, self.buffer.symbol_bytes
        size, repair_size = shape.k * unit, shape.m * unit
        for column in range(self.encoded, codewords):
            at = source_symbols(shape) * unit + column * repair_size
            self._code.encode_into(memory[column * size : (column + 1) * size], memory[at : at + repair_size])
            self.encoded = column + 1


class OutgoingBlock:
    """Walks a block in wire order. Codewords that *encoded* (of the same block) has not done are encoded here."""

    def __init__(
        self, entry: ObjectEntry, shape: BlockShape, buffer: BlockBuffer, encoded: BlockEncoder | None = None
    ) -> None:
        if buffer.symbol_bytes != entry.geometry.symbol_bytes:
            raise ProtocolMisuse("the buffer does not fit the object")
        self.entry = entry
        self.shape = shape
        self.buffer = buffer
        (encoded or BlockEncoder(shape, buffer)).encode_until(shape.depth)
        self.order = wire_order(shape)
        self.symbols = buffer.in_order(self.order)
        self._sent = 0

    @property
    def done(self) -> bool:
        """Whether every symbol has been handed out."""
        return self._sent >= self.shape.datagrams

    def next_symbols(self, most: int) -> tuple[int, int]:
        """Return the position in wire order and the number of the next up to *most* symbols."""
        at = self._sent
        self._sent = min(at + most, self.shape.datagrams)
        return at, self._sent - at
