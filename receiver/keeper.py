"""Retention at work within publish: counts time, sees which releases are kept, and removes the rest when due.

Looks once a minute, in a thread. Removes when the kept releases have changed, or some hours have passed, and nothing
is being published; never waits for long. What fails is tried again at the next look.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Final

import structlog

from oci.errors import OciError
from receiver.config import ReceiverSettings
from receiver.gc import Outcome, collect
from receiver.image_job import Workshop
from receiver.journal import ReceiverJournal
from receiver.retention import Keeping, Key
from receiver.target import PublishTarget
from runtime.database import transaction
from runtime.errors import UserError
from runtime.lockfile import Busy

ROLE: Final = "retention"  # of the live document
AGAIN_S: Final = 6 * 3600.0  # contents that no release names come of age without one
LATER: Final = 5  # looks, before what could not be done is tried again
PATIENCE_S: Final = 3600.0  # longer than this an image that does not get through holds nothing up

log = structlog.get_logger()


class Keeper:
    """One for each publisher. *journal* belongs to the event loop; *idle* says whether nothing is being
    published; a look *every* so many seconds."""

    def __init__(
        self,
        settings: ReceiverSettings,
        journal: ReceiverJournal,
        targets: list[tuple[PublishTarget, Workshop]],
        idle: Callable[[], bool],
        every: float,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._targets = targets
        self._every = every
        self._idle = idle
        self._done: frozenset[Key] | None = None
        self._done_at = 0.0
        self._not_before = 0.0
        self._told: str | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        last = time.monotonic()
        due_since: float | None = None
        fresh = True
        while True:
            try:
                now = time.monotonic()
                kept = await asyncio.to_thread(self._look, now - last, fresh)
                last, fresh = now, False
                due = kept != self._done or now - self._done_at > AGAIN_S
                due_since = (due_since or now) if due else None
                ready = self._idle() or (due_since is not None and now - due_since > PATIENCE_S)
                if due and ready and now >= self._not_before:
                    await self._collect(kept)
            except Busy:
                pass  # an import or an archive is being made
            except (OciError, UserError, OSError, sqlite3.OperationalError) as error:
                if str(error) != self._told:
                    log.warning("retention_waits", error=str(error))
                self._told = str(error)
            await asyncio.sleep(self._every)

    def _look(self, elapsed: float, fresh: bool) -> frozenset[Key]:
        """Count *elapsed* seconds; return the releases that are kept now."""
        journal = ReceiverJournal(self._settings.journal)
        try:
            if fresh:  # what the target did not let go may go by now: somebody has started us again
                with transaction(journal.connection) as connection:
                    connection.execute("DELETE FROM undeletable")
            keeping = Keeping(journal, self._settings.retention)
            keeping.tick(elapsed)
            return frozenset(keeping.kept())
        finally:
            journal.close()

    async def _collect(self, kept: frozenset[Key]) -> None:
        gates = [(target, shop.gates) for target, shop in self._targets]
        outcome = await collect(self._settings, self._journal, gates)
        for target, shop in self._targets:
            for place in outcome.done.get(target.name, ()):
                shop.published.pop(place, None)
        if outcome.complete:
            self._done, self._done_at = kept, time.monotonic()
        else:  # a target is away, or in use
            self._not_before = time.monotonic() + LATER * self._every
        self._told = None
        if outcome.spool or outcome.pruned.done or outcome.plan.retire:
            self._journal.set_live(ROLE, summary(outcome), time.time())


def summary(outcome: Outcome) -> dict[str, object]:
    """Return what went, for programs. Sizes in bytes."""
    return {
        "complete": outcome.complete,
        "releases": [list(key) for key in outcome.plan.retire],
        "tags": outcome.pruned.tags,
        "manifests": outcome.pruned.manifests,
        "target_bytes": outcome.pruned.content_bytes,
        "spool_contents": len(outcome.spool),
        "spool_bytes": sum(size for _, size in outcome.spool),
    }
