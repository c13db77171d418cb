"""One process of each role for a state folder: a lock that ends with the process, whatever ends it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import UserError
from runtime.lockfile import Busy, locked


@contextmanager
def alone(folder: Path, role: str) -> Iterator[None]:
    """Hold the lock of *role* in *folder*, made if absent, while the body runs.

    UserError if another process holds it, or if the lock cannot be opened.
    """
    try:
        with locked(_lock(folder, role)):
            yield
    except Busy:
        raise UserError(f"{folder}: a {role} role is at work here already; stop it first") from None


def at_work(folder: Path, role: str) -> bool:
    """Whether a process holds the lock of *role*; False also where that cannot be told."""
    try:
        handle = os.open(_lock(folder, role), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _lock(folder: Path, role: str) -> Path:
    return folder / f"{role}.lock"
