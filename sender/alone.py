"""One process of each role for a state folder: a lock that ends with the process, whatever ends it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import UserError
from sender.config import SenderSettings


@contextmanager
def alone(settings: SenderSettings, role: str) -> Iterator[None]:
    """Hold the lock of *role* (fetch, transmit) while the body runs. UserError if another process holds it.

    Two fetch roles would do everything twice; two transmit roles would each end the other's session at the
    receivers, since the higher epoch closes the lower one.
    """
    path = settings.state / f"{role}.lock"
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}; check owner and mode") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"{settings.state}: a {role} role is at work here already; stop it first") from None
    finally:
        os.close(handle)
