"""What the kernel is told of a thread: its name, so that top -H and perf tell threads apart, and how it gives way."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Final

BACKGROUND: Final = 5  # nice(2): behind a loop that drives or empties a socket, ahead of what the host has time for


def name_thread(name: str, nice: int = 0) -> None:
    """Name the calling thread (proc(5): comm, at most 15 bytes) and lower its priority; where it can be done."""
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{thread}/comm").write_text(name[:15])
    if nice:
        with contextlib.suppress(OSError):  # the system call may be forbidden
            os.setpriority(os.PRIO_PROCESS, thread, nice)
