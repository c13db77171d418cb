"""What status reads of capture: counters, the live document, what beacons named. Written by a thread of its own.

Only the newest state waits to be written, so a locked journal or a full disk costs neither memory nor datagrams.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import structlog

from protocol.beacon import Newest
from receiver.journal import ReceiverJournal
from runtime.threads import name_thread

RETRY_S: Final = 2.0
STOP_S: Final = 5.0

log = structlog.get_logger()


class Ledger:
    """Hands the newest figures to the journal. Call from one thread; nothing here waits but :meth:`stop`."""

    def __init__(self, journal_path: Path) -> None:
        self._path = journal_path
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._document: dict[str, Any] | None = None
        self._counts: dict[str, int] = {}
        self._told: dict[str, int] = {}  # of the counts, what the journal has
        self._heard: dict[str, tuple[int, str, float]] = {}
        self._failed = False
        self._thread = threading.Thread(target=self._loop, name="ledger", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; only a broken invariant ends it before :meth:`stop`."""
        return self._thread.is_alive()

    def publish(self, document: dict[str, Any], counts: dict[str, int]) -> None:
        """Replace the live document and the counts since this process began."""
        with self._lock:
            self._document, self._counts = document, dict(counts)
        self._changed.set()

    def heard(self, newest: Iterable[Newest], now: float) -> None:
        """Note what a beacon named."""
        with self._lock:
            for each in newest:
                self._heard[each.collection] = each.sequence, each.digest, now
        self._changed.set()

    def stop(self) -> None:
        """Write what waits, once, and end the thread."""
        self._stopping.set()
        self._changed.set()
        self._thread.join(STOP_S)

    def _loop(self) -> None:
        name_thread("ledger")
        journal = ReceiverJournal(self._path)
        while True:
            self._changed.wait()
            self._changed.clear()
            stopping = self._stopping.is_set()
            if not self._write(journal) and not stopping:
                self._changed.set()
                self._stopping.wait(RETRY_S)
            elif stopping:
                break
        journal.close()

    def _write(self, journal: ReceiverJournal) -> bool:
        with self._lock:
            document, counts, heard = self._document, self._counts, self._heard
            self._document, self._heard = None, {}
        since = {name: count - self._told.get(name, 0) for name, count in counts.items()}
        try:
            journal.note_capture(document, since, heard, time.time())
        except sqlite3.OperationalError as error:
            if not self._failed:
                log.error("journal_failed", error=str(error), retry_s=RETRY_S)
            self._failed = True
            with self._lock:  # what came meanwhile is newer
                self._document = self._document or document
                self._heard = {**heard, **self._heard}
            return False
        self._told = counts
        if self._failed:
            log.info("journal_works_again")
        self._failed = False
        return True
