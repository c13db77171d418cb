"""The closure of a root: every manifest and blob beneath it, and what refers to any of them.

Reads manifests from any ``store.Source`` and moves no blob. The lists come in the order in which a target takes them:
``blobs``, then ``manifests`` (children before parents, the root's tree before its referrers), then the tags.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from oci import limits
from oci.descriptor import Descriptor, Manifest, referrers_tag, short_digest
from oci.documents import children, is_foreign
from oci.errors import ContentMismatch, NotFound, TooLarge, Unsupported
from oci.store import Source

_ATTESTED: Final = "vnd.docker.reference.digest"  # on attestation entries of an index: what they attest
_COSIGN_SUFFIXES: Final = (".sig", ".att", ".sbom")
_LOOKUPS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Closure:
    """All that a mirror must carry for *root*."""

    root: Descriptor
    manifests: list[Manifest] = field(default_factory=list)  # push order; referrers and tagged roots included
    blobs: list[Descriptor] = field(default_factory=list)  # each digest once
    referrers: list[Manifest] = field(default_factory=list)  # those of manifests that are there as referrers
    foreign: list[Descriptor] = field(default_factory=list)  # layers that registries need not hold
    tagged: dict[str, Descriptor] = field(default_factory=dict)  # cosign's tags and their roots
    skipped: list[str] = field(default_factory=list)  # listed referrers left out, one line each, with why
    absent: list[str] = field(default_factory=list)  # entries of indexes that the platform filter left out


@dataclass(frozen=True, slots=True)
class Recorded:
    """What once referred to a root: digests in the order of ``Closure.referrers``, and cosign's tags."""

    referrers: tuple[str, ...] = ()
    tagged: tuple[tuple[str, str], ...] = ()


def cosign_tags(digest: str) -> list[str]:
    """Return the tags under which cosign keeps signature, attestations and SBOM of *digest*."""
    return [referrers_tag(digest) + suffix for suffix in _COSIGN_SUFFIXES]


async def walk(
    source: Source,
    root: Descriptor,
    *,
    referrers: bool | Recorded = True,
    artifact_types: Callable[[str | None], bool] | None = None,
    platforms: frozenset[str] | None = None,
) -> Closure:
    """Return the closure of *root*; with *platforms*, such as ``linux/arm64``, only those entries of its indexes.

    ``linux/arm`` takes any variant of it. Entries without platform stay, attestations stay with what they attest.
    *artifact_types* chooses among what the referrers API lists; cosign's tags have no type and always come along.
    With what was Recorded of an earlier closure nobody is asked what refers to the root, and it comes out the same.
    Raises ContentMismatch, NotFound, Unsupported as the documents deserve, TooLarge beyond limits.py.
    """
    walker = _Walker(source, root, platforms)
    await walker.visit(root, 0)
    if not walker.manifests:
        raise Unsupported(f"{source.name}: {root.media_type!r} is no manifest or index; expected one as the root")
    if isinstance(referrers, Recorded):
        await walker.follow_recorded(referrers)
    elif referrers:
        await walker.follow_referrers(artifact_types)
    return Closure(
        root=root,
        manifests=list(walker.manifests.values()),
        blobs=list(walker.blobs.values()),
        referrers=walker.referrers,
        foreign=list(walker.foreign.values()),
        tagged=walker.tagged,
        skipped=walker.skipped,
        absent=[digest for digest in walker.absent if digest not in walker.manifests],
    )


