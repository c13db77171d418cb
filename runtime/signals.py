"""A flag that SIGTERM and SIGINT set, for roles whose main loop is a thread and not an event loop."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from types import FrameType
from typing import Self


class StopFlag:
    """Set once by SIGTERM or SIGINT, or by ``set()``. A second signal acts as if nobody had caught it.

    ``with StopFlag() as stop:`` in the main thread installs the handlers and puts the former ones back.
    """

    def __init__(self) -> None:
        self._set = False
        # A pipe and no threading.Event: the handler runs in the midst of wait(), which would hold the Event's lock.
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._former: dict[int, signal._HANDLER] = {}
        self.signum: int | None = None

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def __enter__(self) -> Self:
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._former[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        self._former.clear()

    def is_set(self) -> bool:
        """Whether it is time to stop."""
        return self._set

    def set(self) -> None:
        """Ask for the stop without a signal."""
        self._set = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def wait(self, timeout_s: float | None = None, readable: Iterable[int] = ()) -> bool:
        """Sleep until the stop, ``timeout_s`` or a descriptor that is ``readable``; True if it is time to stop."""
        if not self._set:
            poll = select.poll()  # one for each call: several threads may wait
            for descriptor in (self._read, *readable):
                poll.register(descriptor, select.POLLIN)
            poll.poll(None if timeout_s is None else max(timeout_s, 0.0) * 1000)
        return self._set

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self.set()
        signal.signal(signum, signal.SIG_DFL)
