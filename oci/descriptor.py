"""Digests, descriptors and media types (OCI image-spec: descriptor.md, media-types.md)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from oci.errors import ReferenceError_

if TYPE_CHECKING:
    from hashlib import _Hash

DIGEST_HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
_DIGEST = re.compile(r"(sha256|sha512):([0-9a-f]+)\Z")

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1: Final = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
IMAGE_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
MANIFEST_TYPES: Final = INDEX_TYPES | IMAGE_TYPES


def check_digest(text: str) -> str:
    """Return *text* if it is ``sha256:<64 hex>`` or ``sha512:<128 hex>``; raise ReferenceError_ otherwise."""
    match = _DIGEST.match(text)
    if match is None or len(match[2]) != DIGEST_HEX_LENGTH[match[1]]:
        raise ReferenceError_(f"digest {text!r}: expected sha256:<64 hex digits> or sha512:<128 hex digits>")
    return text


def hasher(digest: str) -> _Hash:
    """Return a fresh hash object of the algorithm that *digest* (checked) names."""
    return hashlib.new(digest.partition(":")[0])


def sha256_digest(data: bytes) -> str:
    """Return the ``sha256:`` digest of *data*."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def short_digest(digest: str) -> str:
    """Return *digest* shortened for messages: ``sha256:0123456789ab…``."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm}:{encoded[:12]}…" if len(encoded) > 12 else digest


def referrers_tag(digest: str) -> str:
    """Return the tag under which referrers of *digest* are listed without API (distribution-spec: tag schema)."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What to expect of some content: media type, digest, size in bytes (image-spec descriptor.md)."""

    media_type: str
    digest: str
    size: int
    platform: str | None = None  # "linux/arm64/v8", from an index entry
    artifact_type: str | None = None
    annotations: dict[str, str] = field(default_factory=dict, hash=False)
    urls: tuple[str, ...] = ()  # foreign layers

    @property
    def is_manifest(self) -> bool:
        """Whether the content is an index or an image manifest, pushed and pulled as a manifest."""
        return self.media_type in MANIFEST_TYPES


@dataclass(frozen=True, slots=True)
class Manifest:
    """One index or image manifest: the exact bytes, never re-serialised, and how they describe themselves."""

    descriptor: Descriptor
    raw: bytes
