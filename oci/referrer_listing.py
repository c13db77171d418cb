"""Referrers of a digest at a registry: the API with its paging, and the ``sha256-<hex>`` tag schema.

Source: distribution-spec, listing referrers and pushing with subject. The fallback index is the one document
this package writes itself: entries it does not understand are kept as they are.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

from oci import limits
from oci.auth import Scopes
from oci.connection import Connection
from oci.descriptor import OCI_INDEX, Descriptor, Manifest, referrers_tag, sha256_digest
from oci.documents import Children, parse_descriptor, parse_document
from oci.errors import ContentMismatch, NotFound, TooLarge
from oci.paging import pages

_NO_API: Final = frozenset({400, 404, 405, 406, 501})
_WRITE_ATTEMPTS: Final = 4

ManifestReader = Callable[[str], Awaitable[Manifest]]
ManifestWriter = Callable[[Manifest, str], Awaitable[None]]


async def list_referrers(
    connection: Connection,
    path: str,
    digest: str,
    artifact_type: str | None,
    where: str,
    scopes: Scopes,
    read: ManifestReader,
) -> list[Descriptor]:
    """Return the descriptors of what refers to *digest*, each once, of *artifact_type* if given.

    Filtering is done here in any case: OCI-Filters-Applied only says that the registry did it as well.
    """
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type is not None else ""
    url = connection.url(f"{path}/referrers/{digest}{query}")
    found: dict[str, Descriptor] = {}
    async for reply in pages(
        connection,
        url,
        where,
        scopes,
        headers={"Accept": OCI_INDEX},
        ok={200, *_NO_API},
        pages_max=limits.REFERRERS_PAGES_MAX,
        page_bytes_max=limits.MANIFEST_BYTES_MAX,
    ):
        content_type = reply.headers.get("Content-Type", "").partition(";")[0].strip()
        if reply.status in _NO_API or content_type != OCI_INDEX:
            if found:
                raise ContentMismatch(f"{where}: a later page is {content_type[:80]!r}; expected {OCI_INDEX}")
            return await _from_tag(digest, artifact_type, where, read)
        _collect(parse_document(reply.body, where), where, found)
        if len(found) > limits.CLOSURE_DESCRIPTORS_MAX:
            raise TooLarge(f"{where}: more than {limits.CLOSURE_DESCRIPTORS_MAX:,} referrers")
    return _filtered(found, artifact_type)


async def add_to_fallback(
    manifest: Manifest, parts: Children, where: str, read: ManifestReader, write: ManifestWriter
) -> None:
    """Enter *manifest* into the index under its subject's ``sha256-<hex>`` tag, keeping what is there.

    The tag has no lock at the registry: it is read again after writing, and written again if someone else was faster.
    """
    assert parts.subject is not None
    tag = referrers_tag(parts.subject.digest)
    for _ in range(_WRITE_ATTEMPTS):
        document = await _read_index(tag, where, read)
        if any(entry.get("digest") == manifest.descriptor.digest for entry in document["manifests"]):
            return
        document["manifests"].append(_entry(manifest, parts))
        raw = json.dumps(document, indent=2).encode()
        if len(raw) > limits.MANIFEST_BYTES_MAX:
            raise TooLarge(f"{where}: the referrers index {tag} would grow to {len(raw):,} bytes")
        await write(Manifest(Descriptor(OCI_INDEX, sha256_digest(raw), len(raw)), raw), tag)
    document = await _read_index(tag, where, read)
    if not any(entry.get("digest") == manifest.descriptor.digest for entry in document["manifests"]):
        raise ContentMismatch(
            f"{where}: the referrers index {tag} does not keep what is written; who else writes it?"
        )


async def remove_from_fallback(
    digest: str,
    subject: str,
    where: str,
    read: ManifestReader,
    write: ManifestWriter,
    delete: Callable[[str], Awaitable[None]],
) -> None:
    """Take *digest* out of the index under its subject's ``sha256-<hex>`` tag; an index without entries goes."""
    tag = referrers_tag(subject)
    for _ in range(_WRITE_ATTEMPTS):
        document = await _read_index(tag, where, read)
        entries = document["manifests"]
        document["manifests"] = [entry for entry in entries if entry.get("digest") != digest]
        if len(document["manifests"]) == len(entries):
            return
        former = (await read(tag)).descriptor.digest
        if document["manifests"]:
            raw = json.dumps(document, indent=2).encode()
            await write(Manifest(Descriptor(OCI_INDEX, sha256_digest(raw), len(raw)), raw), tag)
        await delete(former)


async def _from_tag(digest: str, artifact_type: str | None, where: str, read: ManifestReader) -> list[Descriptor]:
    try:
        manifest = await read(referrers_tag(digest))
    except NotFound:
        return []
    if manifest.descriptor.media_type != OCI_INDEX:
        return []  # some other use of such a tag
    found: dict[str, Descriptor] = {}
    _collect(parse_document(manifest.raw, where), where, found)
    return _filtered(found, artifact_type)


def _collect(document: dict[str, Any], where: str, found: dict[str, Descriptor]) -> None:
    entries = document.get("manifests")
    if entries is None:
        return
    if not isinstance(entries, list):
        raise ContentMismatch(f"{where}: manifests: expected a list of descriptors")
    for number, entry in enumerate(entries):
        descriptor = parse_descriptor(entry, f"{where}: manifests[{number}]")
        found.setdefault(descriptor.digest, descriptor)


def _filtered(found: dict[str, Descriptor], artifact_type: str | None) -> list[Descriptor]:
    return [entry for entry in found.values() if artifact_type is None or entry.artifact_type == artifact_type]


async def _read_index(tag: str, where: str, read: ManifestReader) -> dict[str, Any]:
    try:
        manifest = await read(tag)
    except NotFound:
        return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    if manifest.descriptor.media_type != OCI_INDEX:
        raise ContentMismatch(
            f"{where}: tag {tag} is {manifest.descriptor.media_type}; expected the referrers index ({OCI_INDEX})"
        )
    document = parse_document(manifest.raw, where)
    entries = document.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ContentMismatch(f"{where}: tag {tag}: manifests: expected a list of descriptors")
    return document


def _entry(manifest: Manifest, parts: Children) -> dict[str, Any]:
    """Build the index entry of a referrer: its descriptor, artifactType and annotations (distribution-spec)."""
    entry: dict[str, Any] = {
        "mediaType": manifest.descriptor.media_type,
        "digest": manifest.descriptor.digest,
        "size": len(manifest.raw),
    }
    if parts.artifact_type is not None:
        entry["artifactType"] = parts.artifact_type
    annotations = parse_document(manifest.raw, "referrer").get("annotations")
    if annotations:
        entry["annotations"] = annotations
    return entry
