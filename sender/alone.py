"""One fetch and one transmit role for a state folder."""

from __future__ import annotations

from contextlib import AbstractContextManager

from runtime import alone as locks
from sender.config import SenderSettings


def alone(settings: SenderSettings, role: str) -> AbstractContextManager[None]:
    """Hold the lock of *role* (fetch, transmit) while the body runs. UserError if another process holds it.

    Two fetch roles would do everything twice; two transmit roles would each end the other's session at the
    receivers, since the higher epoch closes the lower one.
    """
    return locks.alone(settings.state, role)
