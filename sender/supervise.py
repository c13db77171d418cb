"""``checkvalve-sender run``: both roles as child processes, what they do on the terminal, and a line at the end.

Reads the journal only; the roles tell it what they do. Looks once whether the keys are there, opens no socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from runtime import logs
from runtime.errors import UserError
from runtime.roles import Role, run_roles
from runtime.terminal import Progress, human_bytes, human_duration, is_tty
from sender.candidates import pending, waiting_line
from sender.config import SenderSettings
from sender.inspect import key_faults
from sender.journal import SenderJournal
from sender.repair_queue import RepairQueue

POLL_S: Final = 0.25
_FORMAT: Final = "CHECKVALVE_SENDER__LOGS__FORMAT"
_LEVEL: Final = "CHECKVALVE_SENDER__LOGS__LEVEL"


def supervise(settings: SenderSettings, config: Path, *, once: bool) -> int:
    """Run fetch and transmit until they end; return the worst exit code. With *once* a summary goes to stdout."""
    logs.configure(settings.logs.format, settings.logs.level)
    if faults := key_faults(settings):  # now, not as the crash of a role later
        raise UserError("\n".join(faults))
    journal = SenderJournal(settings.journal)
    started = time.time()
    before = {row.digest for row in journal.newest_releases()}
    asked = RepairQueue(journal).totals()["repair_bytes"]
    token = secrets.token_hex(8) if once else None
    try:
        code = asyncio.run(_run(settings, config, journal, token))
        if once:
            print(summary(journal, started, time.time(), before=before, failed=code != 0, asked=asked))
            for one in pending(settings.collections, journal):
                print(waiting_line(one))
        return code
    finally:
        journal.close()


def summary(
    journal: SenderJournal,
    started: float,
    now: float,
    *,
    before: Collection[str] = (),
    failed: bool = False,
    asked: int = 0,
) -> str:
    """Return the line of ``run --once`` that says what it came to.

    *before* are the digests of the releases that were newest at the start; *failed*: a role could not do all it was
    asked to. *asked* are the bytes of repairs that were queued at the start.
    """
    objects, size = journal.sent_since(started)
    releases = journal.newest_releases()
    named = ", ".join(f"{row.collection} {row.sequence} ({row.digest[:19]}…)" for row in releases)
    label = "release" if len(releases) == 1 else "releases"
    if not releases:
        return "nothing sent: there is no release yet"
    repaired = asked - RepairQueue(journal).totals()["repair_bytes"]
    if repaired > 0:
        more = f" and {objects} object{'' if objects == 1 else 's'}, {human_bytes(size)}" if objects else ""
        return f"sent {human_bytes(repaired)} again, as repair codes asked{more}; {label} {named}"
    if objects == 0 and all(row.digest in before for row in releases):
        was = "was" if len(releases) == 1 else "were"
        if failed:
            return f"nothing sent, see the errors above; {label} {named} {was} sent before"
        return f"nothing new: {label} {named} {was} sent before"
    if objects == 0:
        return f"sent {label} {named}; all its content was sent before"
    plural = "" if objects == 1 else "s"
    duration = human_duration(now - started)
    return f"sent {objects} object{plural}, {human_bytes(size)} in {duration}; {label} {named}"


async def _run(settings: SenderSettings, config: Path, journal: SenderJournal, token: str | None) -> int:
    base = [sys.executable, "-m", "sender"]
    options = ["--config", str(config), *(["--once", "--round", token] if token else [])]
    on_terminal = is_tty()
    env = _for_terminal(settings, once=token is not None) if on_terminal else None
    roles = [
        Role(name, [*base, name, *options], finishes=token is not None, restart=token is None, env=env)
        for name in ("fetch", "transmit")
    ]
    relay = (lambda role, line: print(line, file=sys.stderr)) if on_terminal else None
    with Progress(show=on_terminal) as progress:
        watching = asyncio.ensure_future(_Watch(journal, progress, token).run())
        try:
            return await run_roles(roles, relay=relay)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


def _for_terminal(settings: SenderSettings, *, once: bool) -> dict[str, str]:
    """What the roles are told of their output's end: their pipe leads to a person, who has bars to look at."""
    env = {}
    if settings.logs.format == "auto":
        env[_FORMAT] = "console"
    if once and settings.logs.level == "info":
        env[_LEVEL] = "warning"
    return env


class _Watch:
    """Polls the journal: draws the bars, and ends a round whose fetch role died without saying so."""

    def __init__(self, journal: SenderJournal, progress: Progress, token: str | None) -> None:
        self._journal = journal
        self._progress = progress
        self._token = token
        self._fetching: dict[str, int] = {}
        self._sending: int | None = None

    async def run(self) -> None:
        while True:
            live = {role: document for role, (document, _) in self._journal.live().items()}
            if self._progress.shown:
                self._draw_fetch()
                self._draw_transmit(live.get("transmit", {}))
            self._end_orphaned_round(live.get("fetch", {}))
            await asyncio.sleep(POLL_S)

    def _end_orphaned_round(self, fetch: dict[str, Any]) -> None:
        """After SIGKILL or a crash of fetch, transmit would wait for its round for ever."""
        if self._token is None or fetch.get("round") != self._token or fetch.get("state") == "stopped":
            return
        try:
            os.kill(int(fetch["pid"]), 0)
        except ProcessLookupError:
            if self._journal.round_failed(self._token) is None:
                self._journal.finish_round(self._token, 1, time.time())

    def _draw_fetch(self) -> None:
        for row in self._journal.images():
            name = row["reference"].partition("@")[0]
            if row["state"] == "fetching" and row["bytes_total"]:
                if name not in self._fetching:
                    self._fetching[name] = self._progress.add(f"fetch {name}")
                bar = self._fetching[name]
                self._progress.update(bar, completed=row["bytes_done"], total=row["bytes_total"])
            elif name in self._fetching:
                self._progress.remove(self._fetching.pop(name))

    def _draw_transmit(self, live: dict[str, Any]) -> None:
        sent = int(live.get("content_bytes", 0))
        if live.get("state") != "sending" and not (self._sending is not None and sent):
            return
        if self._sending is None:
            self._sending = self._progress.add("send")
        now = live.get("object") or {}
        name = f"send {now.get('label', '')}".rstrip()
        # the queue counts an object until its pass is over; what has left of it is in sent as well
        under_way = int(now.get("bytes", 0)) * int(now.get("sbn", 0)) // max(int(now.get("blocks", 1)), 1)
        total = sent + max(self._journal.bytes_to_send() - under_way, 0)
        self._progress.update(self._sending, completed=sent, total=total, name=name)
