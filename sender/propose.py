"""Turns what fetch has ready into the proposal of each collection, and into images.lock.

Proposal and lock say the same: every image of the one has its line in the other. What is wanted and not ready stays
as it was in the proposal; its line in the lock, or that it has none any more, stays as a person left it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from runtime.errors import EXIT_USAGE, UserError
from sender.closures import closure_of
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.desired import desired_state
from sender.fetcher import Ready
from sender.images import PinnedImage, Slot
from sender.journal import SenderJournal
from sender.lock import FILE_BYTES_MAX, Lock, LockEntry, lock_lines, lock_text, read_lines, read_lock, write_lock
from sender.resolve import Wanted

log = structlog.get_logger()


class LockFile:
    """images.lock on disk: read when it was edited, never written over an edit that was not read or has faults."""

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self.path = path
        self.lock = Lock()
        self.version = 0  # another one whenever the lock was read
        self._report = report
        self._raw: bytes | None = None
        self._readable = False

    def read(self, proposed: Collection[Slot]) -> None:
        """Read the file if it is not what was read or written last; UserError if it is no lock.

        A line of which nobody can tell what it decides holds all that was *proposed* and has no line.
        """
        try:
            raw = _bytes_at(self.path)
        except OSError as error:
            self._readable = False
            raise UserError(f"{self.path}: cannot be read: {error.strerror}", exit_code=EXIT_USAGE) from None
        if raw == self._raw and self._readable:
            return
        self._readable = False
        lock = Lock() if raw is None else read_lock(raw, str(self.path))[0]
        self._raw, self._readable = raw, True
        unclear = next((fault for fault in lock.faults if fault not in lock.held.values()), None)
        if unclear is not None:
            lost = {slot: unclear for slot in proposed if slot not in lock.entries}
            lock = replace(lock, held={**lost, **lock.held})
        self.lock = lock
        self.version += 1
        for fault in lock.faults:
            self._report(fault)

    def write(self, entries: Iterable[LockEntry]) -> bool:
        """Write the lock; False if it says so already, was edited meanwhile, has faults or cannot be written."""
        if not self._readable or self.lock.faults:
            return False
        entries = list(entries)
        text = lock_text(entries).encode()
        if text == self._raw:
            return False
        try:
            if _bytes_at(self.path) != self._raw:
                return False
            write_lock(self.path, text.decode())
        except OSError as error:
            self._report(
                f"{self.path}: cannot be written: {error.strerror}; give a path that can be as lock: in sender.yaml"
            )
            return False
        self._raw = text
        self.lock = Lock({entry.slot: entry for entry in entries})
        return True

    @property
    def edited(self) -> bool:
        """Whether the file is not what was read or written last."""
        try:
            return _bytes_at(self.path) != self._raw
        except OSError:
            return False


def _bytes_at(path: Path) -> bytes | None:
    """Return what a lock is at most, and a byte more; None where no file is."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None


class Proposer:
    """Keeps proposals and lock in step with what is ready."""

    def __init__(self, settings: SenderSettings, journal: SenderJournal, lock: LockFile) -> None:
        self._settings = settings
        self._journal = journal
        self._decisions = Decisions(journal)
        self._lock = lock
        self.locked = False  # whether the last proposal wrote the lock
        self._lines: dict[str, dict[Slot, LockEntry]] = {}  # of the proposals, by collection
        for proposal in self._decisions.proposals():
            self._lines[proposal.collection] = read_lines(proposal.lock)

    @property
    def slots(self) -> frozenset[Slot]:
        """What is proposed."""
        return frozenset(slot for lines in self._lines.values() for slot in lines)

    def propose(self, wanted: Wanted, ready: dict[PinnedImage, Ready], *, faulty: bool) -> bool:
        """Propose what is ready; with *faulty* intent nothing is taken away. Return whether anything has changed."""
        settled = {pin.slot: ready[pin] for pin in wanted.pins if pin in ready}
        unsettled = {pin.slot for pin in wanted.pins if pin not in ready}
        unsettled |= self._not_replaced(wanted, ready)

        def keeps(slot: Slot) -> bool:
            return faulty or slot in unsettled or wanted.keeps(slot)

        # The lock first: killed in between, the role proposes what it says. Of what is not settled a person may have
        # changed or deleted the line: that is for him to say.
        lines = {slot: one.entry for slot, one in settled.items()}
        own = {slot: line for slot, line in self._lock.lock.entries.items() if slot not in lines and keeps(slot)}
        self.locked = self._lock.write([*lines.values(), *own.values()])
        changed = False
        collections = {slot[0] for slot in settled} | self._lines.keys() | {self._settings.collection}
        for collection in sorted(collections):
            changed |= self._propose_one(collection, settled, keeps)
        return changed

    def _not_replaced(self, wanted: Wanted, ready: dict[PinnedImage, Ready]) -> set[Slot]:
        """Return what `keep newest` lets go of, as long as what takes its place is not ready."""
        coming = {(*pin.slot[:2], pin.rule) for pin in wanted.pins if pin not in ready and "keep newest" in pin.rule}
        return {
            slot for lines in self._lines.values() for slot, line in lines.items() if (*slot[:2], line.rule) in coming
        }

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
        text = lock_lines(lines.values())
        return self._decisions.propose(collection, state, text, time.time())
