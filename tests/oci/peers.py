"""What the tests of the registry client share: types of the fixtures, and small images."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, sha256_digest
from oci.store import BlobOpener, Target

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., Awaitable[str]]

ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def described(data: bytes, media_type: str = ZSTD_LAYER) -> Descriptor:
    return Descriptor(media_type, sha256_digest(data), len(data))


def opener(data: bytes, offsets: list[int] | None = None, piece_bytes: int = 100_000) -> BlobOpener:
    """Opens *data*; notes in *offsets* from where it was asked to."""

    async def pieces(offset: int) -> AsyncIterator[bytes]:
        if offsets is not None:
            offsets.append(offset)
        for start in range(offset, len(data), piece_bytes):
            yield data[start : start + piece_bytes]

    return pieces


def entry(descriptor: Descriptor, **more: Any) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size, **more}


def manifest_of(document: dict[str, Any]) -> Manifest:
    raw = json.dumps(document, indent=1).encode()  # unlike compact: a rewritten manifest is found out
    return Manifest(Descriptor(document["mediaType"], sha256_digest(raw), len(raw)), raw)


def index_of(*entries: dict[str, Any], **more: Any) -> Manifest:
    return manifest_of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), **more})


def image_of(config: Descriptor, *layers: Descriptor, **more: Any) -> Manifest:
    layer_entries = [entry(layer) for layer in layers]
    return manifest_of(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry(config), "layers": layer_entries, **more}
    )


async def push_image(target: Target, text: str, tag: str | None = None, **more: Any) -> Manifest:
    """Push an image with a config, and one layer twice."""
    config, layer = f'{{"c":"{text}"}}'.encode(), f"layer {text}".encode()
    await target.push_blob(described(config, CONFIG), opener(config))
    await target.push_blob(described(layer), opener(layer))
    manifest = image_of(described(config, CONFIG), described(layer), described(layer), **more)
    await target.push_manifest(manifest, tag)
    return manifest


async def push_artifact(target: Target, kind: str, subject: Descriptor | None, tag: str | None = None) -> Manifest:
    """Push an artifact of only empty descriptors."""
    await target.push_blob(described(b"{}", EMPTY), opener(b"{}"))
    more: dict[str, Any] = {"artifactType": kind, "annotations": {"kind": kind}}
    if subject is not None:
        more["subject"] = entry(subject)
    manifest = image_of(described(b"{}", EMPTY), described(b"{}", EMPTY), **more)
    await target.push_manifest(manifest, tag)
    return manifest