class _Walker:
    def __init__(self, source: Source, root: Descriptor, platforms: frozenset[str] | None) -> None:
        self._source = source
        self._root = root
        self._platforms = platforms
        self._open: set[str] = set()
        self._bytes = 0
        self._entries = 0
        self.manifests: dict[str, Manifest] = {}  # insertion order is push order
        self.blobs: dict[str, Descriptor] = {}
        self.foreign: dict[str, Descriptor] = {}
        self.referrers: list[Manifest] = []
        self.tagged: dict[str, Descriptor] = {}
        self.skipped: list[str] = []
        self.absent: dict[str, None] = {}  # as an ordered set

    async def visit(self, descriptor: Descriptor, depth: int, subject: str | None = None) -> None:
        """Add a manifest after everything beneath it; NotFound if it does not refer to the *subject* demanded."""
        if descriptor.digest in self.manifests or not descriptor.is_manifest:
            return
        where = f"{self._source.name}: manifest {short_digest(descriptor.digest)}"
        if descriptor.digest in self._open:
            raise ContentMismatch(f"{where}: contains itself")
        if depth > limits.INDEX_DEPTH_MAX:
            raise TooLarge(f"{where}: indexes nested more than {limits.INDEX_DEPTH_MAX} deep")
        manifest = await self._fetch(descriptor, where)
        parts = children(manifest)
        if subject is not None and (parts.subject is None or parts.subject.digest != subject):
            raise NotFound(f"{where}: its subject is another")
        self._open.add(descriptor.digest)
        for entry in self._selected(parts.manifests, where, depth):
            await self.visit(entry, depth + 1)
        for blob in [*([parts.config] if parts.config is not None else []), *parts.layers]:
            self._add_blob(blob, where)
        self._open.discard(descriptor.digest)
        self.manifests[descriptor.digest] = manifest

    async def follow_recorded(self, recorded: Recorded) -> None:
        """Visit what was found to refer to the root before."""
        for digest in recorded.referrers:
            manifest = await self._source.manifest(digest)
            await self.visit(manifest.descriptor, 0)
            self.referrers.append(self.manifests[digest])
        for tag, digest in recorded.tagged:
            found = (await self._source.manifest(digest)).descriptor
            await self.visit(found, 0)
            self.tagged[tag] = found

    async def follow_referrers(self, wanted: Callable[[str | None], bool] | None = None) -> None:
        """Look up, level by level, what refers to the manifests found so far; then cosign's tags."""
        tree = list(self.manifests)
        level = tree
        for _ in range(limits.INDEX_DEPTH_MAX):
            level = await self._referrers_of(level, wanted)
            if not level:
                break
        else:
            if await self._lookup(level, wanted):
                raise TooLarge(
                    f"{self._source.name}: referrers of {short_digest(self._root.digest)} refer to each other "
                    f"more than {limits.INDEX_DEPTH_MAX} deep"
                )
        found: dict[str, Descriptor] = {}
        for start in range(0, len(tree), _LOOKUPS_AT_ONCE):
            tags = [tag for digest in tree[start : start + _LOOKUPS_AT_ONCE] for tag in cosign_tags(digest)]
            answers = await asyncio.gather(*map(self._resolve, tags))
            found |= {tag: root for tag, root in zip(tags, answers, strict=True) if root is not None}
        for tag, root in sorted(found.items()):  # as Recorded has them
            await self.visit(root, 0)
            self.tagged[tag] = root

    async def _referrers_of(self, digests: list[str], wanted: Callable[[str | None], bool] | None) -> list[str]:
        """Add the referrers of *digests*; return the digests of all manifests that came in with them."""
        before = set(self.manifests)
        for subject, referrer in await self._lookup(digests, wanted):
            if referrer.digest in self.manifests:
                continue
            line = f"{self._source.name}: referrer {short_digest(referrer.digest)} of {short_digest(subject)}"
            if not referrer.is_manifest:
                self.skipped.append(f"{line}: {referrer.media_type!r} is no manifest")
                continue
            try:
                await self.visit(referrer, 0, subject)
            except (NotFound, Unsupported) as error:  # lists outlive what they name
                self._open.clear()
                self.skipped.append(f"{line}: {error}")
                continue
            self.referrers.append(self.manifests[referrer.digest])
        return [digest for digest in self.manifests if digest not in before]

    async def _lookup(
        self, digests: list[str], wanted: Callable[[str | None], bool] | None
    ) -> list[tuple[str, Descriptor]]:
        found: list[tuple[str, Descriptor]] = []
        for start in range(0, len(digests), _LOOKUPS_AT_ONCE):
            part = digests[start : start + _LOOKUPS_AT_ONCE]
            for subject, listed in zip(part, await asyncio.gather(*map(self._source.referrers, part)), strict=True):
                self._count(len(listed))
                found += [
                    (subject, referrer)
                    for referrer in listed
                    if referrer.digest not in self.manifests and (wanted is None or wanted(referrer.artifact_type))
                ]
        return found

    async def _resolve(self, tag: str) -> Descriptor | None:
        try:
            return await self._source.resolve(tag)
        except NotFound:
            return None

    async def _fetch(self, descriptor: Descriptor, where: str) -> Manifest:
        manifest = await self._source.manifest(descriptor.digest)
        if len(manifest.raw) != descriptor.size:
            raise ContentMismatch(f"{where}: expected {descriptor.size:,} bytes, got {len(manifest.raw):,}")
        if manifest.descriptor.media_type != descriptor.media_type:
            raise ContentMismatch(
                f"{where}: it is {manifest.descriptor.media_type}, but is listed as {descriptor.media_type}"
            )
        self._bytes += len(manifest.raw)
        if self._bytes > limits.CLOSURE_MANIFEST_BYTES_MAX:
            raise TooLarge(
                f"{where}: manifests of more than {limits.CLOSURE_MANIFEST_BYTES_MAX:,} bytes in one image"
            )
        self._count(1)
        return manifest

    def _add_blob(self, blob: Descriptor, where: str) -> None:
        self._count(1)
        known = self.blobs.get(blob.digest) or self.foreign.get(blob.digest)
        if known is not None and known.size != blob.size:
            raise ContentMismatch(
                f"{where}: blob {short_digest(blob.digest)} is listed with {blob.size:,} bytes and {known.size:,}"
            )
        if not is_foreign(blob):
            self.foreign.pop(blob.digest, None)  # someone relies on the registry for it
            self.blobs.setdefault(blob.digest, blob)
        elif blob.digest not in self.blobs:
            self.foreign.setdefault(blob.digest, blob)

    def _selected(self, entries: list[Descriptor], where: str, depth: int) -> list[Descriptor]:
        """Return the entries that the platform filter leaves."""
        if self._platforms is None:
            return entries
        kept = {entry.digest for entry in entries if _matches(entry.platform, self._platforms)}
        chosen = [entry for entry in entries if entry.digest in kept or entry.annotations.get(_ATTESTED) in kept]
        if entries and not chosen and depth == 0:
            offered = sorted({entry.platform for entry in entries if entry.platform is not None})
            raise NotFound(
                f"{where}: nothing for {', '.join(sorted(self._platforms))}; the index has {', '.join(offered)}"
            )
        self.absent.update(dict.fromkeys(entry.digest for entry in entries if entry not in chosen))
        return chosen

    def _count(self, entries: int) -> None:
        """Bound the work, repeated entries included."""
        self._entries += entries
        if self._entries > limits.CLOSURE_DESCRIPTORS_MAX:
            raise TooLarge(
                f"{self._source.name}: {short_digest(self._root.digest)} names more than "
                f"{limits.CLOSURE_DESCRIPTORS_MAX:,} descriptors"
            )


def _matches(platform: str | None, wanted: frozenset[str]) -> bool:
    if platform is None:
        return True
    return any(platform == one or platform.startswith(f"{one}/") for one in wanted)
