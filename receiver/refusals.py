"""Puts releases that capture refused into the audit log: each once, and a sender gone bad must not fill the disk.

What cannot be recorded is logged, and stops no reception.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import structlog

from protocol.errors import WireError
from receiver.audit import Audit, Broken
from runtime.errors import UserError

A_DAY_S: Final = 86_400.0
REFUSALS_MAX: Final = 100  # in a day, of one process; the counters of status go on

log = structlog.get_logger()


class Refusals:
    """Use from one thread."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._noted: OrderedDict[str, float] = OrderedDict()  # digest -> when (Unix s), the oldest first

    def note(self, digest: str, error: WireError, now: float) -> None:
        """Record that the release object *digest* was refused, and why."""
        while self._noted and abs(now - next(iter(self._noted.values()))) > A_DAY_S:
            self._noted.popitem(last=False)
        if digest in self._noted or len(self._noted) >= REFUSALS_MAX:
            return
        self._noted[digest] = now
        try:
            self._audit.append("release_refused", object=digest, reason=str(error))
        except (OSError, Broken, UserError) as fault:
            log.error("audit_log_failed", error=str(fault), file=str(self._audit.path))
