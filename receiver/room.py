"""Who gives way when space for partial objects runs short: the rule, and the two bounds that make it short.

First goes what no newest release needs; then the largest; of equal ones the one that has gained nothing for longest.
So what is smallest, newest and wanted keeps being received. Whoever ranks lowest may be the newcomer itself: then
nothing is given up for it. Releases and batches always count as needed. While a release is heard of that has not
come, or none is known, nobody can say what is needed, and size and age decide alone. Changes nothing by itself.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.errors import WireError
from protocol.objects import Kind
from receiver.journal import Partial, ReceiverJournal
from receiver.senders import Trust

RESERVE_MAX: Final = 2**30
RESERVE_SHARE: Final = 20  # of a small file system a twentieth is kept free
ALWAYS_BYTES: Final = 1024 * 1024  # what is no larger, and any release or batch, may use the reserve


@dataclass(frozen=True, slots=True)
class Standing:
    """A partial object as the rule sees it; *idle* in seconds, *updated* in Unix s (it only breaks ties)."""

    partial: Partial
    done: int  # bytes of it on disk
    idle: float
    updated: float
    needed: bool = True

    @property
    def rank(self) -> tuple[bool, int, float, float]:
        """The lowest gives way first."""
        return self.needed, -self.partial.coded_size, -self.idle, self.updated


def give_way(others: Iterable[Standing], newcomer: Standing, short: int, *, on_disk: bool) -> list[Standing] | None:
    """Return which of *others* make room for *newcomer*, *short* bytes in all; None if it has to stand back.

    *on_disk* counts the bytes that each has on disk, otherwise its whole size.
    """
    chosen: list[Standing] = []
    for each in sorted(others, key=lambda other: other.rank):
        if short <= 0 or each.rank >= newcomer.rank:
            break
        gain = each.done if on_disk else each.partial.coded_size
        if gain:
            chosen.append(each)
            short -= gain
    return chosen if short <= 0 else None


def standings(journal: ReceiverJournal, needed: Collection[str] | None) -> list[Standing]:
    """Return all partial objects; *needed* as :func:`needed_by_releases` says."""
    idle = dict(journal.connection.execute("SELECT coded_digest, idle FROM partials").fetchall())
    return [
        Standing(partial, done, idle.get(partial.coded_digest, 0.0), updated, _is_needed(partial, needed))
        for partial, done, updated in journal.partials()
    ]


def _is_needed(partial: Partial, needed: Collection[str] | None) -> bool:
    return needed is None or partial.kind != Kind.BLOB or partial.digest in needed


def needed_by_releases(journal: ReceiverJournal, trust: Trust, digests: Collection[str]) -> set[str] | None:
    """Return which of *digests* the newest releases need; None while that cannot be told."""
    marks, heard = journal.newest_marks(), journal.heard()
    if not marks or any(sequence > marks.get(name, (0, ""))[0] for name, (sequence, _, _) in heard.items()):
        return None
    found: set[str] = set()
    for row in journal.newest_releases():
        try:
            found |= trust.open(row.envelope).release.contents().keys() & set(digests)
        except WireError:
            return None
    return found


def grow_old(journal: ReceiverJournal, seconds: float, most: float) -> list[Partial]:
    """Add *seconds* of a live link to every partial object's idle time; return those that are past *most*.

    A block that is made durable sets it back to 0. No clock is asked: one that leaps makes nothing old.
    """
    journal.connection.execute("UPDATE partials SET idle = idle + ?", (seconds,))
    old = {row[0] for row in journal.connection.execute("SELECT coded_digest FROM partials WHERE idle > ?", (most,))}
    return [partial for partial, _, _ in journal.partials() if partial.coded_digest in old]


class Reserve:
    """What stays free on the file system of *folder*, so that journal and releases still fit; None: by its size."""

    def __init__(self, folder: Path, wanted: int | None) -> None:
        self._folder = folder
        self._wanted = wanted

    def short(self, size: int) -> int:
        """Return how many bytes are too few for *size* more; not above 0 if there is room. OSError as statvfs."""
        found = os.statvfs(self._folder)
        kept = self._wanted
        if kept is None:
            kept = min(RESERVE_MAX, found.f_blocks * found.f_frsize // RESERVE_SHARE)
        return size + kept - found.f_bavail * found.f_frsize
