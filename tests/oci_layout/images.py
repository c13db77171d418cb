"""Tiny real images for the tests: built in memory, written as a layout, a tarball or into a Target."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, sha256_digest
from oci.store import BlobOpener, Target

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def opener(data: bytes) -> BlobOpener:
    async def chunks(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(data), 1000):
            yield data[start : start + 1000]

    return chunks


def describe(media_type: str, data: bytes, **more: Any) -> Descriptor:
    return Descriptor(media_type, sha256_digest(data), len(data), **more)


def as_json(descriptor: Descriptor, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
        **more,
    }


def manifest_of(document: dict[str, Any], **more: Any) -> Manifest:
    # Indented unlike any tool would: a mirror that re-serialises is found out.
    raw = json.dumps(document, indent=3).encode()
    return Manifest(describe(document["mediaType"], raw, **more), raw)


def layer_tar(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@dataclass
class Image:
    """Blobs and manifests, children before parents."""

    blobs: dict[str, tuple[Descriptor, bytes]] = field(default_factory=dict)
    manifests: list[Manifest] = field(default_factory=list)

    @property
    def root(self) -> Manifest:
        return self.manifests[-1]

    def add_blob(self, media_type: str, data: bytes) -> Descriptor:
        descriptor = describe(media_type, data)
        self.blobs[descriptor.digest] = (descriptor, data)
        return descriptor

    def add_manifest(self, document: dict[str, Any]) -> Manifest:
        self.manifests.append(manifest_of(document))
        return self.manifests[-1]

    async def push(self, target: Target, tag: str | None) -> None:
        for descriptor, data in self.blobs.values():
            await target.push_blob(descriptor, opener(data))
        for manifest in self.manifests:
            await target.push_manifest(manifest, tag if manifest is self.root else None)

    def all_files(self) -> dict[str, bytes]:
        found = {digest: data for digest, (_, data) in self.blobs.items()}
        return found | {manifest.descriptor.digest: manifest.raw for manifest in self.manifests}


def single_image(text: str = "hello", architecture: str = "amd64", image: Image | None = None) -> Image:
    """One manifest with a gzip layer and a plain one."""
    image = image or Image()
    plain = [layer_tar("a.txt", text.encode() * 300), layer_tar("b.txt", text[::-1].encode())]
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [sha256_digest(data) for data in plain]},
        "history": [{"created_by": "test"}] * len(plain),
    }
    layers = [
        image.add_blob(f"{LAYER}+gzip", gzip.compress(plain[0], mtime=0)),
        image.add_blob(LAYER, plain[1]),
    ]
    image.add_manifest(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": as_json(image.add_blob(CONFIG, json.dumps(config).encode())),
            "layers": [as_json(layer) for layer in layers],
        }
    )
    return image


def multi_image() -> Image:
    """An index over two platforms, inside another index."""
    image = single_image("one", "amd64")
    single_image("two", "arm64", image)
    entries = [
        as_json(manifest.descriptor, platform={"os": "linux", "architecture": architecture})
        for manifest, architecture in zip(image.manifests, ("amd64", "arm64"), strict=True)
    ]
    inner = image.add_manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    image.add_manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [as_json(inner.descriptor)]})
    return image


def referrer_to(subject: Descriptor, artifact_type: str, text: str = "") -> Image:
    """An artifact manifest with the empty config."""
    image = Image()
    empty = image.add_blob("application/vnd.oci.empty.v1+json", b"{}")
    image.add_manifest(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": as_json(empty),
            "layers": [as_json(empty)],
            "subject": as_json(subject),
            "annotations": {"note": text or artifact_type},
        }
    )
    return image


def tar_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A tarball with *files* and symbolic *links* (name → target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return out.getvalue()


def layout_files(image: Image, *entries: dict[str, Any]) -> dict[str, bytes]:
    """The files of a layout with *image*; without *entries* its root is called latest."""
    named = as_json(image.root.descriptor, annotations={"org.opencontainers.image.ref.name": "latest"})
    index = {"schemaVersion": 2, "manifests": list(entries) or [named]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    for digest, data in image.all_files().items():
        algorithm, _, text = digest.partition(":")
        files[f"blobs/{algorithm}/{text}"] = data
    return files


def legacy_files(text: str = "legacy") -> tuple[dict[str, bytes], dict[str, str], bytes, list[bytes]]:
    """A ``docker save`` tarball of before 25.0: files, symbolic links, config, layers (the second repeats)."""
    layers = [layer_tar("x", text.encode() * 200), layer_tar("y", b"second")]
    stack = [layers[0], layers[1], layers[1]]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256_digest(data) for data in stack]},
        }
    ).encode()
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(3)]
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    files = {f"{names[0]}/layer.tar": layers[0], f"{names[1]}/layer.tar": layers[1], config_name: config}
    links = {f"{names[2]}/layer.tar": f"../{names[1]}/layer.tar"}
    described = [
        {
            "Config": config_name,
            "RepoTags": ["example.org/app:1.0"],
            "Layers": [f"{name}/layer.tar" for name in names],
        }
    ]
    files["manifest.json"] = json.dumps(described).encode()
    files["repositories"] = b'{"example.org/app":{"1.0":"' + names[2].encode() + b'"}}'
    return files, links, config, stack


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)
