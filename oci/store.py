"""The one interface of a repository of content, whether behind HTTP (client.py) or on disk (layout.py).

A store is *one repository*: ``Registry.repository("library/nginx")`` or a whole image layout. Everything is
addressed by digest; a tag is a name that moves. All errors are oci.errors; all reads are bounded and verified
against the descriptor before the caller sees the last byte.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from oci.descriptor import Descriptor, Manifest

BlobOpener = Callable[[int], AsyncIterator[bytes]]
"""Opens the bytes of one blob from an offset (bytes), as often as a retry needs it."""

Progress = Callable[[int], None]
"""Told of bytes moved since the last call."""


class Source(Protocol):
    """What can be read."""

    @property
    def name(self) -> str:
        """How errors and logs call this place: ``docker.io/library/nginx`` or ``oci:/srv/layout``."""
        ...

    async def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest without fetching the body where possible; NotFound if absent."""
        ...

    async def manifest(self, reference: str) -> Manifest:
        """Return the manifest under a tag or digest; for a digest the bytes are verified (ContentMismatch)."""
        ...

    def blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Yield the blob's bytes from *offset*. Size is always verified; the digest when *offset* is 0.

        Without *verify* the digest is left to the caller, who hashes anyway.
        """
        ...

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether the manifest or blob is there (HEAD, or a file of the right size)."""
        ...

    async def tags(self) -> list[str]:
        """All tags, sorted; pages are followed."""
        ...

    async def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """Manifests whose ``subject`` is *digest*: API with paging, else the ``sha256-<hex>`` tag schema."""
        ...


@dataclass(frozen=True, slots=True)
class TagList:
    """All tags, sorted. *etag* lets the next question be a conditional one; None if the list cannot be asked so."""

    tags: list[str]
    etag: str | None


@runtime_checkable
class Upstream(Source, Protocol):
    """What can be watched: whether something has changed is asked for less than what it is."""

    async def moved(self, tag: str, known: str) -> Descriptor | None:
        """Return where *tag* leads now, None if that still is the digest *known*; NotFound if it is gone."""
        ...

    async def tag_list(self, etag: str | None = None) -> TagList | None:
        """All tags, None if nothing has changed since they came with *etag*."""
        ...


@runtime_checkable
class Prunable(Source, Protocol):
    """What can be deleted from, manifest by manifest; blobs are the registry's own to collect."""

    async def delete_tag(self, tag: str) -> None:
        """Delete *tag* and nothing else; nothing happens if it is not there. Refused where that cannot be done."""
        ...

    async def delete_manifest(self, digest: str) -> None:
        """Delete a manifest with every tag that leads to it; nothing happens if it is not there. NotAllowed."""
        ...

    async def delete_referrer(self, digest: str, subject: str) -> None:
        """Delete a manifest that refers to *subject*, and its entry in the list of the tag schema."""
        ...


class Target(Source, Protocol):
    """What can also be written."""

    async def push_blob(
        self,
        descriptor: Descriptor,
        opener: BlobOpener,
        *,
        mount_from: str | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Make the blob exist: skip if there, else mount from repository *mount_from*, else upload.

        Return True if bytes were moved. The content is verified against *descriptor*; a mismatch leaves nothing.
        """
        ...

    async def push_manifest(self, manifest: Manifest, tag: str | None = None) -> None:
        """Put the exact bytes under their digest, and under *tag* if given; children must be there before."""
        ...
