"""When an image was built, as its configuration says (image-spec config.md: ``created``), and for which platforms.

Informational: whoever builds an image writes what he likes there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from oci import limits
from oci.descriptor import INDEX_TYPES, Descriptor, Manifest
from oci.documents import children
from oci.errors import OciError
from oci.store import Source
from protocol.release import ReleaseImage

ReadManifest = Callable[[str], bytes]
"""Returns the bytes of a manifest or configuration by digest; OciError if they are not there."""


async def created_of(source: Source, reference: str) -> float | None:
    """Return when the image under a tag or digest was built (Unix seconds), None if it does not say."""
    for _ in range(limits.INDEX_DEPTH_MAX):
        parts = children(await source.manifest(reference))
        if parts.config is not None:
            return _created(await _read(source, parts.config))
        entry = next((one for one in parts.manifests if one.platform not in (None, "unknown/unknown")), None)
        if entry is None:
            entry = next(iter(parts.manifests), None)
        if entry is None:
            return None
        reference = entry.digest
    return None


def created_in(read: ReadManifest, image: ReleaseImage) -> float | None:
    """As created_of, for an image whose contents are at hand: the newest date of its images."""
    found = [_created(_document(read, config.digest)) for config in _configs(read, image)]
    return max((moment for moment in found if moment is not None), default=None)


def platforms_in(read: ReadManifest, image: ReleaseImage) -> list[str]:
    """Return the platforms that travel, sorted: of index entries, or of the configuration of a single image."""
    found: set[str] = set()
    for manifest in _manifests(read, image):
        if manifest.descriptor.media_type in INDEX_TYPES:
            entries = [one for one in children(manifest).manifests if one.digest not in image.absent]
            found.update(one.platform for one in entries if one.platform not in (None, "unknown/unknown"))
    if not found and image.root.media_type not in INDEX_TYPES:
        for config in _configs(read, image):
            document = _document(read, config.digest)
            parts = [document.get(key) for key in ("os", "architecture", "variant")]
            if isinstance(parts[0], str) and isinstance(parts[1], str):
                found.add("/".join(part for part in parts if isinstance(part, str) and part))
    return sorted(found)


def _manifests(read: ReadManifest, image: ReleaseImage) -> Iterator[Manifest]:
    """Yield the manifests of the root's own tree: what refers to it is left out, as far as media types tell."""
    for content in (image.root, *image.closure):
        descriptor = Descriptor(content.media_type, content.digest, content.size)
        if descriptor.is_manifest:
            yield Manifest(descriptor, read(content.digest))


def _configs(read: ReadManifest, image: ReleaseImage) -> Iterator[Descriptor]:
    tagged = {digest for _, digest in image.extra_tags}
    for manifest in _manifests(read, image):
        parts = children(manifest)
        if parts.config is not None and parts.subject is None and manifest.descriptor.digest not in tagged:
            yield parts.config


def _document(read: ReadManifest, digest: str) -> dict[str, Any]:
    try:
        document = json.loads(read(digest))
    except (OciError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


async def _read(source: Source, config: Descriptor) -> dict[str, Any]:
    if config.size > limits.MANIFEST_BYTES_MAX:
        return {}
    raw = b"".join([chunk async for chunk in source.blob(config)])
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _created(document: dict[str, Any]) -> float | None:
    text = document.get("created")
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.timestamp()
    except (OverflowError, OSError):
        return None
