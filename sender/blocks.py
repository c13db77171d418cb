"""Reads and encodes source blocks ahead of the wire, into reused buffers, in a thread. Order is the caller's.

A codeword is encoded right after it was read, while it is in the cache; both leave the interpreter to others. The
thread gives way to the one that drives the wire, which wakes up for each burst: late by milliseconds otherwise.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.buffers import BlockBuffer, BufferPool, block_symbols
from protocol.errors import ProtocolMisuse
from protocol.geometry import BlockShape
from protocol.limits import BLOCK_BYTES_MAX
from protocol.objects import ObjectEntry
from protocol.outgoing import BlockEncoder
from runtime.threads import BACKGROUND, name_thread

BUFFERS: Final = 3  # one on the wire, one ready, one being read


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A block to be sent: where its object's coded bytes are, and what the session calls it."""

    object_id: int  # of the journal
    path: Path
    entry: ObjectEntry
    shape: BlockShape
    rank: int = 0  # sender.schedule.Rank


class BlockUnreadable(Exception):
    """The coded bytes of an object are gone, short or cannot be read; ``str()`` says why."""

    def __init__(self, order: Order, reason: str) -> None:
        super().__init__(reason)
        self.order = order


@dataclass(slots=True)
class ReadyBlock:
    """A source block in memory; once peek returns it, with its repair symbols."""

    order: Order
    encoded: BlockEncoder

    @property
    def buffer(self) -> BlockBuffer:
        """Where it is."""
        return self.encoded.buffer


class BlockReader:
    """A short queue of blocks between disk and wire; nothing here waits but the reading thread."""

    def __init__(self, symbol_bytes: int) -> None:
        self._symbol_bytes = symbol_bytes
        self._pool = BufferPool(BUFFERS, BUFFERS * BLOCK_BYTES_MAX)
        self._executor = ThreadPoolExecutor(1, "blocks", name_thread, ("blocks", BACKGROUND))
        self._ahead: deque[tuple[ReadyBlock, Future[None]]] = deque()
        self._dropped: list[tuple[ReadyBlock, Future[None]]] = []  # of which one may still be read
        self._file: tuple[Path, int] | None = None  # of the reading thread

    @property
    def has_room(self) -> bool:
        """Whether :meth:`start` has a buffer to read into."""
        return not self._pool.exhausted

    def start(self, order: Order) -> None:
        """Begin to read a block; only while has_room."""
        buffer = self._pool.take(block_symbols(order.shape), self._symbol_bytes)
        if buffer is None:
            raise ProtocolMisuse("no buffer is free")
        block = ReadyBlock(order, BlockEncoder(order.shape, buffer))
        self._ahead.append((block, self._executor.submit(self._read, block)))

    def orders(self) -> list[Order]:
        """Return the blocks ahead, in order."""
        return [block.order for block, _ in self._ahead]

    def peek(self) -> ReadyBlock | None:
        """Return the next block if it has been read; BlockUnreadable (once) if it could not be."""
        if not self._ahead or not self._ahead[0][1].done():
            return None
        block, future = self._ahead[0]
        error = future.exception()
        if error is not None:
            self._ahead.popleft()
            self._pool.give_back(block.buffer)
            raise BlockUnreadable(block.order, str(error))
        return block

    def pop(self) -> None:
        """Take the block that peek returned off the queue; its buffer is the caller's until give_back."""
        self._ahead.popleft()

    def give_back(self, buffer: BlockBuffer) -> None:
        """Return the buffer of a block that has left."""
        self._pool.give_back(buffer)

    def drop(self, unwanted: Callable[[Order], bool]) -> None:
        """Take blocks off the queue; swept returns them, one that is being read once that is over."""
        for pair in [pair for pair in self._ahead if unwanted(pair[0].order)]:
            pair[1].cancel()
            self._ahead.remove(pair)
            self._dropped.append(pair)

    @property
    def sweeping(self) -> bool:
        """Whether :meth:`swept` has something to return, now or soon."""
        return bool(self._dropped)

    def swept(self) -> list[Order]:
        """Return the dropped blocks whose buffers are free again, each once."""
        free = [pair for pair in self._dropped if pair[1].done()]
        for pair in free:
            self._dropped.remove(pair)
            self._pool.give_back(pair[0].buffer)
        return [block.order for block, _ in free]

    def close(self) -> None:
        """Stop reading."""
        self._executor.shutdown(cancel_futures=True)
        self._close_file()

    def _read(self, block: ReadyBlock) -> None:
        path = block.order.path
        if self._file is None or self._file[0] != path:
            self._close_file()
            self._file = (path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            for column in range(block.order.shape.depth):
                self._fill(block, *block.encoded.codeword(column))
                block.encoded.encode_until(column + 1)
        except OSError:
            self._close_file()  # whatever is put at this path next must be opened anew
            raise

    def _fill(self, block: ReadyBlock, at: int, end: int) -> None:
        """Read bytes *at* to *end* of the block into their place."""
        assert self._file is not None
        (path, descriptor), shape = self._file, block.order.shape
        while at < end:
            count = os.preadv(descriptor, [block.buffer.memory[at:end]], shape.offset + at)
            if count == 0:
                raise OSError(f"{path}: ends at {shape.offset + at} of {block.order.entry.geometry.size} bytes")
            at += count

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file[1])
            self._file = None
