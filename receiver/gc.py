"""Garbage: what no kept release needs goes from the spool, and what none shows from the target.

    kept releases ─▶ what they list, and what their manifests lead to ─▶ stays, in spool and target
    published rows that no kept release has ──▶ prune.py ──▶ the target
    contents of releases whose time is over ──────────────▶ the spool; then the journal calls them retired

Publish does it by itself when the kept releases have changed (keeper.py); ``gc`` does it by hand, or only says what
it would do. Contents that no release names may belong to one that is still to come: they wait for UNCLAIMED_S.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from oci.blobs import BlobStore
from oci.descriptor import Descriptor
from oci.errors import OciError
from oci.reach import reach
from oci.store import Prunable
from protocol.release import ReleaseImage
from receiver.config import ReceiverSettings
from receiver.desired import desired_marks, release_of
from receiver.gates import Gates
from receiver.image_job import references
from receiver.journal import ReceiverJournal
from receiver.mapping import target_repository
from receiver.prune import Drop, Pruned, prune_from_layout, prune_from_registry, shown
from receiver.retention import Keeping, Key, Shrunk, noted
from receiver.target import PublishTarget
from runtime.database import transaction
from runtime.lockfile import locked

UNCLAIMED_S: Final = 7 * 86_400.0  # counted as retention counts
BATCH: Final = 64  # files removed between two looks at whether a release has come

log = structlog.get_logger()


@dataclass(frozen=True)
class Plan:
    """What may go now. Sizes in bytes."""

    marks: object  # what was desired when it was made
    kept: frozenset[Key]
    retire: list[Key]
    shrunk: list[Shrunk]
    needed: frozenset[str]  # contents of kept releases
    drops: list[Drop]
    spool: list[tuple[str, int]]
    unclaimed: list[str]  # contents that no release names
    undeletable: list[tuple[str, str, str]]  # path, tag or digest, and why the target did not let it go
    wanted_again: list[tuple[str, str]]  # what was undeletable and is to stay by now


@dataclass
class Outcome:
    """What went."""

    plan: Plan
    pruned: Pruned = field(default_factory=Pruned)
    spool: list[tuple[str, int]] = field(default_factory=list)
    complete: bool = True  # False: something was in use, or a release came: again later


def make_plan(settings: ReceiverSettings, journal: ReceiverJournal) -> Plan:
    """Return what may go; changes nothing. OciError or UserError if what is to stay cannot be read."""
    keeping = Keeping(journal, settings.retention)
    marks = _marks(journal)
    kept = keeping.kept()
    retire = keeping.to_retire(kept)
    spool = BlobStore(settings.spool)
    stays = _Stays(spool, settings.publish.prefix)
    for collection, sequence in sorted(kept):
        row = journal.release(collection, sequence)
        if row is not None:
            for image in release_of(row).images:
                stays.add(image)
    over: set[str] = set()
    for collection, sequence in retire:
        row = journal.release(collection, sequence)
        if row is not None:
            over |= release_of(row).contents().keys()
    known = _since(journal)
    going, unclaimed, now = [], [], keeping.counted
    for digest in spool.digests():
        if digest in stays.contents or settings.retention.keeps_everything:
            continue
        if digest not in over:
            unclaimed.append(digest)
            if now - known.get(digest, now) < UNCLAIMED_S:
                continue
        going.append((digest, spool.size(digest) or 0))
    undeletable = journal.connection.execute("SELECT * FROM undeletable ORDER BY 1, 2").fetchall()
    return Plan(
        marks=marks,
        kept=frozenset(kept),
        retire=retire,
        shrunk=keeping.shrunk(),
        needed=frozenset(stays.contents),
        drops=[] if settings.retention.keeps_everything else stays.drops(journal.published(), undeletable),
        spool=going,
        unclaimed=unclaimed,
        undeletable=[row for row in undeletable if not stays.shows(row[0], row[1])],
        wanted_again=[row[:2] for row in undeletable if stays.shows(row[0], row[1])],
    )


class _Stays:
    """All that kept releases need, and show."""

    def __init__(self, spool: BlobStore, prefix: str) -> None:
        self._spool = spool
        self._prefix = prefix
        self.contents: set[str] = set()
        self._references: dict[str, set[str]] = {}  # repository -> tags and digests
        self._manifests: dict[str, set[str]] = {}

    def add(self, image: ReleaseImage) -> None:
        """Keep *image*: what its release lists, and what its manifests say themselves."""
        listed = (image.root, *image.closure, *image.referrers)
        roots = [Descriptor(one.media_type, one.digest, one.size) for one in listed]
        try:
            found = reach(self._spool, [root for root in roots if root.is_manifest])
        except OciError:  # damaged on disk: it has to come again, and what it names is in the list
            found = {}
        found |= {root.digest: root for root in roots}
        self.contents |= found.keys()
        try:
            path = target_repository(image.name, self._prefix)
        except OciError:
            return  # such an image is never published
        self._references.setdefault(path, set()).update(references(image))
        self._manifests.setdefault(path, set()).update(one.digest for one in found.values() if one.is_manifest)

    def shows(self, path: str, reference: str) -> bool:
        """Whether a kept release has this tag or digest."""
        return reference in self._references.get(path, ())

    def drops(self, published: dict[tuple[str, str], str], undeletable: Iterable[tuple[Any, ...]]) -> list[Drop]:
        """Return what of *published* no kept release has, by repository; what could not be deleted waits."""
        waiting = {(path, reference) for path, reference, _ in undeletable}
        by_path: dict[str, dict[str, str]] = {}
        for (path, reference), digest in published.items():
            if not self.shows(path, reference) and (path, reference) not in waiting and _beneath(path, self._prefix):
                by_path.setdefault(path, {})[reference] = digest
        return [
            Drop(
                path,
                rows,
                frozenset(name for name in self._references.get(path, ()) if ":" not in name),
                frozenset(self._manifests.get(path, ())),
            )
            for path, rows in sorted(by_path.items())
        ]


def _beneath(path: str, prefix: str) -> bool:
    """Whether we would put something at *path* today; what stands under a former prefix is not ours to judge."""
    host = path.partition("/")[0]
    return path.startswith(f"{prefix}/") if prefix else "." in host or "_" in host or host == "localhost"


async def collect(
    settings: ReceiverSettings, journal: ReceiverJournal, target: PublishTarget, gates: Gates
) -> Outcome:
    """Remove what may go. Busy while an import or archive is at work. What fails in the target is tried again later.

    *journal* belongs to this thread; the heavy work is done in another one, with a connection of its own.
    """
    with locked(settings.retention_lock):
        plan = await asyncio.to_thread(_with_own_journal, settings, make_plan)
        outcome = Outcome(plan)
        if plan.drops:
            prune = _prune_registry if target.layout is None else _prune_layout
            await prune(journal, target, gates, outcome)
        await asyncio.to_thread(_clear_spool, settings, outcome)
        return outcome


async def _prune_layout(journal: ReceiverJournal, target: PublishTarget, gates: Gates, outcome: Outcome) -> None:
    assert target.layout is not None
    plan = outcome.plan
    with gates.closed(None) as alone:
        if not alone or _marks(journal) != plan.marks:
            outcome.complete = False
            return
        try:
            pruned = await asyncio.to_thread(prune_from_layout, target.layout, plan.drops, plan.needed)
        except OciError as error:
            outcome.complete = False
            log.warning("target_not_pruned", error=str(error))
            return
        _note_pruned(journal, pruned, outcome)


async def _prune_registry(journal: ReceiverJournal, target: PublishTarget, gates: Gates, outcome: Outcome) -> None:
    for drop in outcome.plan.drops:
        repository = target.repository(drop.path)
        with gates.closed(drop.path) as alone:
            if not alone or _marks(journal) != outcome.plan.marks or not isinstance(repository, Prunable):
                outcome.complete = False
                continue
            try:
                pruned = await prune_from_registry(repository, drop, partial(_remember, journal, drop.path))
                _note_pruned(journal, pruned, outcome)
            except OciError as error:
                outcome.complete = False
                log.warning("target_not_pruned", repository=drop.path, error=str(error))


def _remember(journal: ReceiverJournal, path: str, digests: Iterable[str]) -> None:
    """Call these manifests ours before what leads to them goes: killed meanwhile, the next run still knows them."""
    with transaction(journal.connection) as connection:
        connection.executemany(
            "INSERT OR IGNORE INTO published VALUES (?, ?, ?, '', 0, ?)",
            [(path, digest, digest, time.time()) for digest in digests],
        )


def _note_pruned(journal: ReceiverJournal, pruned: Pruned, outcome: Outcome) -> None:
    """Forget what is gone from the target, and remember what it does not let go."""
    with transaction(journal.connection) as connection:
        connection.executemany("DELETE FROM published WHERE name = ? AND tag = ?", pruned.done)
        connection.executemany("DELETE FROM undeletable WHERE name = ? AND reference = ?", pruned.done)
        connection.executemany("INSERT OR REPLACE INTO undeletable VALUES (?, ?, ?)", pruned.refused)
    for tag in pruned.tags:
        noted("tag_removed", tag=tag)
    for path, reference, reason in pruned.refused:
        log.warning("not_deletable", reference=shown(path, reference), reason=reason)
    outcome.pruned.add(pruned)


def _clear_spool(settings: ReceiverSettings, outcome: Outcome) -> None:
    """Remove contents, then call their releases retired; a crash between leaves releases to be retired again."""
    plan = outcome.plan
    journal = ReceiverJournal(settings.journal)
    try:
        spool = BlobStore(settings.spool)
        for start in range(0, len(plan.spool), BATCH):
            if _marks(journal) != plan.marks:
                outcome.complete = False
                return
            batch = plan.spool[start : start + BATCH]
            with transaction(journal.connection) as connection:
                digests = [(digest,) for digest, _ in batch]
                connection.executemany(
                    "DELETE FROM unpacked WHERE digest IN (SELECT batch FROM members WHERE digest = ?)", digests
                )
                connection.executemany("DELETE FROM locations WHERE digest = ?", digests)
            outcome.spool += [one for one in batch if spool.remove(one[0])]
        with transaction(journal.connection) as connection:
            connection.executemany(
                "UPDATE retained SET retired = 1 WHERE collection = ? AND sequence = ?", plan.retire
            )
            connection.executemany("DELETE FROM undeletable WHERE name = ? AND reference = ?", plan.wanted_again)
            known = _since(journal)
            gone = {digest for digest, _ in outcome.spool}
            now = Keeping(journal, settings.retention).counted
            connection.execute("DELETE FROM unclaimed")
            connection.executemany(
                "INSERT INTO unclaimed VALUES (?, ?)",
                [(digest, known.get(digest, now)) for digest in plan.unclaimed if digest not in gone],
            )
    finally:
        journal.close()
    for collection, sequence in plan.retire:
        noted("release_retired", collection=collection, sequence=sequence)
    if outcome.spool:
        noted("spool_cleared", contents=len(outcome.spool), bytes=sum(size for _, size in outcome.spool))


def _with_own_journal(settings: ReceiverSettings, work: Any) -> Any:
    journal = ReceiverJournal(settings.journal)
    try:
        return work(settings, journal)
    finally:
        journal.close()


def _marks(journal: ReceiverJournal) -> object:
    return journal.newest_marks(), desired_marks(journal)


def _since(journal: ReceiverJournal) -> dict[str, float]:
    return dict(journal.connection.execute("SELECT digest, since FROM unclaimed").fetchall())
