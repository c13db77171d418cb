"""The fetch role's work, step by step: what is wanted, what registries say, what is ready, what is proposed.

    intent.py ─▶ watch.py ─▶ resolve.py ─▶ fetcher.py ─▶ spool ─▶ prepare.py ─▶ queue
                                             └────▶ propose.py ─▶ proposal, images.lock

When to take which step is the role's business (fetch.py).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from oci.layout import Layout
from runtime.errors import UserError
from runtime.terminal import Progress
from sender.by_hand import pin_by_hand
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.fetcher import Fetcher
from sender.images import ImageList
from sender.intent import load_images
from sender.journal import SenderJournal
from sender.prepare import Preparer
from sender.propose import LockFile, Proposer
from sender.recall import Recall
from sender.resolve import Wanted, resolve
from sender.sources import Sources
from sender.verification import Verification
from sender.watch import Watch


class Pipeline:
    """Use as an async context manager. *report* takes one line for each thing that fails, again at each step;
    *wake* is called when there is something to do. ``failed`` counts images, faulty entries and what is held.
    """

    def __init__(
        self,
        settings: SenderSettings,
        journal: SenderJournal,
        report: Callable[[str], None],
        wake: Callable[[], None] = lambda: None,
        *,
        progress: Progress | None = None,
    ) -> None:
        self.failed = 1  # until a round has shown otherwise
        self.proposed = False  # whether the last proposal changed anything
        self.wanted = Wanted()
        self._settings = settings
        self._journal = journal
        self._report = report
        self._images: ImageList | None = None
        self._unreadable: list[str] = []
        self._images_version = 0
        self._wanted_of: object = None  # what the wanted images were made from
        self._proposed_of: object = None
        self._decisions = Decisions(journal)
        self._recall = Recall(settings, journal, report)
        self._stack = AsyncExitStack()
        self._lock_file = LockFile(settings.lock_file, report)
        self._proposer = Proposer(settings, journal, self._lock_file)
        self._progress = progress or Progress(show=False)
        spool = Layout(settings.spool)
        self._preparer = Preparer(settings, spool.blobs)
        sources = Sources(settings.fetch, settings.state / "scratch")
        self._sources = sources
        self.watch = Watch(settings, self._decisions, sources, wake)
        verification = Verification(self._decisions, spool.blobs, settings.state / "scratch")
        self.fetcher = Fetcher(
            settings, journal, spool, self._preparer, self._progress, sources, verification, report, wake
        )

    async def __aenter__(self) -> Self:
        enter, enter_async = self._stack.enter_context, self._stack.enter_async_context
        enter(self._preparer)
        enter(self._progress)
        await enter_async(self._sources)
        await enter_async(self.watch)
        await enter_async(self.fetcher)
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._stack.__aexit__(*exc)

    async def round(self) -> None:
        """Take every step once: ask about all rules now, fetch until all has settled, propose. UserError."""
        await self.load(must=True)
        await self.watch.ask_all()
        self.want()
        await self.fetcher.settled()
        self.propose()
        await self.tidy()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of which edits matter."""
        read = self._images.files if self._images is not None else (self._settings.images,)
        return (*read, self._settings.lock_file)

    @property
    def lock_edited(self) -> bool:
        """Whether somebody has written images.lock since it was read or written here."""
        return self._lock_file.edited

    @property
    def state(self) -> str:
        """``waiting`` for a person to mend images.yaml or the lock, ``fetching`` or ``idle``."""
        if self._unreadable:
            return "waiting"
        return "fetching" if self.fetcher.busy or self.wanted.waiting else "idle"

    @property
    def faults(self) -> list[str]:
        """One line for each fault in images.yaml and the lock."""
        entries = self._images.faults if self._images is not None else ()
        return [*(self._unreadable or entries), *self._lock_file.lock.faults]

    async def load(self, *, must: bool = False) -> bool:
        """Read images.yaml and the lock; False, with the fault told, where what was read before is to stay.

        With *must* it is a UserError instead.
        """
        try:
            # ten thousand entries take seconds to read
            images = await asyncio.to_thread(load_images, self._settings.images, self._settings.collection)
            self._lock_file.read(self._proposer.slots)
        except UserError as error:
            if must:
                raise
            self._report(str(error))
            self._unreadable = str(error).splitlines()
            return False
        self._images, self._unreadable = images, []
        self._images_version += 1
        for fault in images.faults:
            self._report(fault)
        lock = self._lock_file.lock
        self.watch.know(images.rules, lock, self._proposer.slots - lock.entries.keys() - lock.held.keys())
        return True

    def want(self) -> None:
        """Have fetched what images.yaml, the answers of registries and the lock come to."""
        if self._images is None:
            return
        self.fetcher.check()
        self.watch.check()
        lock, by_hand, recalled = self._lock_file.lock, self._decisions.by_hand(), self._recall.pins()
        made_of = (
            self._images_version,
            self.watch.version,
            self._lock_file.version,
            tuple(by_hand),
            tuple(recalled),
        )
        if made_of == self._wanted_of:
            return
        self._wanted_of = made_of
        self.wanted = resolve(self._images, self.watch.answers, lock, map(pin_by_hand, by_hand))
        self.fetcher.want([*self.wanted.pins, *recalled], lock, self._recall.lock)
        for reason in self.wanted.reasons:
            self._report(reason)

    @property
    def news(self) -> bool:
        """Whether a proposal now could differ from the last one."""
        return self._proposed_of != (self._wanted_of, self.fetcher.version)

    @property
    def locked(self) -> bool:
        """Whether the last proposal wrote the lock."""
        return self._proposer.locked

    def propose(self) -> None:
        """Propose what is ready; what is wanted and not ready stays as it was."""
        if self._images is None:
            return
        self._proposed_of = (self._wanted_of, self.fetcher.version)
        faulty = bool(self._images.faults)
        if not faulty:
            kept: dict[str, list[str]] = {}
            for pin in self.wanted.pins:
                kept.setdefault(pin.options.collection, []).append(str(pin.reference))
            self._journal.keep_images(kept)
        self.watch.save()  # what is proposed must not be older after a crash
        self.proposed = self._proposer.propose(self.wanted, self.fetcher.ready, faulty=faulty)
        self.watch.lock = self.fetcher.lock = self._lock_file.lock
        self.failed = len(self.fetcher.failed) + len(self.faults) + len(self._held())

    async def tidy(self) -> None:
        """Keep spool and journal within their bounds; what stands in the way is reported, and stops nothing."""
        try:
            await self.fetcher.tidy()
        except (OSError, sqlite3.OperationalError) as error:
            self._report(f"{self._settings.state}: cannot be tidied up: {error}; it is tried after the next proposal")

    def document(self) -> dict[str, Any]:
        """Return what ``status`` shows of all this."""
        return {
            "images": len(self.wanted.pins),
            "faults": self.faults,
            "held": self._held(),
            "warnings": list(self.wanted.warnings),
            "ready": len(self.fetcher.ready),
            "failed": self.failed,
            "queued": self.fetcher.objects,
            "registries": {host: asdict(figures) for host, figures in self._sources.figures.items()},
        }

    def _held(self) -> list[str]:
        """Reasons why something stays as it was, those aside that are faults of a file."""
        return [reason for reason in self.wanted.reasons if reason not in self._lock_file.lock.faults]
