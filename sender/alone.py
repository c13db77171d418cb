"""One process of each role for a state folder: a lock that ends with the process, whatever ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import UserError
from runtime.lockfile import Busy, locked
from sender.config import SenderSettings


@contextmanager
def alone(settings: SenderSettings, role: str) -> Iterator[None]:
    """Hold the lock of *role* (fetch, transmit) while the body runs. UserError if another process holds it.

    Two fetch roles would do everything twice; two transmit roles would each end the other's session at the
    receivers, since the higher epoch closes the lower one.
    """
    try:
        with locked(settings.state / f"{role}.lock"):
            yield
    except Busy:
        raise UserError(f"{settings.state}: a {role} role is at work here already; stop it first") from None
