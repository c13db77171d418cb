"""Lays the datagrams of one ``recvmmsg`` out as a GRO burst is: equal ones end to end from the buffer's start.

The kernel writes each datagram into a slot. A slot is as large as the largest datagram of late, and a session's
datagrams are all equal, so that as a rule the slots are the burst. Where sizes differ, the datagrams are handed over
in runs, one a call, each moved to the start of the buffer; no memory beyond the buffer is used.
"""

from __future__ import annotations

from typing import Final

from protocol.limits import DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN
from runtime.mmsg import ReceiveVector

SLOT_MAX: Final = DATAGRAM_BYTES_MAX + 1  # so that what is too large for any session shows
SETTLE_DATAGRAMS: Final = 128  # received, none as large as a slot, before slots shrink

Run = tuple[int, int, int]  # start in the buffer, bytes, size of each datagram: the last may be shorter


class SlotReceiver:
    """Receives into *memory*. Slots start at the largest size a session may have and shrink to what arrives."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.pending: list[Run] = []  # in reverse order
        self._vector = ReceiveVector(memory, SLOT_MAX)
        self._largest = self._seen = 0

    @property
    def kernel_drops(self) -> int:
        """What the kernel has dropped since the socket was made, as the newest datagram tells."""
        return self._vector.kernel_drops

    def receive(self, fd: int) -> tuple[int, int]:
        """Return (bytes, size of each datagram), the next run being at the start of the memory; (0, 1): an empty one.

        BlockingIOError if nothing is there; other OSErrors are the system call's.
        """
        if self.pending:
            return self.hand_over(self.memory)
        try:
            sizes = self._vector.receive(fd)
        except InterruptedError:
            return self.receive(fd)
        slot = self._vector.slot
        count = len(sizes)
        if sizes.count(slot) == count:  # the rule
            self._seen = self._largest = 0
            return count * slot, slot
        self.pending = runs(sizes, slot)
        self.pending.reverse()
        self._settle(max(sizes), count)
        return self.hand_over(self.memory)

    def hand_over(self, into: memoryview) -> tuple[int, int]:
        """Move the next pending run to the start of *into*; return (bytes, size of each datagram)."""
        start, size, segment = self.pending.pop()
        if start or into is not self.memory:
            into[:size] = self.memory[start : start + size]
        return size, segment

    def _settle(self, largest: int, count: int) -> None:
        """Fit the slots to what arrives; they grow at once. What is pending stays where it is."""
        slot = self._vector.slot
        if largest >= slot:
            self._seen = self._largest = 0
            if slot < largest:
                self._vector.slice(min(largest, SLOT_MAX))
            return
        self._largest = max(self._largest, largest)
        self._seen += count
        if self._seen >= SETTLE_DATAGRAMS:
            self._vector.slice(max(self._largest, DATAGRAM_BYTES_MIN))
            self._seen = self._largest = 0


def runs(sizes: list[int], slot: int) -> list[Run]:
    """Return the runs of datagrams of *sizes*, each in a slot of *slot* bytes, in order.

    Full slots in a row are one run, and a shorter datagram may end it. A datagram larger than its slot was
    overwritten by the next, unless it is the last one: then it is cut to one byte less than a slot, which no session
    takes for a whole datagram.
    """
    found: list[Run] = []
    start = full = 0
    last = len(sizes) - 1
    for index, size in enumerate(sizes):
        if size == slot:
            start = start if full else index
            full += 1
            continue
        if size > slot and index < last:
            size = slot - 1
        if full and 0 < size < slot:
            found.append((start * slot, full * slot + size, slot))
        else:
            if full:
                found.append((start * slot, full * slot, slot))
            found.append((index * slot, size, size or 1))
        full = 0
    if full:
        found.append((start * slot, full * slot, slot))
    return found
