"""One process of each role for a state folder: a lock that ends with the process, whatever ends it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import UserError


@contextmanager
def alone(folder: Path, role: str) -> Iterator[None]:
    """Hold the lock of *role* in *folder*, made if absent, while the body runs.

    UserError if another process holds it, or if the lock cannot be opened.
    """
    path = _lock(folder, role)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}; check owner and mode") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"{folder}: a {role} role is at work here already; stop it first") from None
    finally:
        os.close(handle)


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
