"""SHA-256 of objects while they arrive, so that a whole one needs little more than its last block hashed.

A thread reads each partial file behind the writer, as far as it has no gap; what it has read so far is not written
again (assemble.py). It gives way to the receive loop: a digest that lags costs time at the end, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runtime.threads import BACKGROUND, name_thread

if TYPE_CHECKING:
    from hashlib import _Hash

FOLLOWED_MAX: Final = 8  # objects at once; any other is hashed when it is whole
READ_BYTES: Final = 1024 * 1024  # small enough to stay in the cache between being read and being hashed


@dataclass
class Head:
    """The digest of the first *size* bytes of an object; ``state`` may be carried on."""

    state: _Hash = field(default_factory=hashlib.sha256)
    size: int = 0


@dataclass
class _Run:
    path: Path
    head: Head
    end: int  # bytes from the start that may be read
    descriptor: int = -1
    busy: bool = False


class RunningDigests:
    """Digests of partial files by coded digest. ``follow`` is the reading thread's body; others call the rest."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._stopping = False

    def advance(self, coded_digest: str, path: Path, end: int) -> None:
        """Say that the first *end* bytes of the file at *path* are there."""
        with self._changed:
            run = self._runs.get(coded_digest)
            if run is None:
                if not end:
                    return
                while len(self._runs) >= FOLLOWED_MAX:
                    self._end(next(iter(self._runs)))
                run = self._runs[coded_digest] = _Run(path, Head(), 0)
            run.end = end
            self._runs.move_to_end(coded_digest)
            self._changed.notify_all()

    def take(self, coded_digest: str) -> Head | None:
        """Stop following an object; return its digest as far as it got."""
        with self._changed:
            run = self._end(coded_digest)
            return run.head if run is not None else None

    def forget(self, coded_digest: str) -> None:
        """Stop following an object whose bytes are no more what they were."""
        self.take(coded_digest)

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def follow(self) -> None:
        """Read and hash until stopped."""
        name_thread("digests", BACKGROUND)
        buffer = memoryview(bytearray(READ_BYTES))
        while (run := self._next()) is not None:
            count = 0
            try:
                count = self._read(run, buffer)
            finally:
                with self._changed:
                    run.busy = False
                    run.head.size += count
                    if not count:  # gone, or shorter than was said: who takes the object in will see what it is
                        run.end = run.head.size
                    self._changed.notify_all()
        with self._changed:
            for coded_digest in list(self._runs):
                self._end(coded_digest)

    def _next(self) -> _Run | None:
        """Wait for a run that has something to read, and mark it busy; None when stopped."""
        with self._changed:
            while not self._stopping:
                for run in self._runs.values():
                    if run.head.size < run.end:
                        run.busy = True
                        return run
                self._changed.wait()
            return None

    @staticmethod
    def _read(run: _Run, buffer: memoryview) -> int:
        size = min(len(buffer), run.end - run.head.size)
        try:
            if run.descriptor < 0:
                run.descriptor = os.open(run.path, os.O_RDONLY | os.O_CLOEXEC)
            count = os.preadv(run.descriptor, [buffer[:size]], run.head.size)
        except OSError:
            return 0
        run.head.state.update(buffer[:count])
        return count

    def _end(self, coded_digest: str) -> _Run | None:
        """Take a run out, once nobody reads in it; the condition is held."""
        run = self._runs.pop(coded_digest, None)
        if run is None:
            return None
        while run.busy:
            self._changed.wait()
        if run.descriptor >= 0:
            os.close(run.descriptor)
        return run
