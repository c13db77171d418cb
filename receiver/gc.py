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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from oci.blobs import BlobStore
from oci.descriptor import Descriptor
from oci.errors import OciError
from oci.layout import Layout
from oci.reach import reach
from oci.store import Prunable, Target
from protocol.release import ReleaseImage
from receiver.closure import references
from receiver.config import ReceiverSettings
from receiver.desired import desired_marks, release_of
from receiver.gates import Gates
from receiver.journal import ReceiverJournal
from receiver.mapping import Mapping
from receiver.noted import noted
from receiver.prune import Drop, Pruned, prune_from_layout, prune_from_registry, shown
from receiver.retention import Keeping, Key, Shrunk
from receiver.target import PublishTarget
from runtime.database import transaction
from runtime.lockfile import locked

UNCLAIMED_S: Final = 7 * 86_400.0  # counted as retention counts
BATCH: Final = 64  # files removed between two looks at whether a release has come

log = structlog.get_logger()


Undeletable = tuple[str, str, str, str]
"""Target, path, tag or digest, and why the target did not let it go."""


@dataclass(frozen=True)
class Plan:
    """What may go now. Sizes in bytes."""

    marks: object  # what was desired when it was made
    kept: frozenset[Key]
    retire: list[Key]
    shrunk: list[Shrunk]
    needed: frozenset[str]  # contents of kept releases
    drops: dict[str, list[Drop]]  # target -> what goes from it
    spool: list[tuple[str, int]]
    unclaimed: list[str]  # contents that no release names
    undeletable: list[Undeletable]
    wanted_again: list[Undeletable]  # what was undeletable and is to stay by now


@dataclass
class Outcome:
    """What went."""

    plan: Plan
    pruned: Pruned = field(default_factory=Pruned)
    done: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # target -> (path, tag or digest) that went
    spool: list[tuple[str, int]] = field(default_factory=list)
    complete: bool = True  # False: something was in use, or a release came: again later


def make_plan(settings: ReceiverSettings, journal: ReceiverJournal) -> Plan:
    """Return what may go; changes nothing. OciError or UserError if what is to stay cannot be read."""
    keeping = Keeping(journal, settings.retention)
    marks = _marks(journal)
    kept = keeping.kept()
    retire = keeping.to_retire(kept)
    spool = BlobStore(settings.spool)
    mappings = {name: Mapping.of(target) for name, target in settings.publish.each().items()}
    stays = _Stays(spool, mappings)
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
    undeletable = journal.connection.execute("SELECT * FROM undeletable ORDER BY 1, 2, 3").fetchall()
    return Plan(
        marks=marks,
        kept=frozenset(kept),
        retire=retire,
        shrunk=keeping.shrunk(),
        needed=frozenset(stays.contents),
        drops={}
        if settings.retention.keeps_everything
        else {name: stays.drops(name, journal.published(name), undeletable) for name in mappings},
        spool=going,
        unclaimed=unclaimed,
        undeletable=[row for row in undeletable if not stays.shows(*row[:3])],
        wanted_again=[row for row in undeletable if stays.shows(*row[:3])],
    )


class _Stays:
    """All that kept releases need, and show in each target."""

    def __init__(self, spool: BlobStore, mappings: dict[str, Mapping]) -> None:
        self._spool = spool
        self._mappings = mappings
        self.contents: set[str] = set()
        self._references: dict[tuple[str, str], set[str]] = {}  # (target, path) -> tags and digests
        self._manifests: dict[tuple[str, str], set[str]] = {}

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
        manifests = {one.digest for one in found.values() if one.is_manifest}
        for target, mapping in self._mappings.items():
            try:
                path = mapping.name(image.name)
            except OciError:
                continue  # such an image is never published there
            self._references.setdefault((target, path), set()).update(references(image))
            self._manifests.setdefault((target, path), set()).update(manifests)

    def shows(self, target: str, path: str, reference: str) -> bool:
        """Whether a kept release has this tag or digest in *target*."""
        return reference in self._references.get((target, path), ())

    def drops(
        self, target: str, published: dict[tuple[str, str], str], undeletable: Iterable[Undeletable]
    ) -> list[Drop]:
        """Return what of *published* no kept release has, by repository; what could not be deleted waits."""
        waiting = {row[:3] for row in undeletable}
        ours = self._mappings[target].ours
        by_path: dict[str, dict[str, str]] = {}
        for (path, reference), digest in published.items():
            one = (target, path, reference)
            if not self.shows(*one) and one not in waiting and ours(path):
                by_path.setdefault(path, {})[reference] = digest
        return [
            Drop(
                path,
                rows,
                frozenset(name for name in self._references.get((target, path), ()) if ":" not in name),
                frozenset(self._manifests.get((target, path), ())),
            )
            for path, rows in sorted(by_path.items())
        ]


