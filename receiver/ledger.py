"""What status reads of capture: counters, the live document, what beacons named, the past of the link, and alarms.

Written by a thread of its own. Only the newest state waits to be written, and a bounded number of incidents, so a
locked journal or a full disk costs neither memory nor datagrams.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import structlog

from protocol.beacon import Newest
from receiver.config import Alarms
from receiver.incidents import Incident, Incidents
from receiver.integrity import damage_of
from receiver.journal import ReceiverJournal
from receiver.margin import meter_of
from receiver.meters import Meters
from receiver.watch import Watch
from runtime.database import CHECK_BYTES_MAX
from runtime.threads import name_thread

RETRY_S: Final = 2.0
STOP_S: Final = 5.0
CHECK_S: Final = 3_600.0  # between looks at the journal's bytes: a receiver may run for a year
WATCH_S: Final = 2.0  # between looks at alarms and additions to the past
INCIDENTS_WAITING_MAX: Final = 1_000

log = structlog.get_logger()


class Ledger:
    """Hands the newest figures to the journal. Call from one thread; nothing here waits but :meth:`stop`."""

    def __init__(self, journal_path: Path, alarms: Alarms | None = None) -> None:
        self._path = journal_path
        self._alarms = alarms or Alarms()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._document: dict[str, Any] | None = None
        self._counts: dict[str, int] = {}
        self._told: dict[str, int] = {}  # of the counts, what the journal has
        self._metered: dict[str, int] = {}  # of the counts, what its past has
        self._heard: dict[str, tuple[int, str, float]] = {}
        self._incidents: deque[Incident] = deque(maxlen=INCIDENTS_WAITING_MAX)
        self._watched = 0.0
        self._checked = time.monotonic()
        self._failed = False
        self._thread = threading.Thread(target=self._loop, name="ledger", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; only a journal that is damaged or gone ends it before :meth:`stop`."""
        return self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether the journal cannot be written just now."""
        return self._failed

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

    def note(self, incident: Incident) -> None:
        """Remember that something was dropped, refused or given up."""
        with self._lock:
            self._incidents.append(incident)

    def stop(self) -> None:
        """Write what waits, once, and end the thread."""
        self._stopping.set()
        self._changed.set()
        self._thread.join(STOP_S)

    def _loop(self) -> None:
        name_thread("ledger")
        journal = ReceiverJournal(self._path)
        watch = Watch(journal, self._alarms)
        try:
            while True:
                self._changed.wait()
                self._changed.clear()
                stopping = self._stopping.is_set()
                if journal.replaced:
                    log.critical("journal_gone", path=str(self._path), error="another file is in its place, or none")
                    return
                self._check()
                if not self._write(journal, watch, last=stopping) and not stopping:
                    self._changed.set()
                    self._stopping.wait(RETRY_S)
                elif stopping:
                    break
        except sqlite3.DatabaseError as error:
            log.critical("journal_damaged", path=str(self._path), error=str(error))
        finally:
            journal.close()

    def _check(self) -> None:
        """Read the journal now and then; sqlite3.DatabaseError if it is damaged: the next start mends it."""
        if time.monotonic() - self._checked >= CHECK_S and self._path.stat().st_size <= CHECK_BYTES_MAX:
            self._checked = time.monotonic()
            if (damage := damage_of(self._path)) is not None:
                raise sqlite3.DatabaseError(damage)

    def _write(self, journal: ReceiverJournal, watch: Watch, *, last: bool) -> bool:
        with self._lock:
            document, counts, heard = self._document, self._counts, self._heard
            self._document, self._heard = None, {}
            incidents = list(self._incidents)
        now = time.time()
        try:
            journal.note_capture(document, _risen(counts, self._told), heard, now)
            self._told = counts
            document_written, heard = document, {}
            document = None
            if incidents:
                Incidents(journal).note(incidents, now)
                with self._lock:
                    for _ in incidents[: len(self._incidents)]:
                        self._incidents.popleft()
            if last or (document_written is not None and time.monotonic() - self._watched >= WATCH_S):
                self._look(journal, watch, document_written, counts, now)
        except sqlite3.OperationalError as error:
            if not self._failed:
                log.error("journal_failed", error=str(error), retry_s=RETRY_S)
            self._failed = True
            with self._lock:  # what came meanwhile is newer
                self._document = self._document or document
                self._heard = {**heard, **self._heard}
            return False
        if self._failed:
            log.info("journal_works_again")
        self._failed = False
        return True

    def _look(
        self,
        journal: ReceiverJournal,
        watch: Watch,
        document: dict[str, Any] | None,
        counts: dict[str, int],
        now: float,
    ) -> None:
        """Add to the link's past, and judge what is wrong."""
        since = _risen(counts, self._metered)
        if any(since.values()):
            Meters(journal).add(meter_of(since), now)
        self._metered = counts
        if (
            document is not None and document.get("state") != "stopped"
        ):  # what stood, stands until somebody looks again
            watch.look(document, now)
        self._watched = time.monotonic()


def _risen(counts: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in counts.items()}
