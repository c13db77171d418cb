"""Pulls an image from the internal registry and compares it, digest by digest, with the upstream registry.

Every blob is read whole and hashed here, besides what the client verifies itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from oci.client import Registry, RegistryRepository
from oci.closure import Closure, walk
from oci.descriptor import Descriptor, hasher, short_digest
from oci.errors import OciError
from tests.demo.site import PUBLISHED, REPOSITORY, TAG


@dataclass(slots=True)
class Comparison:
    """What was compared, and one line for each difference."""

    manifests: int = 0
    referrers: int = 0
    blobs: int = 0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def digests(self) -> int:
        """Everything compared."""
        return self.manifests + self.blobs


async def compare(upstream: str, internal: str, pinned: str) -> Comparison:
    """Compare *pinned*, its closure and its referrers in both registries (URLs)."""
    result = Comparison()
    async with _registry(upstream) as source, _registry(internal) as target:
        here, there = source.repository(REPOSITORY), target.repository(PUBLISHED)
        try:
            expected = await walk(here, await here.resolve(pinned))
            root = await there.resolve(TAG)
            if root.digest != pinned:
                result.faults.append(f"tag {TAG}: {short_digest(root.digest)} instead of {short_digest(pinned)}")
            found = await walk(there, root)
            _compare_manifests(expected, found, result)
            for blob in expected.blobs:
                await _compare_blob(there, blob, result)
        except OciError as error:
            result.faults.append(str(error))
    return result


def _registry(url: str) -> Registry:
    return Registry(url.removeprefix("http://"), plain_http=True)


def _compare_manifests(expected: Closure, found: Closure, result: Comparison) -> None:
    there = {manifest.descriptor.digest: manifest.raw for manifest in found.manifests}
    listed = {manifest.descriptor.digest for manifest in found.referrers}
    for manifest in expected.manifests:
        digest = manifest.descriptor.digest
        result.manifests += 1
        result.bytes += len(manifest.raw)
        if there.pop(digest, None) != manifest.raw:
            result.faults.append(f"manifest {short_digest(digest)}: missing, or its bytes differ")
    for referrer in expected.referrers:
        result.referrers += 1
        if referrer.descriptor.digest not in listed:
            result.faults.append(f"referrer {short_digest(referrer.descriptor.digest)}: not listed by referrers API")
    result.faults += [f"manifest {short_digest(digest)}: not part of the image upstream" for digest in there]


async def _compare_blob(there: RegistryRepository, blob: Descriptor, result: Comparison) -> None:
    hashing, size = hasher(blob.digest), 0
    try:
        async for chunk in there.blob(blob):
            hashing.update(chunk)
            size += len(chunk)
    except OciError as error:
        result.faults.append(f"blob {short_digest(blob.digest)}: {error}")
        return
    result.blobs += 1
    result.bytes += size
    if size != blob.size or hashing.hexdigest() != blob.digest.partition(":")[2]:
        result.faults.append(f"blob {short_digest(blob.digest)}: its bytes differ")
