"""``run``: both roles as child processes, progress bars on a terminal, and one line that says how it ended.

What the roles do they do on their own; all that is known here of their work is read from the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from receiver import integrity
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.link import Link
from receiver.senders import Trust, trust
from receiver.survey import CollectionView, ImageView, Survey
from runtime import logs
from runtime.alone import alone
from runtime.errors import print_error
from runtime.keys import load_hpke_key
from runtime.roles import Relay, Role, run_roles
from runtime.terminal import Progress, human_bytes, is_tty

_REFRESH_S = 0.4
_BARS_MAX = 20
_WAITING_S = 3.0  # after the closing beacon, which may overtake the last blocks on their way to disk

log = structlog.get_logger()


def run(settings: ReceiverSettings, config: Path, *, once: bool) -> int:
    """Run capture and publish until stopped, or with *once* until what was heard of is published; the exit code."""
    logs.configure(settings.logs.format, settings.logs.level)
    # One line now, not a crash of a child again and again: the keys, then the address.
    load_hpke_key(settings.hpke_key, created_by=settings.created_by)
    trusted = trust(settings)
    Link(settings.listen.on, settings.listen.receive_buffer, gro="off").close()
    with alone(settings.state, "capture"):
        integrity.begin(settings.journal, trusted)
    started = time.time()
    code = asyncio.run(_run(settings, config, trusted, started, once=once))
    if once:
        _summarise(settings, trusted, started, code)
    return code


async def _run(settings: ReceiverSettings, config: Path, trusted: Trust, started: float, *, once: bool) -> int:
    relay: Relay | None = _to_stderr if is_tty() else None
    roles = [
        Role("capture", _argv("capture", config), restart=True, env=_environment(settings)),
        Role(
            "publish",
            [*_argv("publish", config), *(["--once", f"--since={started!r}"] if once else [])],
            finishes=once,
            restart=not once,
            env=_environment(settings),
        ),
    ]
    async with _bars(settings, trusted, started), _waiting(settings, trusted, started, once=once):
        return await run_roles(roles, relay=relay)


def _argv(command: str, config: Path) -> list[str]:
    # -P: a folder named like one of our packages, where we were started, must not be taken for it.
    return [sys.executable, "-P", "-m", "receiver", command, "--config", str(config.absolute())]


def _environment(settings: ReceiverSettings) -> dict[str, str]:
    packages = str(Path(__file__).resolve().parents[1])
    former = os.environ.get("PYTHONPATH")
    found = {"PYTHONPATH": f"{packages}{os.pathsep}{former}" if former else packages}
    if settings.logs.format == "auto" and is_tty():
        found["CHECKVALVE_RECEIVER__LOGS__FORMAT"] = "console"  # a child sees a pipe where a person sees a terminal
    return found


def _to_stderr(role: str, line: str) -> None:
    print(f"{role}: {line}", file=sys.stderr)


@contextlib.asynccontextmanager
async def _bars(settings: ReceiverSettings, trusted: Trust, started: float) -> AsyncIterator[None]:
    """Show what arrives, image by image, while the body runs; nothing where there is no terminal."""
    if not is_tty():
        yield
        return
    journal = ReceiverJournal(settings.journal, read_only=True)
    survey = Survey(journal, settings.spool, trusted)
    try:
        with Progress() as progress:
            drawing = _Drawing(survey, progress, started)
            task = asyncio.create_task(drawing.run())
            try:
                yield
                drawing.refresh()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
    finally:
        journal.close()


@contextlib.asynccontextmanager
async def _waiting(settings: ReceiverSettings, trusted: Trust, started: float, *, once: bool) -> AsyncIterator[None]:
    """While the body of a ``once`` run lasts, say what it waits for when no sender goes on sending."""
    if not once:
        yield
        return
    journal = ReceiverJournal(settings.journal, read_only=True)
    task = asyncio.create_task(_tell_waiting(journal, Survey(journal, settings.spool, trusted), started))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        journal.close()


async def _tell_waiting(journal: ReceiverJournal, survey: Survey, started: float) -> None:
    """Say once for each closing of the senders' sessions what has not come; a later pass may bring it."""
    told = 0.0
    while True:
        await asyncio.sleep(_WAITING_S / 4)
        closed = journal.live().get("capture", ({}, 0.0))[0].get("closed") or 0.0
        if closed < started or closed == told or time.time() - closed < _WAITING_S:
            continue
        views = [view for view in survey.collections() if (view.heard or 0.0) >= started]
        told = closed
        for view in views:
            absent = {content.digest: content.size for image in view.images for content in image.missing}
            if not absent and not view.gap:
                continue  # all is here; publish says what it does
            log.warning(
                "waiting_for_another_pass",
                reason="the sender has closed its session",
                release=f"{view.collection} {view.heard_sequence if view.gap else view.sequence}",
                missing="the release itself" if view.gap else _amount(view, len(absent)),
                see="checkvalve-receiver missing",
            )


