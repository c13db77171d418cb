"""Brings back what a rollback needs and the spool lost to its budget: the carousel repeats it for new receivers.

The images are fetched by the lines of the release's lock, with what referred to them then, beside what is wanted, and
never proposed. What of them was sent while its release was kept is not sent anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from oci.reference import parse_reference
from sender.config import SenderSettings
from sender.decisions import Decisions, Rollback
from sender.desired import read_state
from sender.images import Options, Origin, PinnedImage, parse_origin
from sender.journal import SenderJournal
from sender.lock import Lock, LockEntry, read_lines


class Recall:
    """Asked often; looks closely only when a rollback or the queue has changed."""

    def __init__(self, settings: SenderSettings, journal: SenderJournal, report: Callable[[str], None]) -> None:
        self._report = report
        self._folder: Path = settings.images.parent
        self._journal = journal
        self._decisions = Decisions(journal)
        self._seen: object = None
        self._pins: dict[tuple[str, float], list[PinnedImage]] = {}
        self.lock = Lock()  # the lines of the locks that resolved them

    def pins(self) -> list[PinnedImage]:
        """Return the images of rollbacks whose contents no object carries; they stay until the rollback ends."""
        rollbacks = {(name, one.proposal.updated): one for name, one in self._decisions.rollbacks().items()}
        if not rollbacks:
            self._seen, self._pins, self.lock = None, {}, Lock()
            return []
        seen = (set(rollbacks), self._journal.newest_object())
        if self._seen != seen:
            self._seen = seen
            known = {key: pins for key, pins in self._pins.items() if key in rollbacks}
            self._pins = {key: known.get(key) or self._lost(one) for key, one in rollbacks.items()}
            lines = [read_lines(one.proposal.lock) for one in rollbacks.values()]
            self.lock = Lock({slot: entry for each in lines for slot, entry in each.items()})
        return [pin for pins in self._pins.values() for pin in pins]

    def _lost(self, rollback: Rollback) -> list[PinnedImage]:
        proposal = rollback.proposal
        lost = {
            image.root.digest
            for image in read_state(proposal.images)
            if self._journal.not_carried(content.digest for content in image.contents())
        }
        entries = read_lines(proposal.lock).values()
        return list(self._readable(entry for entry in entries if entry.digest in lost))

    def _readable(self, entries: Iterable[LockEntry]) -> Iterator[PinnedImage]:
        for entry in entries:
            try:
                yield self._pin(entry)
            except ValueError as error:  # the layout or tarball that it came from is gone
                self._report(f"rollback: {entry.image}: {error}")

    def _pin(self, entry: LockEntry) -> PinnedImage:
        origin = Origin() if entry.origin is None else parse_origin(entry.origin, self._folder)
        options = Options(
            collection=entry.collection, target=entry.target or "", platforms=entry.only, referrers=entry.types
        )
        reference = replace(parse_reference(entry.image), digest=entry.digest)
        return PinnedImage(reference, origin, options, rule="rollback", file="the rollback")
