"""Reads and encodes source blocks ahead of the wire, into reused buffers, in a thread. Order is the caller's.

A codeword is encoded right after it was read, while it is in the cache; both leave the interpreter to others.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.buffers import BlockBuffer, BufferPool, block_symbols
from protocol.errors import ProtocolMisuse
from protocol.geometry import BlockShape
from protocol.limits import BLOCK_BYTES_MAX
from protocol.outgoing import BlockEncoder
from sender.journal import QueuedObject

BUFFERS: Final = 3  # one on the wire, one ready, one being read


class BlockUnreadable(Exception):
    """The coded bytes of an object are gone, short or cannot be read; ``str()`` says why."""

    def __init__(self, queued: QueuedObject, reason: str) -> None:
        super().__init__(reason)
        self.queued = queued


@dataclass(slots=True)
class ReadyBlock:
    """A source block in memory; once peek returns it, with its repair symbols."""

    queued: QueuedObject
    shape: BlockShape
    last: bool  # of its object's pass
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
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="blocks")
        self._ahead: deque[tuple[ReadyBlock, Future[None]]] = deque()
        self._file: tuple[Path, int] | None = None  # of the reading thread

    @property
    def has_room(self) -> bool:
        """Whether :meth:`start` has a buffer to read into."""
        return not self._pool.exhausted

    def start(self, queued: QueuedObject, shape: BlockShape, last: bool) -> None:
        """Begin to read a block; only while has_room."""
        buffer = self._pool.take(block_symbols(shape), self._symbol_bytes)
        if buffer is None:
            raise ProtocolMisuse("no buffer is free")
        block = ReadyBlock(queued, shape, last, BlockEncoder(shape, buffer))
        self._ahead.append((block, self._executor.submit(self._read, block)))

    def objects(self) -> list[QueuedObject]:
        """Return the object of each block ahead, in order."""
        return [block.queued for block, _ in self._ahead]

    def peek(self) -> ReadyBlock | None:
        """Return the next block if it has been read; BlockUnreadable (once) if it could not be."""
        if not self._ahead or not self._ahead[0][1].done():
            return None
        block, future = self._ahead[0]
        error = future.exception()
        if error is not None:
            self._ahead.popleft()
            self._pool.give_back(block.buffer)
            raise BlockUnreadable(block.queued, str(error))
        return block

    def pop(self) -> None:
        """Take the block that peek returned off the queue; its buffer is the caller's until give_back."""
        self._ahead.popleft()

    def give_back(self, buffer: BlockBuffer) -> None:
        """Return the buffer of a block that has left."""
        self._pool.give_back(buffer)

    def drop(self, queued_id: int) -> None:
        """Forget the blocks ahead of one object."""
        for block, future in [pair for pair in self._ahead if pair[0].queued.id == queued_id]:
            future.exception()  # waits for a read in progress
            self._ahead.remove((block, future))
            self._pool.give_back(block.buffer)

    def close(self) -> None:
        """Stop reading."""
        self._executor.shutdown(cancel_futures=True)
        self._close_file()

    def _read(self, block: ReadyBlock) -> None:
        path = block.queued.path
        if self._file is None or self._file[0] != path:
            self._close_file()
            self._file = (path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            for column in range(block.shape.depth):
                self._fill(block, *block.encoded.codeword(column))
                block.encoded.encode_until(column + 1)
        except OSError:
            self._close_file()  # whatever is put at this path next must be opened anew
            raise

    def _fill(self, block: ReadyBlock, at: int, end: int) -> None:
        """Read bytes *at* to *end* of the block into their place."""
        assert self._file is not None
        path, descriptor = self._file
        while at < end:
            count = os.preadv(descriptor, [block.buffer.memory[at:end]], block.shape.offset + at)
            if count == 0:
                raise OSError(f"{path}: ends at {block.shape.offset + at} of {block.queued.coded_size} bytes")
            at += count

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file[1])
            self._file = None
