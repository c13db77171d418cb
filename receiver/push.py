"""Puts one whole image into one repository: blobs, child manifests, indexes, referrers; then looks; then the tags.

A tag is put only after everything beneath it has been seen in the target. Each step can be repeated, so an attempt
that broke off anywhere is simply made again. Knows no release, no journal, and not when to try again.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from oci import limits
from oci.blobs import BlobStore
from oci.descriptor import Descriptor, Manifest, short_digest
from oci.documents import children
from oci.errors import NotFound, OciError
from oci.store import BlobOpener, Target
from protocol.release import ReleaseImage
from receiver.closure import Plan, references

_LOOKS_AT_ONCE: Final = 8


class NotKept(OciError):
    """The target took content, or a tag, and does not show it afterwards."""


@dataclass(slots=True)
class Moved:
    """What one attempt has put into the target so far."""

    blobs: int = 0
    bytes: int = 0
    spared: list[str] = field(default_factory=list)  # blobs that were there already, or were mounted


class Sink(Protocol):
    """What takes whole images. All errors are OciError or OSError, and leave the image's tags as they were."""

    async def holds(self, image: ReleaseImage, path: str) -> bool:
        """Whether all that leads to *image* leads to it, under the name *path*."""
        ...

    async def push(self, image: ReleaseImage, whole: Plan, path: str, moved: Moved) -> None:
        """Put *image*, of which *whole* is all there is to put, under the name *path*, counting in *moved*."""
        ...

    async def settle(self, wanted: Iterable[tuple[ReleaseImage, str]]) -> None:
        """All of *wanted* (image and name) is here, and no release wants anything else."""
        ...

    def close(self) -> None:
        """It is not used any more."""
        ...


class Pusher:
    """Pushes images from one spool into one registry or layout; several share its bounds and what it remembers.

    *open_repository* gives a repository of it by name; *locations* is digest -> a repository that holds the blob. It
    is read and added to, and None where blobs cannot be mounted.
    """

    def __init__(
        self,
        open_repository: Callable[[str], Target],
        spool: BlobStore,
        locations: dict[str, str] | None,
        parallel: int,
    ) -> None:
        self._repository = open_repository
        self._spool = spool
        self._locations = locations
        self._transfers = asyncio.Semaphore(parallel)
        # A blob that two images share is uploaded by one of them; the other waits and mounts it.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def close(self) -> None:
        """Nothing to let go of."""

    async def settle(self, wanted: Iterable[tuple[ReleaseImage, str]]) -> None:
        """A registry keeps what is not wanted any more."""

    async def holds(self, image: ReleaseImage, path: str) -> bool:
        """Whether every reference (tag or digest) leads to its digest in repository *path*."""
        repository = self._repository(path)
        for reference, digest in references(image).items():
            if await _resolved(repository, reference) != digest:
                return False
        return True

    async def push(self, image: ReleaseImage, whole: Plan, path: str, moved: Moved) -> None:
        """Publish *whole* as repository *path*, counting in *moved*. OciError of any kind leaves no new tag."""
        repository = self._repository(path)
        await _all(self._push_blob(repository, path, blob, moved) for blob in whole.blobs)
        for descriptor in whole.manifests:
            await self._push_manifest(repository, descriptor)
        await self._look(repository, whole)
        for tag, descriptor in whole.tags:
            if await _resolved(repository, tag) != descriptor.digest:
                await repository.push_manifest(await self._manifest(descriptor), tag)
            if await _resolved(repository, tag) != descriptor.digest:
                raise NotKept(f"{repository.name}: tag {tag} does not lead to {short_digest(descriptor.digest)}")

    async def _push_blob(self, repository: Target, path: str, blob: Descriptor, moved: Moved) -> None:
        lock = self._locks.setdefault(blob.digest, asyncio.Lock())
        async with lock, self._transfers:
            known = self._locations.get(blob.digest) if self._locations is not None else None

            def progress(count: int) -> None:
                moved.bytes += count

            uploaded = await repository.push_blob(
                blob, self._opener(blob), mount_from=known if known != path else None, progress=progress
            )
            if self._locations is not None:
                self._locations[blob.digest] = path
        if uploaded:
            moved.blobs += 1
        else:
            moved.spared.append(blob.digest)

    def _opener(self, blob: Descriptor) -> BlobOpener:
        def read(offset: int) -> AsyncIterator[bytes]:
            return self._spool.stream(blob.digest, blob.size, offset, verify=False)  # push_blob hashes what it sends

        return read

    async def _push_manifest(self, repository: Target, descriptor: Descriptor) -> None:
        manifest = await self._manifest(descriptor)
        # One with a subject is put again even if it is there: the list of referrers may not have been written.
        if children(manifest).subject is not None or not await repository.exists(descriptor):
            await repository.push_manifest(manifest)

    async def _manifest(self, descriptor: Descriptor) -> Manifest:
        raw = await asyncio.to_thread(self._spool.read, descriptor.digest, limits.MANIFEST_BYTES_MAX)
        return Manifest(descriptor, raw)

    async def _look(self, repository: Target, plan: Plan) -> None:
        """See with our own eyes that all of it is there."""
        at_once = asyncio.Semaphore(_LOOKS_AT_ONCE)

        async def look(descriptor: Descriptor) -> None:
            async with at_once:
                there = await repository.exists(descriptor)
            if not there:
                raise NotKept(f"{repository.name}: {short_digest(descriptor.digest)} was pushed and is not there")

        await _all(look(descriptor) for descriptor in (*plan.blobs, *plan.manifests))


async def _resolved(repository: Target, reference: str) -> str | None:
    try:
        return (await repository.resolve(reference)).digest
    except NotFound:
        return None


async def _all(steps: Iterable[Awaitable[None]]) -> None:
    """Run *steps* at once; the first failure cancels the others and is raised, when all have ended."""
    tasks: list[asyncio.Future[None]] = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
