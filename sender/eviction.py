"""The spool's budget and what the journal keeps: removes contents that were sent and nobody needs, oldest sent first.

An object goes when it has no passes left and none of its contents is in a newest release, a proposal, a rollback or
a wanted image. Rows go first, durably, then files: a crash between leaves a file that no row knows, which the sweep
finds, never a row for bytes that are gone. Contents of releases that are kept are remembered as sent: wanted again
they are fetched, and repeated by the carousel, but not queued as new.

Runs in the thread that prepares objects (prepare.py), or in ``gc`` while no fetch role runs. Sizes are bytes.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oci.blobs import BlobStore
from oci.limits import MANIFEST_BYTES_MAX
from oci.reference import parse_reference
from protocol.objects import Kind
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.desired import read_image, read_state
from sender.journal import SenderJournal
from sender.retention import Retention

GRACE_S: Final = 24 * 3600.0  # a file that no row knows may be one on its way into the journal
BATCH_OBJECTS: Final = 32  # a transaction
ROLE: Final = "storage"  # of the live document


class Needed:
    """What wanted images need, told by the event loop and asked by the thread that evicts, which holds ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._of: dict[Hashable, frozenset[str]] = {}
        self._count: Counter[str] = Counter()
        self._walking = 0

    def hold(self, image: Hashable, digests: Iterable[str]) -> None:
        """Keep *digests* for as long as *image* is wanted."""
        with self.lock:
            self.drop(image)
            self._of[image] = frozenset(digests)
            self._count.update(self._of[image])

    def drop(self, image: Hashable) -> None:
        """Keep nothing for *image* any more."""
        with self.lock:
            self._count -= Counter(self._of.pop(image, ()))

    def keep(self, images: Iterable[Hashable]) -> None:
        """Drop all but *images*."""
        with self.lock:
            for image in self._of.keys() - set(images):
                self.drop(image)

    @contextmanager
    def walking(self) -> Iterator[None]:
        """While the body finds out what an image needs, nothing that could be a manifest is removed."""
        with self.lock:
            self._walking += 1
        try:
            yield
        finally:
            with self.lock:
                self._walking -= 1

    @property
    def walks(self) -> bool:
        """Whether manifests are being read of which nobody has said yet that they are needed."""
        return self._walking > 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._count


@dataclass(frozen=True, slots=True)
class Removed:
    """An object that went, or would go: its contents' files and its coded file together are *size* bytes."""

    label: str
    size: int
    sent: float
    files: tuple[Path, ...]


