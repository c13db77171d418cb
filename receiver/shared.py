"""Block buffers in memory that a lane's process fills and the capture role reads: one file without a name.

The file is as large as all slots together; of it only what live buffers have touched takes memory.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from protocol.buffers import BlockBuffer, BufferPool
from protocol.limits import BLOCK_BYTES_MAX, BUFFER_BYTES_MAX

SLOT_BYTES: Final = BLOCK_BYTES_MAX
SLOTS: Final = 32
MEMORY_BYTES: Final = SLOTS * SLOT_BYTES


def create() -> int:
    """Return the descriptor of such memory; it lives as long as somebody has it open or mapped."""
    descriptor = os.memfd_create("checkvalve-lane", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, MEMORY_BYTES)
    return descriptor


class SharedBuffer(BlockBuffer):
    """A block buffer in slot number *slot*."""

    def __init__(self, symbols: int, symbol_bytes: int, memory: memoryview, slot: int) -> None:
        super().__init__(symbols, symbol_bytes, memory)
        self.slot = slot


class SharedBuffers:
    """The slots, in the process that fills them. ``pool`` hands them out."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, MEMORY_BYTES)
        self._view = memoryview(self._memory)
        self._free = list(range(SLOTS))
        self.pool = BufferPool(SLOTS, BUFFER_BYTES_MAX, self._make, self._discard)

    def _make(self, symbols: int, symbol_bytes: int) -> SharedBuffer:
        slot = self._free.pop(0)
        memory = self._view[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]
        return SharedBuffer(symbols, symbol_bytes, memory, slot)

    def _discard(self, buffer: BlockBuffer) -> None:
        assert isinstance(buffer, SharedBuffer)
        self._free.append(buffer.slot)
        self._memory.madvise(mmap.MADV_REMOVE, buffer.slot * SLOT_BYTES, SLOT_BYTES)  # gives its pages back


class SharedView:
    """The slots, in the process that reads them."""

    def __init__(self, descriptor: int) -> None:
        self._view = memoryview(mmap.mmap(descriptor, MEMORY_BYTES, prot=mmap.PROT_READ))

    def piece(self, slot: int, start: int, size: int) -> memoryview:
        """Return *size* bytes at *start* of a slot; ValueError if they are not within it."""
        if not (0 <= slot < SLOTS and start >= 0 and size > 0 and start + size <= SLOT_BYTES):
            raise ValueError(f"bytes {start} to {start + size} of slot {slot}")
        return self._view[slot * SLOT_BYTES + start : slot * SLOT_BYTES + start + size]
