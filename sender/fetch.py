"""The fetch role: runs the pipeline once, or for as long as the process lives.

Faces the Internet and holds no signing key. What one image cannot have, no other image suffers from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import structlog

from runtime import logs, notify
from runtime.errors import UserError, print_error
from runtime.reload import AGAIN, Reload
from runtime.terminal import SUPERVISED, Progress
from sender.alone import alone
from sender.config import Fetch, SenderSettings
from sender.edits import Edits
from sender.fetcher import Fetcher, Ready
from sender.images import PinnedImage
from sender.journal import SenderJournal
from sender.pipeline import Pipeline

ROLE: Final = "fetch"
LOOK_S: Final = 1.0  # between looks for images that `send` asks for
CALM_S: Final = 0.05
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

if TYPE_CHECKING:
    from sender.webhook import WebhookServer

log = structlog.get_logger()


def main(
    settings: SenderSettings,
    *,
    once: bool = False,
    round_token: str | None = None,
    read: Callable[[], SenderSettings] | None = None,
) -> int:
    """Run the role until stopped; with *once* one round. Returns 0, 1 if anything failed, 128 + N after signal N.

    With a *round_token* the journal learns that the round is over, whatever happened in it. *read* gives newer
    settings when SIGHUP asks for them.
    """
    logs.configure(settings.logs.format, settings.logs.level)
    with Reload(settings, None if once else read, ("state",)) as reload:
        return reload.serve(lambda current: _run(current, reload, once=once, round_token=round_token))


def _run(settings: SenderSettings, reload: Reload[SenderSettings], *, once: bool, round_token: str | None) -> int:
    journal = SenderJournal(settings.journal)
    role = _Role(settings, journal, reload, once=once, token=round_token)
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
    """The process: signals, timing, and what ``status`` and systemd see of it."""

    def __init__(
        self,
        settings: SenderSettings,
        journal: SenderJournal,
        reload: Reload[SenderSettings],
        *,
        once: bool,
        token: str | None,
    ) -> None:
        self._settings = settings
        self._reload = reload
        self._journal = journal
        self._once = once
        self._token = token
        self._signum: int | None = None
        self._said: set[str] = set()
        self._wake = asyncio.Event()
        self._published: dict[str, Any] = {}
        self._pipeline: Pipeline | None = None

    @property
    def failed(self) -> int:
        """How much could not be had."""
        return self._pipeline.failed if self._pipeline is not None else 1

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self._work())

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
            if self._signum is not None:
                notify.stopping()
            self._publish("stopped")

    async def _work(self) -> int:
        self._publish("starting")
        pipeline = Pipeline(self._settings, self._journal, self._report, self._wake.set, progress=Progress())
        self._pipeline = pipeline
        async with pipeline, AsyncExitStack() as stack:
            if self._once:
                return await self._one_round(pipeline)
            if self._settings.webhook is not None:
                from sender.webhook import WebhookServer  # a web server, which hardly anyone needs

                server = await stack.enter_async_context(WebhookServer.from_settings(self._settings.webhook))
                listening = asyncio.ensure_future(_take_hints(server, pipeline))
                stack.callback(listening.cancel)
            return await self._rounds(pipeline)

    async def _one_round(self, pipeline: Pipeline) -> int:
        self._publish("fetching")
        await pipeline.round()
        for warning in pipeline.wanted.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if not os.environ.get(SUPERVISED):
            objects = pipeline.fetcher.objects
            plural = "" if objects == 1 else "s"
            print(f"{len(pipeline.fetcher.ready)} ready, {self.failed} failed; queued {objects} object{plural}")
        return 1 if self.failed else 0

    async def _rounds(self, pipeline: Pipeline) -> int:
        edits = Edits(*pipeline.files, wake=self._wake.set)
        watching = asyncio.ensure_future(edits.watch())
        due = Due(self._settings.fetch)
        edits.changed.set()
        first = True
        tidying: asyncio.Task[None] | None = None
        try:
            while True:
                self._wake.clear()
                if edits.changed.is_set():
                    edits.reading()
                    if await pipeline.load():
                        edits.reading(pipeline.files)
                        pipeline.watch.follow()
                        due.now()
                pipeline.want()
                if due.retry():
                    pipeline.fetcher.retry()
                if pipeline.news and due.proposal(pipeline.fetcher, unanswered=len(pipeline.wanted.waiting)):
                    self._propose(pipeline)
                    if pipeline.locked:  # else what is there now may be a person's
                        edits.wrote(self._settings.lock_file)
                        if pipeline.lock_edited:  # between our writing it and this
                            edits.changed.set()
                    if tidying is None or tidying.done():
                        tidying = asyncio.ensure_future(pipeline.tidy())
                self._publish(pipeline.state)
                if first:
                    self._reload.started()
                    first = False
                if self._reload.wanted():
                    return AGAIN
                notify.status(self._line(pipeline))
                notify.watchdog()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), LOOK_S)
                await asyncio.sleep(CALM_S)  # answers and images come in crowds
        finally:
            watching.cancel()
            if tidying is not None:
                tidying.cancel()

    def _line(self, pipeline: Pipeline) -> str:
        """What ``systemctl status`` shows."""
        busy = len(pipeline.fetcher.busy)
        ready = len(pipeline.fetcher.ready)
        return f"{pipeline.state}: {ready} images ready, {busy} on their way, {pipeline.failed} failed"

    def _propose(self, pipeline: Pipeline) -> None:
        pipeline.propose()
        if pipeline.failed == 0:
            self._said.clear()
        if pipeline.proposed:
            log.info("proposed", **{key: pipeline.document()[key] for key in ("ready", "failed", "queued")})

    def _report(self, line: str) -> None:
        """Tell a failure once, not at every retry."""
        if line in self._said:
            return
        self._said.add(line)
        if self._once:
            print_error(UserError(line))
        else:
            log.error("failed", problem=line)

    def _publish(self, state: str) -> None:
        document = {"state": state, "pid": os.getpid(), "round": self._token, "once": self._once}
        if self._pipeline is not None:
            document |= self._pipeline.document()
        if document != self._published:
            self._published = document
            self._journal.set_live(ROLE, document, time.time())


class Due:
    """When failed images are tried again, and when what is ready is proposed."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._retry_at = float("-inf")
        self._proposed_at = float("-inf")
        self._ready_then: Mapping[PinnedImage, Ready] | None = None

    def now(self) -> None:
        """Have everything tried again: something was edited."""
        self._retry_at = float("-inf")

    def retry(self) -> bool:
        """Whether to try again now; it counts as done."""
        now = time.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + self._fetch.interval if self._fetch.interval else float("inf")
        return True

    def proposal(self, fetcher: Fetcher, *, unanswered: int) -> bool:
        """Whether to propose now; it counts as done. Not while much is on its way, so that releases stay few."""
        now, before = time.monotonic(), self._ready_then
        calm = not fetcher.busy and not unanswered
        if not calm:
            if fetcher.ready == before:
                return False
            new = [pin for pin in fetcher.ready if before is None or pin not in before]
            urgent = any(pin.options.urgent for pin in new) and not any(pin.options.urgent for pin in fetcher.busy)
            if not urgent and now < self._proposed_at + self._fetch.settle:
                return False
        self._proposed_at, self._ready_then = now, dict(fetcher.ready)
        return True


async def _take_hints(server: WebhookServer, pipeline: Pipeline) -> None:
    """Ask at once about what somebody says has changed."""
    while True:
        notice = await server.notices.get()
        rules = pipeline.watch.poke(notice.repository)
        log.debug("webhook", repository=notice.repository, tag=notice.tag, rules=rules)
