"""An OCI image layout on disk (image-layout.md, version 1.0.0) behind the interface of store.py.

A layout is used as one repository (tags are ``1.27``, as skopeo writes them), or as many: then
``layout.repository("internal/docker.io/library/nginx")`` keeps its tags in the same index.json under full
names, ``internal/docker.io/library/nginx:1.27``. Content is shared by all repositories of a layout: a digest
that one of them holds can be read through any. It knows nothing of HTTP, nor of what may be deleted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from oci.blobs import BlobStore
from oci.descriptor import Descriptor, Manifest, check_digest, hasher
from oci.documents import children
from oci.errors import ContentMismatch, NotFound, ReferenceError_, Refused, TooLarge
from oci.indexed import TAG, IndexedSource, is_digest, list_tags
from oci.layout_index import Entry, IndexFile, entry_names, make_entry
from oci.limits import MANIFEST_BYTES_MAX
from oci.referrers import ReferrerIndex, as_referrer
from oci.store import BlobOpener, Progress

# Wider than the grammar of registries, so that the full names of other tools fit: host:port and upper case.
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,510}")
# image-spec annotations.md, org.opencontainers.image.ref.name
_REF_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@/+-]{0,639}")


class LayoutRepository(IndexedSource):
    """One repository of a layout: a ``Target`` of store.py. Made by ``Layout`` only."""

    def __init__(self, blobs: BlobStore, index: IndexFile, referrers: ReferrerIndex, repository: str | None) -> None:
        super().__init__(f"oci:{blobs.root}", blobs, index, referrers, repository)
        self.blobs = blobs
        self._index = index

    async def push_blob(
        self,
        descriptor: Descriptor,
        opener: BlobOpener,
        *,
        mount_from: str | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Make the blob exist; True if bytes were moved. Repositories share blobs: *mount_from* is moot."""
        if await self.exists(descriptor):
            return False
        await self.blobs.write_stream(descriptor.digest, descriptor.size, opener(0), progress)
        return True

    async def push_manifest(self, manifest: Manifest, tag: str | None = None) -> None:
        """Put the exact bytes under their digest and move *tag* there.

        Refused if the config or a layer is missing (foreign layers, which have urls, may be). An index may be
        sparse: children it names need not be there. ContentMismatch, TooLarge, StorageFull, Unsupported.
        """
        await asyncio.to_thread(self._push_manifest, manifest, tag)

    def missing_children(self, manifest: Manifest) -> list[Descriptor]:
        """Return what *manifest* names directly and the layout lacks, except foreign layers with urls."""
        found = children(manifest)
        return self._missing([*found.manifests, *([found.config] if found.config else []), *found.layers])

    def _missing(self, wanted: list[Descriptor]) -> list[Descriptor]:
        return [child for child in wanted if not child.urls and self.blobs.size(child.digest) != child.size]

    def _push_manifest(self, manifest: Manifest, tag: str | None) -> None:
        descriptor, raw = manifest.descriptor, manifest.raw
        name = None if tag is None else self._full_name(tag)
        if len(raw) > MANIFEST_BYTES_MAX:
            raise TooLarge(f"{self.name}: manifest {descriptor.digest} is larger than {MANIFEST_BYTES_MAX} bytes")
        hashing = hasher(check_digest(descriptor.digest))
        hashing.update(raw)
        if len(raw) != descriptor.size or hashing.hexdigest() != descriptor.digest.partition(":")[2]:
            raise ContentMismatch(f"{self.name}: the manifest's bytes are not {descriptor.digest}")
        found = children(manifest)
        missing = self._missing([found.config, *found.layers]) if found.config else []
        if missing:
            raise Refused(f"{self.name}: {descriptor.digest} names {missing[0].digest}, which is not there yet")
        if self.blobs.size(descriptor.digest) != len(raw):
            self.blobs.write(descriptor.digest, raw)
        if found.subject is not None:
            # The artifact type marks the entry as one that only index.json leads to.
            descriptor = replace(descriptor, artifact_type=as_referrer(manifest).artifact_type)
        if name is not None or found.subject is not None:
            self._index.update(lambda entries: _with(entries, descriptor, name))

    def _full_name(self, tag: str) -> str:
        grammar, name = (_REF_NAME, tag) if self._repository is None else (TAG, f"{self._repository}:{tag}")
        if not grammar.fullmatch(tag) or is_digest(tag):
            raise ReferenceError_(f"{self.name}: {tag!r} is not a tag (letters, digits and _ . -, at most 128)")
        return name


def _with(entries: list[Entry], descriptor: Descriptor, name: str | None) -> list[Entry] | None:
    """Return *entries* with *name* moved to *descriptor*, None if nothing changes."""
    same = [entry for entry in entries if entry["digest"] == descriptor.digest]
    if name is None:
        return None if same else [*entries, make_entry(descriptor, None)]
    holders = [entry for entry in entries if entry_names(entry)[0] == name]
    if len(holders) == 1 and holders[0]["digest"] == descriptor.digest:
        return None
    kept = [entry for entry in entries if entry_names(entry)[0] != name]
    # What loses its name stays listed without one if it is a referrer: only index.json leads to those.
    kept += [_unnamed(entry) for entry in holders if "artifactType" in entry and entry not in same]
    return [*kept, make_entry(descriptor, name)]


def _unnamed(entry: Entry) -> Entry:
    return {key: value for key, value in entry.items() if key != "annotations"}


class Layout(LayoutRepository):
    """A whole image layout, as one repository or as many. Folders and files appear with the first write."""

    def __init__(self, root: Path) -> None:
        blobs = BlobStore(Path(root))
        referrers = ReferrerIndex(lambda digest: blobs.read(digest, MANIFEST_BYTES_MAX))
        super().__init__(blobs, IndexFile(blobs.root), referrers, None)

    @classmethod
    def open(cls, root: Path) -> Layout:
        """Open a layout that must be there already; NotFound names what is missing."""
        layout = cls(root)
        if not layout._index.present:
            raise NotFound(f"{root}: not an OCI image layout (no oci-layout or index.json in it)")
        return layout

    @property
    def root(self) -> Path:
        """The folder."""
        return self.blobs.root

    def repository(self, name: str) -> LayoutRepository:
        """Return the repository *name*, such as ``docker.io/library/nginx``; ReferenceError_ if malformed."""
        if not _REPOSITORY.fullmatch(name) or name.endswith((":", "/")):
            raise ReferenceError_(f"{self.root}: {name!r} is not a repository name such as library/nginx")
        return LayoutRepository(self.blobs, self._index, self._referrers, name)

    def update_index(self, change: Callable[[list[Entry]], list[Entry] | None]) -> None:
        """Replace the entries of index.json by what *change* returns, as ``IndexFile.update`` does."""
        self._index.update(change)

    async def repositories(self) -> list[str]:
        """Names of all repositories that have a tag, sorted."""
        names = list_tags(await asyncio.to_thread(self._index.entries), None)
        pairs = (name.rpartition(":") for name in names)
        return sorted({repository for repository, _, tag in pairs if repository and TAG.fullmatch(tag)})