class Evictor:
    """Uses *journal*, and so belongs to its thread."""

    def __init__(self, settings: SenderSettings, journal: SenderJournal, needed: Needed | None = None) -> None:
        self._settings = settings
        self._journal = journal
        self._connection = journal.connection
        self._decisions = Decisions(journal)
        self._spool = BlobStore(settings.spool)
        self._needed = needed or Needed()
        self._protected: set[str] = set()
        self._protected_at: object = None
        self._retention = Retention(journal, settings.storage.keep_releases)

    def used(self) -> int:
        """Return the bytes of all blobs and coded files, temp files left out."""
        return sum(size for _, size, _ in self._files())

    def over(self) -> int:
        """Return how many bytes are above the budget; 0 without one."""
        budget = self._settings.storage.budget
        return 0 if budget is None else max(self.used() - budget, 0)

    def evict(self, goal: int) -> list[Removed]:
        """Remove what may go until *goal* bytes are free, or nothing more may; return what went."""
        removed: list[Removed] = []
        freed = 0
        ids = self._sent() if goal > 0 else []
        for start in range(0, len(ids), BATCH_OBJECTS):
            if freed >= goal:
                break
            with self._needed.lock:
                with self._journal.durably():  # before any file goes: a power cut must not bring rows back
                    batch = list(self._choose(ids[start : start + BATCH_OBJECTS], goal - freed, forget=True))
                for one in batch:
                    for path in one.files:
                        path.unlink(missing_ok=True)
            removed += batch
            freed += sum(one.size for one in batch)
        return removed

    def would_evict(self, goal: int) -> list[Removed]:
        """Return what ``evict`` would remove; changes nothing."""
        return list(self._choose(self._sent(), goal, forget=False))

    def orphans(self, now: float) -> list[tuple[Path, int]]:
        """Return (file, bytes) of what is in spool and coded folder, known to no row, and older than the grace."""
        if self._needed.walks:
            return []
        coded = {row[0] for row in self._connection.execute("SELECT path FROM objects")}
        known = {row[0] for row in self._connection.execute("SELECT digest FROM carried")}
        known |= self._desired()
        found = []
        for path, size, changed in self._files():
            digest = f"{path.parent.name}:{path.name}"
            if now - changed < GRACE_S or str(path) in coded or digest in known or digest in self._needed:
                continue
            found.append((path, size))
        return found

    def sweep(self, now: float) -> int:
        """Remove orphans; return their bytes."""
        with self._needed.lock:
            found = self.orphans(now)
            for path, _ in found:
                path.unlink(missing_ok=True)
        return sum(size for _, size in found)

    def tidy(self, now: float) -> None:
        """Sweep, keep to the budget and let go of old rows; ``status`` learns of it."""
        swept = self.sweep(now)
        removed = self.evict(self.over())
        self.retain()
        self.publish(removed, swept, now)

    def retain(self) -> None:
        """Let go of rows that are too old."""
        self._retention.apply(self._desired())

    def publish(self, removed: list[Removed], swept: int, now: float) -> None:
        """Tell ``status`` what is used, and what went last."""
        last = self._journal.live().get(ROLE, ({}, 0.0))[0].get("evicted_last")
        if removed or swept:
            last = {
                "time": now,
                "objects": len(removed),
                "bytes": sum(one.size for one in removed),
                "orphan_bytes": swept,
                "newest": removed[-1].label if removed else None,
            }
        document = {"used_bytes": self.used(), "budget_bytes": self._settings.storage.budget, "evicted_last": last}
        self._journal.set_live(ROLE, document, now)

    # --- what may go ---------------------------------------------------------------------------------------------

    def _sent(self) -> list[int]:
        """Ids of what has no passes left, sent longest ago first; the newest stays, so that no id is given twice."""
        rows = self._connection.execute(
            "SELECT id FROM objects WHERE passes_left = 0 AND passes_done > 0 AND kind <> ?"
            " AND id < (SELECT MAX(id) FROM objects) ORDER BY sent, id",
            (int(Kind.RELEASE),),
        )
        return [row[0] for row in rows]

    def _choose(self, ids: Iterable[int], goal: int, *, forget: bool) -> Iterator[Removed]:
        """Yield what of *ids* goes towards *goal* bytes, its rows deleted with *forget*: in one transaction then."""
        desired = self._desired()
        find = self._connection.execute
        freed = 0
        for each in ids:
            row = find(
                "SELECT label, kind, content_size, path, sent FROM objects WHERE id = ? AND passes_left = 0", (each,)
            ).fetchone()
            if freed >= goal or row is None:
                continue
            label, kind, content_size, path, sent = row
            contents = [found for (found,) in find("SELECT digest FROM carried WHERE object = ?", (each,))]
            if any(digest in desired or digest in self._needed for digest in contents):
                continue
            if self._needed.walks and (kind == Kind.BATCH or content_size <= MANIFEST_BYTES_MAX):
                continue
            shared = find("SELECT 1 FROM objects WHERE path = ? AND id <> ?", (path, each)).fetchone()
            files = {self._spool.path(digest) for digest in contents} | (set() if shared else {Path(path)})
            size = sum(map(_size, files))
            if forget:
                self._retention.remember(contents, sent)
                self._journal.forget_object(each)
            freed += size
            yield Removed(label, size, sent, tuple(files))

    def _desired(self) -> set[str]:
        """What newest releases, proposals, rollbacks and the wanted images that were fetched whole need."""
        find = self._connection.execute
        stamp = (
            self._decisions.stamps(),
            find("SELECT COUNT(*), MAX(updated) FROM images").fetchall(),
            find("SELECT COUNT(*), MAX(created) FROM releases").fetchall(),
            find("SELECT COUNT(*), MAX(updated) FROM closures").fetchall(),
        )
        if stamp != self._protected_at:
            states = [row.images for row in self._journal.newest_releases()]
            states += [one.images for one in self._decisions.proposals()]
            states += [one.proposal.images for one in self._decisions.rollbacks().values()]
            images = [image for state in states for image in read_state(state)]
            names = find("SELECT reference FROM images").fetchall()
            wanted = {f"{name.name}@{name.digest}" for name in (parse_reference(row[0]) for row in names)}
            for pin, document in find("SELECT pin, document FROM closures"):
                if pin.partition(" ")[0] in wanted:
                    images.append(read_image(json.loads(document)))
            self._protected = {content.digest for image in images for content in image.contents()}
            self._protected_at = stamp
        return self._protected

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """(path, bytes, time of the last change) of every blob and coded file."""
        blobs = self._settings.spool / "blobs"
        folders = [*(blobs.iterdir() if blobs.is_dir() else ()), self._settings.coded]
        for folder in folders:
            if not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # another thread's, gone meanwhile
                        continue
                    if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                        yield Path(entry.path), found.st_size, found.st_mtime


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
