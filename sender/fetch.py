"""The fetch role: from images.yaml to objects in the queue and a proposal in the journal.

    images.py ─▶ sources.py ─▶ spool ─▶ prepare.py ─▶ queue;  desired.py ─▶ proposal

Faces the Internet and holds no signing key. What one image cannot have, no other image suffers from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog

from oci.layout import Layout
from runtime import logs, notify
from runtime.errors import UserError, print_error
from runtime.terminal import SUPERVISED, Progress
from sender.alone import alone
from sender.config import SenderSettings
from sender.edits import Edits
from sender.fetch_round import Outcome, Round
from sender.images import ImageList, load_images
from sender.journal import SenderJournal
from sender.prepare import Preparer
from sender.sources import Sources

ROLE: Final = "fetch"
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger()


def main(settings: SenderSettings, *, once: bool = False, round_token: str | None = None) -> int:
    """Run the role until stopped; with *once* one round. Returns 0, 1 if anything failed, 128 + N after signal N.

    With a *round_token* the journal learns that the round is over, whatever happened in it.
    """
    logs.configure(settings.logs.format, settings.logs.level)
    journal = SenderJournal(settings.journal)
    role = _Role(settings, journal, once=once, token=round_token)
    try:
        with alone(settings, ROLE):
            return asyncio.run(role.run())
    except sqlite3.Error as error:
        raise UserError(f"{settings.journal}: {error}; check the disk's room and who else uses the file") from None
    finally:
        with contextlib.suppress(sqlite3.Error):
            if round_token is not None:
                journal.finish_round(round_token, role.failed, time.time())
            journal.close()


class _Role:
    """The process: signals, rounds, and what ``status`` and systemd see of them."""

    def __init__(self, settings: SenderSettings, journal: SenderJournal, *, once: bool, token: str | None) -> None:
        self._settings = settings
        self._journal = journal
        self._once = once
        self._token = token
        self._signum: int | None = None
        self._said: set[str] = set()
        self.failed = 1  # until a round has shown otherwise

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self._rounds())
        alive = asyncio.ensure_future(_keep_watchdog())

        def stop(signum: int) -> None:
            self._signum = signum
            task.cancel()

        for signum in _SIGNALS:
            loop.add_signal_handler(signum, stop, signum)
        try:
            return await task
        except asyncio.CancelledError:
            if self._signum is None:
                raise
            return 128 + self._signum if self._once else 0
        finally:
            alive.cancel()
            notify.stopping()
            self._publish("stopped")

    async def _rounds(self) -> int:
        self._publish("starting")
        spool = Layout(self._settings.spool)
        scratch = self._settings.state / "scratch"
        async with AsyncExitStack() as stack:
            sources = await stack.enter_async_context(Sources(self._settings.fetch, scratch))
            preparer = stack.enter_context(Preparer(self._settings, spool.blobs))
            progress = stack.enter_context(Progress())
            changes = self._changes()
            first = True
            async for _ in changes:
                images = self._load(must=self._once)
                if images is not None:
                    one = Round(self._settings, self._journal, spool, preparer, progress, self._report, sources)
                    await self._round(one, images)
                if first:
                    notify.ready()
                    first = False
                if self._once:
                    await changes.aclose()
                    return 1 if self.failed else 0
        raise AssertionError("the stream of changes has no end")

    async def _round(self, one: Round, images: ImageList) -> None:
        self._publish("fetching", images=len(images.images), faults=list(images.faults))
        outcome = await one.run(images)
        self.failed = outcome.failed
        self._publish("idle", images=len(images.images), faults=list(images.faults), **_counts(outcome))
        notify.status(f"{outcome.ready} images ready, {outcome.failed} failed")
        if outcome.failed == 0:
            self._said.clear()
        if self._once and not os.environ.get(SUPERVISED):
            plural = "" if outcome.objects == 1 else "s"
            print(f"{outcome.ready} ready, {outcome.failed} failed; queued {outcome.objects} object{plural}")
        elif outcome.objects or outcome.proposed:
            log.info("round_finished", **_counts(outcome))

    def _load(self, *, must: bool) -> ImageList | None:
        """Read images.yaml; None, with the fault told, where the state before is to stay."""
        try:
            images = load_images(self._settings.images)
        except UserError as error:
            if must:
                raise
            self._report(str(error))
            self._publish("waiting", faults=str(error).splitlines())
            return None
        for fault in images.faults:
            self._report(fault)
        return images

    def _report(self, line: str) -> None:
        """Tell a failure once, not at every retry."""
        if self._once:
            print_error(UserError(line))
        elif line not in self._said:
            self._said.add(line)
            log.error("failed", problem=line)

    async def _changes(self) -> AsyncGenerator[None, None]:
        """Yield at once, then whenever images.yaml was edited and at every fetch.interval."""
        edits = Edits(self._settings.images)
        watch = asyncio.ensure_future(edits.watch())
        try:
            while True:
                edits.reading()
                yield
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(edits.changed.wait(), self._settings.fetch.interval or None)
        finally:
            watch.cancel()

    def _publish(self, state: str, **more: Any) -> None:
        document = {"state": state, "pid": os.getpid(), "round": self._token, "once": self._once, **more}
        self._journal.set_live(ROLE, document, time.time())


async def _keep_watchdog() -> None:
    """Tell systemd, if it asks, that the event loop turns; threads do the slow work."""
    interval_s = notify.watchdog_interval_s()
    while interval_s is not None:
        notify.watchdog()
        await asyncio.sleep(interval_s)


def _counts(outcome: Outcome) -> dict[str, int]:
    return {"ready": outcome.ready, "failed": outcome.failed, "queued": outcome.objects}
