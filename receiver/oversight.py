"""Publish's own eye on what a person has to decide or mend: border, retention, unusable releases, and the other role.

Runs in a thread with a connection of its own, so nothing that publishes waits for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from receiver.alarms import BY_PUBLISH
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.senders import Trust
from receiver.standing import standing
from receiver.survey import Survey
from receiver.watch import StandingAlarms

_REST: Final = 50  # times as long as a look took: at most two per cent of a core go to looking

log = structlog.get_logger()


class Oversight:
    """Judges the alarms that are publish's, *every* so many seconds; one for each life of the role."""

    def __init__(self, settings: ReceiverSettings, trust: Trust, every: float) -> None:
        self._settings = settings
        self._trust = trust
        self._every = every
        self._failed = False

    async def run(self) -> None:
        """Look until cancelled. The first time when capture, started together with us, has had time to report."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="oversight") as thread:
            journal = await loop.run_in_executor(thread, ReceiverJournal, self._settings.journal)
            survey = Survey(journal, self._settings.spool, self._trust)
            try:
                await asyncio.sleep(2 * self._every)
                while True:
                    took = await loop.run_in_executor(thread, self._look, journal, survey)
                    await asyncio.sleep(max(self._every, took * _REST))
            finally:
                thread.submit(journal.close).result()

    def _look(self, journal: ReceiverJournal, survey: Survey) -> float:
        """Judge once; return how long it took (s)."""
        began, now = time.monotonic(), time.time()
        try:
            found = standing(self._settings, journal, survey.collections(), now)
            StandingAlarms(journal, BY_PUBLISH).settle([each for each in found if each.code in BY_PUBLISH], now)
        except sqlite3.OperationalError as error:
            if not self._failed:
                log.warning("alarms_not_judged", error=str(error))
            self._failed = True
        else:
            self._failed = False
        return time.monotonic() - began
