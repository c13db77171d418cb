"""Turns what fetch has ready into the proposal of each collection, and into images.lock.

Proposal and lock say the same: every image of the one has its line in the other. What is wanted and not ready stays
as it was in both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from runtime.errors import UserError
from sender.closures import closure_of
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.desired import desired_state
from sender.fetcher import Ready
from sender.images import PinnedImage, Slot
from sender.journal import SenderJournal
from sender.lock import Lock, LockEntry, lock_text, read_lock, write_lock
from sender.resolve import Wanted

log = structlog.get_logger()


class LockFile:
    """images.lock on disk: read when it was edited, never written over an edit that was not read or has faults."""

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self.path = path
        self.lock = Lock()
        self._report = report
        self._raw: bytes | None = None
        self._unreadable = False

    def read(self) -> bool:
        """Read the file if it is not what was read or written last; return whether it was."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            raw = b""
        except OSError as error:
            self._unreadable = True
            self._report(f"{self.path}: cannot be read: {error.strerror}")
            return False
        if raw == self._raw:
            return False
        self._raw, self._unreadable = raw, False
        if not raw:
            self.lock = Lock()
            return True
        try:
            self.lock = read_lock(raw, str(self.path))[0]
        except UserError as error:
            self._unreadable = True
            self._report(str(error))
            return False
        for fault in self.lock.faults:
            self._report(fault)
        return True

    @property
    def faulty(self) -> bool:
        """Whether a person has to look at the file first."""
        return self._unreadable or bool(self.lock.faults)

    def write(self, entries: Iterable[LockEntry]) -> bool:
        """Write the lock if it differs; False if it was edited meanwhile, has faults or cannot be written."""
        if self.faulty:
            return False
        entries = list(entries)
        text = lock_text(entries).encode()
        if text == self._raw:
            return True
        if self.path.exists() and self.path.read_bytes() != (self._raw or b""):
            return False
        try:
            write_lock(self.path, text.decode())
        except OSError as error:
            self._report(
                f"{self.path}: cannot be written: {error.strerror}; give a path that can be as lock: in sender.yaml"
            )
            return False
        self._raw = text
        self.lock = Lock({entry.slot: entry for entry in entries})
        return True


class Proposer:
    """Keeps proposals and lock in step with what is ready."""

    def __init__(self, settings: SenderSettings, journal: SenderJournal, lock: LockFile) -> None:
        self._settings = settings
        self._journal = journal
        self._decisions = Decisions(journal)
        self._lock = lock
        self._lines: dict[str, dict[Slot, LockEntry]] = {}  # of the proposals, by collection
        for proposal in self._decisions.proposals():
            raw = (lock_text([]) + proposal.lock).encode()
            self._lines[proposal.collection] = dict(read_lock(raw, "journal")[0].entries)

    def propose(self, wanted: Wanted, ready: dict[PinnedImage, Ready], *, faulty: bool) -> bool:
        """Propose what is ready; with *faulty* intent nothing is taken away. Return whether anything has changed."""
        settled = {pin.slot: ready[pin] for pin in wanted.pins if pin in ready}
        unsettled = {pin.slot for pin in wanted.pins if pin not in ready}

        def keeps(slot: Slot) -> bool:
            return faulty or slot in unsettled or wanted.keeps(slot)

        changed = False
        collections = {slot[0] for slot in settled} | self._lines.keys() | {self._settings.collection}
        for collection in sorted(collections):
            changed |= self._propose_one(collection, settled, keeps)
        self._lock.write(entry for lines in self._lines.values() for entry in lines.values())
        return changed

    def _propose_one(self, collection: str, settled: dict[Slot, Ready], keeps: Callable[[Slot], bool]) -> bool:
        mine = {slot: one for slot, one in settled.items() if slot[0] == collection}
        images = [(slot, one.image) for slot, one in mine.items()]
        lines = {slot: one.entry for slot, one in mine.items()}
        for slot, entry in self._lines.get(collection, {}).items():
            if slot in mine or not keeps(slot):
                continue
            lines[slot] = entry
            image = closure_of(self._journal, entry)
            if image is not None:
                images.append((slot, image))
        before = self._decisions.proposal(collection)
        state = desired_state(images, before.images if before else None, keeps, collection)
        self._lines[collection] = lines
        text = lock_text(lines.values()).partition("\n")[2]
        return self._decisions.propose(collection, state, text, time.time())
