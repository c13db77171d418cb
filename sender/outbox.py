"""What transmit has yet to tell the journal: kept in order while the journal is locked or its disk is full."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

RETRY_S: Final = 2.0

log = structlog.get_logger()


class Outbox:
    """Actions on the journal that must not be lost and must not stop the wire. Use from one thread."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._failed = False

    def later(self, action: Callable[[], None]) -> None:
        """Keep *action* for the next :meth:`deliver`."""
        self._waiting.append(action)

    def deliver(self) -> None:
        """Run what waits, in order; sqlite3.OperationalError leaves the rest waiting."""
        while self._waiting:
            self._waiting[0]()
            self._waiting.popleft()

    def attempt(self, action: Callable[[], None]) -> bool:
        """Run *action*; False if the journal or its disk failed, which is logged once and to be tried again."""
        try:
            action()
        except (sqlite3.OperationalError, OSError) as error:
            if not self._failed:
                log.error("journal_failed", error=str(error), retry_s=RETRY_S)
            self._failed = True
            return False
        if self._failed:
            log.info("journal_works_again")
        self._failed = False
        return True
