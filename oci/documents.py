"""Image manifests and indexes as documents: from exact bytes to the descriptors they name.

Strict about the fields that decide what is fetched (digests, sizes, media types), tolerant of all others. Knows
no store, and never writes a document back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from oci import limits
from oci.descriptor import (
    DOCKER_SCHEMA1,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    check_digest,
    short_digest,
)
from oci.errors import ContentMismatch, ReferenceError_, TooLarge, Unsupported

FOREIGN_TYPES: Final = frozenset(
    {
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)
_SCHEMA1_REFUSED: Final = "Docker schema 1 is not mirrored; push the image again as schema 2 or OCI"


@dataclass(frozen=True, slots=True)
class Children:
    """What one manifest or index names, in its order."""

    manifests: list[Descriptor] = field(default_factory=list)
    config: Descriptor | None = None
    layers: list[Descriptor] = field(default_factory=list)  # also index entries of unknown type: blobs, by the spec
    subject: Descriptor | None = None
    artifact_type: str | None = None


def is_foreign(descriptor: Descriptor) -> bool:
    """Whether the content is a layer that registries need not hold (image-spec: non-distributable layers)."""
    return descriptor.media_type in FOREIGN_TYPES


def children(manifest: Manifest) -> Children:
    """Return what *manifest* names.

    Raises ContentMismatch for a malformed or self-contradicting document, Unsupported for schema 1, TooLarge above
    limits.MANIFEST_BYTES_MAX.
    """
    where = f"manifest {short_digest(manifest.descriptor.digest)}"
    document = parse_document(manifest.raw, where)
    media_type = _media_type(document, where)
    if manifest.descriptor.media_type != media_type:
        raise ContentMismatch(
            f"{where}: the document is {media_type!r}, its descriptor or Content-Type says "
            f"{manifest.descriptor.media_type!r}; both must be equal"
        )
    subject = document.get("subject")
    subject_descriptor = None if subject is None else parse_descriptor(subject, f"{where}: subject")
    artifact_type = _optional_text(document, "artifactType", where)
    if media_type in INDEX_TYPES:
        entries = _descriptors(document, "manifests", where)
        return Children(
            manifests=[entry for entry in entries if entry.is_manifest],
            layers=[entry for entry in entries if not entry.is_manifest],
            subject=subject_descriptor,
            artifact_type=artifact_type,
        )
    config = parse_descriptor(document.get("config"), f"{where}: config")
    return Children(
        config=config,
        layers=_descriptors(document, "layers", where),
        subject=subject_descriptor,
        artifact_type=artifact_type or config.media_type,  # distribution-spec: listing referrers
    )


def detect_media_type(raw: bytes, where: str = "manifest") -> str:
    """Return the media type that the document states or, where it states none, that its fields show."""
    return _media_type(parse_document(raw, where), where)


def parse_document(raw: bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object; duplicate keys, NaN, bad UTF-8 and deep nesting are ContentMismatch."""
    if len(raw) > limits.MANIFEST_BYTES_MAX:
        raise TooLarge(f"{where}: {len(raw):,} bytes; expected at most {limits.MANIFEST_BYTES_MAX:,}")
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ContentMismatch(f"{where}: not a JSON document ({_one_line(str(error))})") from None
    if not isinstance(document, dict):
        raise ContentMismatch(f"{where}: expected a JSON object, got {type(document).__name__}")
    return document


def parse_descriptor(value: object, where: str) -> Descriptor:
    """Return the Descriptor of a JSON object (image-spec descriptor.md); ContentMismatch names what is wrong."""
    if not isinstance(value, dict):
        raise ContentMismatch(f"{where}: expected a descriptor with mediaType, digest and size")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not 0 < len(media_type) <= 255 or not media_type.isprintable():
        raise ContentMismatch(f"{where}: mediaType {_one_line(repr(media_type))}: expected a media type")
    if media_type in DOCKER_SCHEMA1:
        raise Unsupported(f"{where}: {media_type}: {_SCHEMA1_REFUSED}")
    if not isinstance(digest, str):
        raise ContentMismatch(f"{where}: digest {_one_line(repr(digest))}: expected a text such as sha256:<64 hex>")
    try:
        check_digest(digest)
    except ReferenceError_ as error:
        raise ContentMismatch(f"{where}: {_one_line(str(error))}") from None
    if type(size) is not int or not 0 <= size <= limits.BLOB_SIZE_MAX:
        raise ContentMismatch(
            f"{where}: size {_one_line(repr(size))}: expected a number of bytes from 0 to {limits.BLOB_SIZE_MAX:,}"
        )
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        platform=_platform(value.get("platform"), where),
        artifact_type=_optional_text(value, "artifactType", where),
        annotations=_annotations(value.get("annotations"), where),
        urls=_urls(value.get("urls"), where),
    )


def _media_type(document: dict[str, Any], where: str) -> str:
    version = document.get("schemaVersion")
    stated = document.get("mediaType")
    if (type(version) is int and version == 1) or stated in DOCKER_SCHEMA1:
        raise Unsupported(f"{where}: {_SCHEMA1_REFUSED}")
    if type(version) is not int or version != 2:
        raise ContentMismatch(f"{where}: schemaVersion {_one_line(repr(version))}: expected 2")
    # Both kinds in one document is how two readers come to see two images (CVE-2021-41190).
    index_like = "manifests" in document
    image_like = "layers" in document or "config" in document
    if index_like and image_like:
        raise ContentMismatch(
            f"{where}: has both 'manifests' and 'layers' or 'config'; expected one kind of document"
        )
    if not index_like and not image_like:
        raise ContentMismatch(f"{where}: neither an index ('manifests') nor an image manifest ('config', 'layers')")
    shown = OCI_INDEX if index_like else OCI_MANIFEST
    if stated is None:
        return shown
    if not isinstance(stated, str) or stated not in MANIFEST_TYPES:
        raise Unsupported(
            f"{where}: mediaType {_one_line(repr(stated))}: expected one of {', '.join(sorted(MANIFEST_TYPES))}"
        )
    if (stated in INDEX_TYPES) != index_like:
        raise ContentMismatch(f"{where}: mediaType {stated} contradicts the fields, which are of {shown}")
    return stated


def _descriptors(document: dict[str, Any], key: str, where: str) -> list[Descriptor]:
    values = document.get(key)
    if not isinstance(values, list):
        raise ContentMismatch(f"{where}: {key}: expected a list of descriptors")
    return [parse_descriptor(value, f"{where}: {key}[{number}]") for number, value in enumerate(values)]


def _platform(value: object, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ContentMismatch(f"{where}: platform: expected an object with os and architecture")
    parts = [
        value.get("os") or "unknown",
        value.get("architecture") or "unknown",
        value.get("variant") or None,
    ]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) != sum(part is not None for part in parts):
        raise ContentMismatch(f"{where}: platform: os, architecture and variant are expected to be texts")
    return "/".join(texts)


def _annotations(value: object, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ContentMismatch(f"{where}: annotations: expected an object of texts")
    return dict(value)


def _urls(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ContentMismatch(f"{where}: urls: expected a list of texts")
    return tuple(value)


def _optional_text(document: dict[str, Any], key: str, where: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise ContentMismatch(f"{where}: {key} {_one_line(repr(value))}: expected a text")
    return value or None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} appears twice")
    return document


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _one_line(text: str) -> str:
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= 160 else line[:157] + "…"