def _amount(view: CollectionView, contents: int) -> str:
    size = human_bytes(sum(image.missing_bytes for image in view.images))
    return f"{contents} content{'' if contents == 1 else 's'}, {size}"


class _Drawing:
    """One bar for each image of the releases heard of in this run."""

    def __init__(self, survey: Survey, progress: Progress, started: float) -> None:
        self._survey = survey
        self._progress = progress
        self._started = started
        self._bars: dict[tuple[str, str], int] = {}
        self._waiting: int | None = progress.add("waiting for the sender")

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            self.refresh()
            await asyncio.sleep(_REFRESH_S)

    def refresh(self) -> None:
        """Bring the bars up to date."""
        for view in self._survey.collections():
            if (view.heard or 0.0) < self._started or (view.complete and (view.published or 0.0) < self._started):
                continue
            for image in view.images:
                self._show(image)

    def _show(self, image: ImageView) -> None:
        place = (image.name, image.digest)
        if place not in self._bars:
            if len(self._bars) >= _BARS_MAX:
                return
            if self._waiting is not None:
                self._progress.remove(self._waiting)
                self._waiting = None
            self._bars[place] = self._progress.add(image.title, total=image.total_bytes)
        self._progress.update(
            self._bars[place],
            completed=image.total_bytes - image.missing_bytes,
            name=f"{image.title} {image.state}",
        )


def _summarise(settings: ReceiverSettings, trusted: Trust, started: float, code: int) -> None:
    """One line for each collection heard of to stdout; what failed to stderr."""
    journal = ReceiverJournal(settings.journal, read_only=True)
    try:
        views = [
            view for view in Survey(journal, settings.spool, trusted).collections() if (view.heard or 0.0) >= started
        ]
        place = str(journal.live().get("publish", ({}, 0.0))[0].get("target", ""))
    finally:
        journal.close()
    for view in views:
        if view.error is not None:
            print_error(ValueError(f"release {view.collection} {view.sequence}: {view.error}"))
        for image in view.images:
            if image.state in ("failed", "held"):
                print_error(ValueError(f"{image.title}: {image.error}"))
        print(_line(view, started, place), flush=True)
    if not views and code:
        print("no release was heard of", flush=True)


def _line(view: CollectionView, started: float, place: str) -> str:
    images = f"{len(view.images)} image{'' if len(view.images) == 1 else 's'}"
    if not view.complete:
        done = sum(image.state == "published" for image in view.images)
        newest = view.heard_sequence if view.gap else view.sequence
        return f"release {view.collection} {newest} not complete: {done} of {images} published"
    if view.published is not None and view.published < started:
        return f"release {view.collection} {view.sequence} was complete before; nothing to do"
    return (
        f"release {view.collection} {view.sequence} complete: {images}, "
        f"{human_bytes(view.total_bytes)}, published to {place}"
    )
