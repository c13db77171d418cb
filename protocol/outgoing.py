"""One source block on its way out: symbols row by row, repair computed a codeword at a time while source leaves."""

from __future__ import annotations

from protocol.buffers import BlockBuffer, block_symbols, source_symbols
from protocol.errors import ProtocolMisuse
from protocol.fec import erasure_code
from protocol.geometry import BlockShape
from protocol.objects import ObjectEntry


class OutgoingBlock:
    """Walks a block in wire order. *buffer* holds its content from symbol 0; padding and repair come here."""

    def __init__(
        self, entry: ObjectEntry, shape: BlockShape, buffer: BlockBuffer, backend: str | None = None
    ) -> None:
        if buffer.symbol_bytes != entry.geometry.symbol_bytes or len(buffer.symbols) < block_symbols(shape):
            raise ProtocolMisuse("the buffer does not fit the block")
        self.entry = entry
        self.shape = shape
        self.buffer = buffer
        self._code = erasure_code(shape.k, shape.m, backend)
        end = source_symbols(shape) * buffer.symbol_bytes
        buffer.memory[shape.size : end] = bytes(end - shape.size)
        self._repair_at = source_symbols(shape)
        self._encoded = 0  # codewords whose repair symbols are in the buffer
        self._row = 0
        self._column = 0

    @property
    def done(self) -> bool:
        """Whether every symbol has been handed out."""
        return self._row >= self.shape.rows

    def next_symbols(self, most: int) -> tuple[list[int], list[int], list[memoryview]]:
        """Return rows, columns and contents of the next up to *most* symbols in wire order."""
        shape, source = self.shape, self.buffer.symbols
        rows: list[int] = []
        columns: list[int] = []
        symbols: list[memoryview] = []
        while len(rows) < most and not self.done:
            row = self._row
            width = shape.source_columns(row) if row < shape.k else shape.depth
            first = self._column
            last = min(width, first + most - len(rows))
            if row < shape.k:
                symbols += source[first * shape.k + row : (last - 1) * shape.k + row + 1 : shape.k]
            else:
                self._encode_until(shape.depth)
                begin = self._repair_at + row - shape.k
                symbols += source[begin + first * shape.m : begin + (last - 1) * shape.m + 1 : shape.m]
            rows += [row] * (last - first)
            columns += range(first, last)
            self._row, self._column = (row + 1, 0) if last == width else (row, last)
        if self._row < shape.k:  # spread the encoding evenly over the source rows
            self._encode_until(shape.depth * self._row // shape.k)
        return rows, columns, symbols

    def _encode_until(self, codewords: int) -> None:
        shape, memory, unit = self.shape, self.buffer.memory, self.buffer.symbol_bytes
        size, repair_size = shape.k * unit, shape.m * unit
        for column in range(self._encoded, codewords):
            at = self._repair_at * unit + column * repair_size
            self._code.encode_into(memory[column * size : (column + 1) * size], memory[at : at + repair_size])
        self._encoded = max(self._encoded, codewords)