async def collect(
    settings: ReceiverSettings, journal: ReceiverJournal, targets: Iterable[tuple[PublishTarget, Gates]]
) -> Outcome:
    """Remove what may go. Busy while an import or archive is at work. What fails in a target is tried again later.

    *journal* belongs to this thread; the heavy work is done in another one, with a connection of its own.
    """
    with locked(settings.retention_lock):
        plan = await asyncio.to_thread(_with_own_journal, settings, make_plan)
        outcome = Outcome(plan)
        for target, gates in targets:
            drops = plan.drops.get(target.name)
            if drops:
                await _Pruning(settings.audit, journal, target, gates, outcome).prune(drops)
        await asyncio.to_thread(_clear_spool, settings, outcome)
        return outcome


class _Pruning:
    """Takes out of one target what a plan drops there."""

    def __init__(
        self, audit: Path, journal: ReceiverJournal, target: PublishTarget, gates: Gates, outcome: Outcome
    ) -> None:
        self._audit = audit
        self._journal = journal
        self._target = target
        self._gates = gates
        self._outcome = outcome

    async def prune(self, drops: list[Drop]) -> None:
        """Remove *drops* as far as the target lets them go and nobody is at work there."""
        if self._target.layout is not None:
            await self._from_layout(self._target.layout, drops)
        elif self._target.repository is not None:
            await self._from_registry(self._target.repository, drops)
        else:  # a folder of archives tidies up by itself; what it once had is only forgotten here
            await self._note(Pruned(done=[(drop.path, reference) for drop in drops for reference in drop.rows]))

    async def _from_layout(self, layout: Layout, drops: list[Drop]) -> None:
        plan = self._outcome.plan
        with self._gates.closed(None) as alone:
            if not alone or _marks(self._journal) != plan.marks:
                self._outcome.complete = False
                return
            try:
                pruned = await asyncio.to_thread(prune_from_layout, layout, drops, plan.needed)
            except OciError as error:
                self._outcome.complete = False
                log.warning("target_not_pruned", target=self._target.name, error=str(error))
                return
            await self._note(pruned)

    async def _from_registry(self, open_repository: Callable[[str], Target], drops: list[Drop]) -> None:
        for drop in drops:
            repository = open_repository(drop.path)
            with self._gates.closed(drop.path) as alone:
                stale = _marks(self._journal) != self._outcome.plan.marks
                if not alone or stale or not isinstance(repository, Prunable):
                    self._outcome.complete = False
                    continue
                try:
                    await self._note(await prune_from_registry(repository, drop, partial(self._remember, drop.path)))
                except OciError as error:
                    self._outcome.complete = False
                    log.warning("target_not_pruned", target=self._target.name, repository=drop.path, error=str(error))

    def _remember(self, path: str, digests: Iterable[str]) -> None:
        """Call these manifests ours before what leads to them goes: killed meanwhile, we still know them."""
        with transaction(self._journal.connection) as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO published VALUES (?, ?, ?, ?, '', 0, ?)",
                [(self._target.name, path, digest, digest, time.time()) for digest in digests],
            )

    async def _note(self, pruned: Pruned) -> None:
        """Forget what is gone from the target, and remember what it does not let go."""
        name = self._target.name
        done = [(name, *place) for place in pruned.done]
        refused = [(name, *one) for one in pruned.refused]
        with transaction(self._journal.connection) as connection:
            connection.executemany("DELETE FROM published WHERE target = ? AND name = ? AND tag = ?", done)
            connection.executemany("DELETE FROM undeletable WHERE target = ? AND name = ? AND reference = ?", done)
            connection.executemany("INSERT OR REPLACE INTO undeletable VALUES (?, ?, ?, ?)", refused)
        if pruned.tags:
            await asyncio.to_thread(noted, self._audit, "tags_removed", name, tags=pruned.tags)
        for path, reference, reason in pruned.refused:
            log.warning("not_deletable", target=name, reference=shown(path, reference), reason=reason)
        self._outcome.pruned.add(pruned)
        self._outcome.done.setdefault(name, []).extend(pruned.done)


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
            connection.executemany(
                "DELETE FROM undeletable WHERE target = ? AND name = ? AND reference = ?",
                [row[:3] for row in plan.wanted_again],
            )
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
        noted(settings.audit, "release_retired", f"{collection} {sequence}")
    if outcome.spool:
        size = sum(size for _, size in outcome.spool)
        noted(settings.audit, "spool_cleared", "spool", contents=len(outcome.spool), bytes=size)


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
