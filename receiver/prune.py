"""Takes out of a target what no kept release has: tags, and manifests with all that only they lead to.

Careful with what others put there: what their tags lead to stays, and so does a tag of ours that leads elsewhere by
now. What the target does not let go is returned with its reason. Knows no release and no journal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from oci.descriptor import short_digest
from oci.documents import children
from oci.errors import NotAllowed, NotFound, Refused, Unauthorized
from oci.layout import Layout
from oci.limits import INDEX_DEPTH_MAX
from oci.reach import prune_layout
from oci.store import Prunable

TAGS_OF_OTHERS_MAX: Final = 2_000  # each is asked for before anything is deleted
_REFERRERS_LIST: Final = re.compile(r"sha256-[0-9a-f]{64}\Z")  # goes with what it lists


@dataclass(frozen=True, slots=True)
class Drop:
    """What of one repository is to go: *rows* is tag or digest -> digest, as we once put it there."""

    path: str
    rows: dict[str, str]
    kept_tags: frozenset[str]
    kept_manifests: frozenset[str]

    @property
    def tags(self) -> list[str]:
        """The tags among the rows."""
        return sorted(reference for reference in self.rows if ":" not in reference)


@dataclass(slots=True)
class Pruned:
    """What went, as far as it did."""

    tags: list[str] = field(default_factory=list)  # path:tag
    manifests: int = 0
    content_bytes: int = 0  # of a layout; a registry collects by itself
    done: list[tuple[str, str]] = field(default_factory=list)  # (path, tag or digest)
    refused: list[tuple[str, str, str]] = field(default_factory=list)  # with the reason

    def add(self, other: Pruned) -> None:
        """Count what *other* says."""
        self.tags += other.tags
        self.manifests += other.manifests
        self.content_bytes += other.content_bytes
        self.done += other.done
        self.refused += other.refused


def prune_from_layout(layout: Layout, drops: Iterable[Drop], keep: frozenset[str]) -> Pruned:
    """Take *drops* out of a layout, where repositories share content; *keep* stays whatever leads to it."""
    drops = list(drops)
    names = {f"{drop.path}:{tag}" for drop in drops for tag in drop.tags}
    ours = {f"{drop.path}:{tag}": drop.rows[tag] for drop in drops for tag in drop.tags}
    for entry in layout.entries():  # somebody has moved it since
        name = (entry.get("annotations") or {}).get("org.opencontainers.image.ref.name")
        if name in ours and entry["digest"] != ours[name]:
            names.discard(name)
    digests = {digest for drop in drops for digest in drop.rows.values()}
    removed = prune_layout(layout, names, sorted(digests), keep)
    return Pruned(
        tags=sorted(names),
        manifests=sum(digest in digests for digest, _ in removed),
        content_bytes=sum(size for _, size in removed),
        done=[(drop.path, reference) for drop in drops for reference in drop.rows],
    )


async def prune_from_registry(
    repository: Prunable, drop: Drop, remember: Callable[[list[str]], None] = lambda digests: None
) -> Pruned:
    """Take *drop* out of a repository of a registry. OciError, Unreachable most likely, leaves the rest for later.

    *remember* is told of manifests beneath those of *drop* before anything is deleted.
    """
    found = Pruned()
    try:
        present = set(await repository.tags())
    except NotFound:
        present = set()
    keep = set(drop.kept_manifests)
    ours = set(drop.tags)
    others = sorted(tag for tag in present - ours - drop.kept_tags if not _REFERRERS_LIST.match(tag))
    if len(others) > TAGS_OF_OTHERS_MAX:
        return _all_refused(drop, f"{len(others):,} tags of others may lead to it")
    moved = [tag for tag in sorted(ours & present) if await _digest_of(repository, tag) != drop.rows[tag]]
    for tag in (*others, *moved):
        keep |= (await _beneath(repository, [tag])).keys()
    doomed = await _beneath(repository, [digest for digest in drop.rows.values() if digest not in keep])
    doomed = {digest: subject for digest, subject in doomed.items() if digest not in keep}
    beneath = [digest for digest in doomed if digest not in drop.rows]
    remember(beneath)
    try:
        await _delete(repository, doomed, found)
    except (NotAllowed, Unauthorized) as error:
        refused = _all_refused(drop, _reason(error))
        refused.manifests = found.manifests
        return refused
    for reference, digest in drop.rows.items():
        if ":" in reference:
            if digest in keep and digest not in drop.kept_manifests:
                found.refused.append((drop.path, reference, "a tag that somebody else put there leads to it"))
                continue
        elif reference in present and reference not in moved:
            if digest not in doomed:  # another tag needs the manifest
                try:
                    await repository.delete_tag(reference)
                except (Refused, Unauthorized) as error:
                    found.refused.append((drop.path, reference, _reason(error)))
                    continue
            found.tags.append(f"{drop.path}:{reference}")
        found.done.append((drop.path, reference))
    found.done += [(drop.path, digest) for digest in beneath]
    return found


async def _delete(repository: Prunable, doomed: dict[str, str | None], found: Pruned) -> None:
    """Delete referrers first, then parents before children: what a tag leads to at any moment is whole."""
    for digest, subject in sorted(doomed.items(), key=lambda item: item[1] is None):
        if subject is not None:
            await repository.delete_referrer(digest, subject)
        else:
            await repository.delete_manifest(digest)
        found.manifests += 1


async def _beneath(repository: Prunable, references: Iterable[str]) -> dict[str, str | None]:
    """Return the manifests that *references* lead to with what each refers to; parents come before children."""
    found: dict[str, str | None] = {}
    known: dict[str, tuple[str, str | None, list[str]] | None] = {}
    level = list(dict.fromkeys(references))
    for _ in range(INDEX_DEPTH_MAX + 1):
        below: dict[str, None] = {}
        for one in level:
            if one not in known:
                known[one] = await _look(repository, one)
            looked = known[one]
            if looked is not None:
                found.pop(looked[0], None)  # met again further down: behind whatever leads to it there
                found[looked[0]] = looked[1]
                below |= dict.fromkeys(looked[2])
        level = list(below)
    return found


async def _look(repository: Prunable, reference: str) -> tuple[str, str | None, list[str]] | None:
    """Return digest, subject and children of a manifest; None if it is not there."""
    try:
        manifest = await repository.manifest(reference)
    except NotFound:
        return None
    parts = children(manifest)
    subject = None if parts.subject is None else parts.subject.digest
    return manifest.descriptor.digest, subject, [child.digest for child in parts.manifests]


async def _digest_of(repository: Prunable, tag: str) -> str | None:
    try:
        return (await repository.resolve(tag)).digest
    except NotFound:
        return None


def _all_refused(drop: Drop, reason: str) -> Pruned:
    return Pruned(refused=[(drop.path, reference, reason) for reference in drop.rows])


def _reason(error: Exception) -> str:
    return str(error).partition(": ")[2] or str(error)


def shown(path: str, reference: str) -> str:
    """Return how people are told of a tag or digest."""
    return f"{path}@{short_digest(reference)}" if ":" in reference else f"{path}:{reference}"
