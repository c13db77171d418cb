"""Reading content that an index.json names: what a layout on disk and a tarball have in common.

It resolves names and digests, and finds referrers; where the bytes are and what the entries are it is told by
the two small interfaces below. It never writes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final, Protocol

from oci.descriptor import Descriptor, Manifest, check_digest, referrers_tag
from oci.documents import children, detect_media_type
from oci.errors import ContentMismatch, NotFound, OciError, ReferenceError_
from oci.layout_index import Entry, Lookup, entry_descriptor, entry_names
from oci.limits import MANIFEST_BYTES_MAX
from oci.referrers import ReferrerIndex, merge_referrers

TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class Content(Protocol):
    """Blobs by digest; the methods are those of BlobStore."""

    def size(self, digest: str) -> int | None:
        """Size in bytes, None if absent."""
        ...

    def read(self, digest: str, size_max: int) -> bytes:
        """All bytes, verified."""
        ...

    def stream(self, digest: str, size: int, offset: int = 0, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Bytes from *offset*, verified as BlobStore does."""
        ...


class Entries(Protocol):
    """The entries of an index.json."""

    def lookup(self) -> Lookup:
        """All entries, checked; shared, so not to be changed."""
        ...

    def version(self) -> object:
        """A token that changes whenever they do."""
        ...


def is_digest(reference: str) -> bool:
    """Whether *reference* is meant as a digest rather than a tag."""
    return reference.startswith(("sha256:", "sha512:"))


def find_entry(lookup: Lookup, reference: str, repository: str | None, where: str) -> Entry:
    """Return the entry of index.json that the tag *reference* names; NotFound, ReferenceError_ if ambiguous.

    With a *repository* only ``repository:reference`` counts, as ref.name or as containerd's full name.
    Without, a ref.name comes first, then a full name, which also tells images of equal ref.name apart.
    """
    wanted = reference if repository is None else f"{repository}:{reference}"
    found = lookup.by_name.get(wanted) or lookup.by_full_name.get(wanted)
    if not found:
        raise NotFound(f"{where}: no tag {reference!r}")
    if len({entry["digest"] for entry in found}) > 1:
        names = sorted(repr(full) for _, full in map(entry_names, found) if full)
        raise ReferenceError_(
            f"{where}: {reference!r} names {len(found)} images; use one of {', '.join(names) or 'the digests'}"
        )
    return found[0]


def list_tags(entries: list[Entry], repository: str | None) -> list[str]:
    """Return the tags in *entries*, sorted: of *repository*, or every name if it is None."""
    names = {name for entry in entries for name in entry_names(entry) if name}
    if repository is None:
        return sorted(names)
    prefix = f"{repository}:"
    tails = (name[len(prefix) :] for name in names if name.startswith(prefix))
    return sorted(tail for tail in tails if TAG.fullmatch(tail))


class IndexedSource:
    """A ``Source`` of store.py over entries and content."""

    def __init__(
        self, where: str, content: Content, index: Entries, referrers: ReferrerIndex, repository: str | None
    ) -> None:
        self._where = where
        self._content = content
        self._entries = index
        self._referrers = referrers
        self._repository = repository

    @property
    def name(self) -> str:
        """``oci:/srv/layout`` or ``oci:/srv/layout:library/nginx``."""
        return self._where + (f":{self._repository}" if self._repository else "")

    async def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest; NotFound, ReferenceError_ if a tag is ambiguous."""
        return await asyncio.to_thread(self._resolve, reference)

    async def manifest(self, reference: str) -> Manifest:
        """Return the exact bytes under a tag or digest, verified; NotFound, ContentMismatch, TooLarge."""
        return await asyncio.to_thread(self._manifest, reference)

    def blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Yield the blob's bytes from *offset*; verified as ``store.Source`` says."""
        return self._content.stream(descriptor.digest, descriptor.size, offset, verify=verify)

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether a file of the right size is there."""
        return await asyncio.to_thread(self._content.size, descriptor.digest) == descriptor.size

    async def tags(self) -> list[str]:
        """All tags of the repository, sorted; of a whole layout all names, short and full."""
        return list_tags((await asyncio.to_thread(self._entries.lookup)).entries, self._repository)

    async def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """Manifests with the subject *digest*, from index.json and from the tag schema, sorted by digest."""
        return await asyncio.to_thread(self._find_referrers, check_digest(digest), artifact_type)

    def entries(self) -> list[Entry]:
        """Return what index.json lists, names included, those without a name too; not to be changed."""
        return self._entries.lookup().entries

    def _resolve(self, reference: str) -> Descriptor:
        if not is_digest(reference):
            return entry_descriptor(find_entry(self._entries.lookup(), reference, self._repository, self.name))
        check_digest(reference)
        for entry in self._entries.lookup().by_digest.get(reference, ()):
            if self._content.size(reference) == entry["size"]:
                return entry_descriptor(entry)
        return self._from_content(reference)

    def _from_content(self, digest: str) -> Descriptor:
        """Take the media type from the manifest itself: children are not in index.json."""
        size = self._content.size(digest)
        if size is None or size > MANIFEST_BYTES_MAX:
            raise NotFound(f"{self.name}: no manifest {digest}")
        raw = self._content.read(digest, MANIFEST_BYTES_MAX)
        try:
            return Descriptor(detect_media_type(raw), digest, len(raw))
        except OciError as error:
            raise NotFound(f"{self.name}: no manifest {digest} (there is a blob, but: {error})") from None

    def _manifest(self, reference: str) -> Manifest:
        descriptor = self._resolve(reference)
        raw = self._content.read(descriptor.digest, MANIFEST_BYTES_MAX)
        if len(raw) != descriptor.size:
            raise ContentMismatch(f"{self.name}: {reference}: {len(raw)} bytes, index.json says {descriptor.size}")
        return Manifest(descriptor, raw)

    def _find_referrers(self, digest: str, artifact_type: str | None) -> list[Descriptor]:
        version, entries = self._entries.version(), self._entries.lookup().entries
        found = self._referrers.find(map(entry_descriptor, entries), version, digest)
        fallback: list[Descriptor] = []
        try:
            # distribution-spec, "Referrers Tag Schema": written by clients of registries without the API.
            listed = self._manifest(referrers_tag(digest))
            fallback = children(listed).manifests
        except NotFound:
            pass
        return merge_referrers((*fallback, *found), artifact_type)
