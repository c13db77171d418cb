"""Images for the demo, the system tests and the benchmarks, written into an OCI image layout.

``machine_image`` is a real multi-platform image made of files of this machine; ``random_image`` has layers of
given sizes that do not compress, streamed, so that memory does not grow with them. Nothing here knows the diode.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import stat
import sysconfig
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import zstandard
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, sha256_digest
from oci.layout import Layout
from oci.store import BlobOpener, Target

Size = Literal["full", "small"]

TAR: Final = "application/vnd.oci.image.layer.v1.tar"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
SPDX: Final = "application/spdx+json"

_CHUNK: Final = 1 << 20
_FILE_BYTES_MAX: Final = 8_000_000  # larger files would make the layers' sizes jump
_BUDGETS: Final[dict[Size, dict[str, int]]] = {  # bytes of files in each layer, before compression
    "full": {"base": 30_000_000, "amd64": 40_000_000, "arm64": 22_000_000, "arm": 6_000_000, "data": 18_000_000},
    "small": {"base": 4_000_000, "amd64": 3_000_000, "arm64": 2_000_000, "arm": 500_000, "data": 2_000_000},
}


@dataclass(frozen=True, slots=True)
class MadeImage:
    """What was written: everything a mirror must bring across."""

    root: Descriptor
    referrers: tuple[Descriptor, ...]
    layers: tuple[Descriptor, ...]  # each digest once
    content_bytes: int  # of all blobs and manifests, each digest once


async def machine_image(layout: Layout, name: str, tag: str, size: Size = "full") -> MadeImage:
    """Make an image from files of this machine and write it under *name*:*tag*.

    One index with linux/amd64 and, nested, an index of arm64 and arm/v7; all share a gzip layer of the standard
    library. Other layers are zstd, and one is an uncompressed tar. An SPDX list of all files refers to the index.
    """
    build = _Build(layout, layout.repository(name))
    budgets = _BUDGETS[size]
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    shared = Path("/usr/share")
    files = _Files()
    with tempfile.TemporaryDirectory(prefix="layers-", dir=_folder(layout.root)) as scratch:
        build.scratch = Path(scratch)
        base = await build.layer("gzip", files.take(budgets["base"], library, packages))
        amd64 = await build.layer("zstd", files.take(budgets["amd64"], packages, library, shared))
        arm64 = await build.layer("zstd", files.take(budgets["arm64"], packages, library, shared))
        arm = await build.layer("gzip", files.take(budgets["arm"], packages, library, shared))
        data = await build.layer("", files.take(budgets["data"], shared, packages, library))
    platforms = {
        "amd64": {"architecture": "amd64", "os": "linux"},
        "arm64": {"architecture": "arm64", "os": "linux"},
        "arm": {"architecture": "arm", "os": "linux", "variant": "v7"},
    }
    entries = {
        "amd64": await build.platform(platforms["amd64"], [base, amd64, data]),
        "arm64": await build.platform(platforms["arm64"], [base, arm64, data]),
        "arm": await build.platform(platforms["arm"], [base, arm]),
    }
    nested = await build.index([entries["arm64"], entries["arm"]])
    root = await build.index([entries["amd64"], nested], tag)
    referrer = await build.referrer(SPDX, _spdx(name, files), root)
    return MadeImage(root, (referrer,), tuple(build.layers), build.content_bytes)


async def random_image(layout: Layout, name: str, tag: str, layer_sizes: list[int], seed: int) -> MadeImage:
    """Write a single-platform image whose layers are tars of exactly *layer_sizes* bytes that do not compress.

    Each layer, of at least 2048 bytes, is streamed: memory stays constant. The same *seed* gives the same image.
    """
    build = _Build(layout, layout.repository(name))
    layers = [await build.random_layer(size, f"{seed}/{number}") for number, size in enumerate(layer_sizes)]
    platform = {"architecture": "amd64", "os": "linux"}
    root, _ = await build.platform(platform, layers, tag)
    return MadeImage(root, (), tuple(build.layers), build.content_bytes)


@dataclass(frozen=True, slots=True)
class _Layer:
    descriptor: Descriptor
    diff_id: str  # digest of the uncompressed tar, as the config wants it


Entry = tuple[Descriptor, dict[str, str] | None]


class _Build:
    """Writes parts into a layout, children first, and keeps count."""

    def __init__(self, layout: Layout, target: Target) -> None:
        self._layout = layout
        self._target = target
        self._seen: set[str] = set()
        self.scratch = layout.root
        self.layers: list[Descriptor] = []
        self.content_bytes = 0

    async def layer(self, compression: Literal["", "gzip", "zstd"], files: list[_File]) -> _Layer:
        """Pack *files* into a layer."""
        path = self.scratch / f"layer-{len(self.layers)}"
        with path.open("wb") as raw, contextlib.ExitStack() as stack:
            coded: Any = raw
            if compression == "gzip":
                coded = stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))
            elif compression == "zstd":
                compressor = zstandard.ZstdCompressor(level=3)
                coded = stack.enter_context(compressor.stream_writer(raw, closefd=False))
            plain = _Hashing(coded)
            with tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
                for file in files:
                    tar.addfile(file.info(), io.BytesIO(file.content))
        media_type = f"{TAR}+{compression}" if compression else TAR
        with path.open("rb") as done:
            digest = hashlib.file_digest(done, "sha256").hexdigest()
        descriptor = Descriptor(media_type, f"sha256:{digest}", path.stat().st_size)
        await self._push(descriptor, lambda offset: _read(path, offset))
        path.unlink()
        self.layers.append(descriptor)
        return _Layer(descriptor, plain.digest)

    async def random_layer(self, size: int, seed: str) -> _Layer:
        """Stream a tar of *size* bytes with one incompressible file."""
        whole = hashlib.sha256()
        for chunk in _random_tar(size, seed):
            whole.update(chunk)
        digest = f"sha256:{whole.hexdigest()}"
        descriptor = Descriptor(TAR, digest, size)
        await self._push(descriptor, lambda offset: _from(offset, _random_tar(size, seed)))
        self.layers.append(descriptor)
        return _Layer(descriptor, digest)

    async def platform(self, platform: dict[str, str], layers: list[_Layer], tag: str | None = None) -> Entry:
        """Write the config and the manifest of one platform."""
        config = {
            **platform,
            "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created_by": "files of this machine"} for _ in layers],
        }
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _json(await self._blob(CONFIG, _encode(config))),
            "layers": [_json(layer.descriptor) for layer in layers],
        }
        return await self._manifest(document, tag), platform

    async def index(self, entries: list[Entry | Descriptor], tag: str | None = None) -> Descriptor:
        """Write an index; an entry without platform is an index itself."""
        listed = []
        for entry in entries:
            descriptor, platform = entry if isinstance(entry, tuple) else (entry, None)
            listed.append(_json(descriptor) | ({"platform": platform} if platform else {}))
        return await self._manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}, tag)

    async def referrer(self, artifact_type: str, content: bytes, subject: Descriptor) -> Descriptor:
        """Write an artifact that refers to *subject*."""
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": _json(await self._blob(EMPTY, b"{}")),
            "layers": [_json(await self._blob(artifact_type, content))],
            "subject": _json(subject),
        }
        return await self._manifest(document, None)

    async def _blob(self, media_type: str, data: bytes) -> Descriptor:
        descriptor = Descriptor(media_type, sha256_digest(data), len(data))
        await self._push(descriptor, lambda offset: _from(offset, iter([data])))
        return descriptor

    async def _push(self, descriptor: Descriptor, opener: BlobOpener) -> None:
        await self._target.push_blob(descriptor, opener)
        self._count(descriptor)

    async def _manifest(self, document: dict[str, Any], tag: str | None) -> Descriptor:
        raw = _encode(document)
        descriptor = Descriptor(document["mediaType"], sha256_digest(raw), len(raw))
        await self._target.push_manifest(Manifest(descriptor, raw), tag)
        self._count(descriptor)
        return descriptor

    def _count(self, descriptor: Descriptor) -> None:
        if descriptor.digest not in self._seen:
            self._seen.add(descriptor.digest)
            self.content_bytes += descriptor.size


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    mode: int
    content: bytes

    def info(self) -> tarfile.TarInfo:
        """A header that depends on the file's name, mode and size only."""
        info = tarfile.TarInfo(str(self.path).lstrip("/"))
        info.size, info.mode, info.mtime = len(self.content), self.mode & 0o755, 0
        return info


@dataclass(slots=True)
class _Files:
    """Hands out files of the machine, each once, in the order of their names."""

    taken: dict[Path, str] = field(default_factory=dict)  # path -> SHA-256

    def take(self, budget: int, *folders: Path) -> list[_File]:
        """Return files of about *budget* bytes, from the first folder as long as it has some."""
        chosen: list[_File] = []
        for path in (path for folder in folders for path in _walk(folder)):
            if budget <= 0:
                break
            if path in self.taken or (file := _load(path, budget)) is None:
                continue
            self.taken[path] = hashlib.sha256(file.content).hexdigest()
            budget -= len(file.content)
            chosen.append(file)
        return chosen


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", "site-packages", "dist-packages"))
        for name in sorted(names):
            yield Path(parent, name)


def _load(path: Path, size_max: int) -> _File | None:
    """Read a regular file that everybody may read and that is not too large."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        public = stat.S_ISREG(found.st_mode) and found.st_mode & 0o004
        if public and 0 < found.st_size <= min(_FILE_BYTES_MAX, size_max):
            return _File(path, found.st_mode, path.read_bytes())
    return None


def _spdx(name: str, files: _Files) -> bytes:
    """An SPDX 2.3 list of files with their digests."""
    listed = [
        {
            "SPDXID": f"SPDXRef-File-{number}",
            "fileName": f".{path}",
            "checksums": [{"algorithm": "SHA256", "checksumValue": digest}],
        }
        for number, (path, digest) in enumerate(files.taken.items())
    ]
    head = {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": name}
    return _encode({**head, "files": listed})


class _Hashing:
    """A file to write to, which also hashes what passes."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Pass on and hash."""
        self._hash.update(data)
        self._inner.write(data)
        return len(data)

    @property
    def digest(self) -> str:
        """The digest of everything so far."""
        return f"sha256:{self._hash.hexdigest()}"


def _random_tar(size: int, seed: str) -> Iterator[bytes]:
    """A tar of exactly *size* bytes: one file of pseudo-random bytes (AES-CTR, several GB/s), then zeros."""
    content = (size - 512 - 1024) // 512 * 512
    if content <= 0:
        raise ValueError(f"a layer has at least 2048 bytes, not {size}")
    info = tarfile.TarInfo("random.bin")
    info.size = content
    yield info.tobuf(tarfile.PAX_FORMAT)
    key = hashlib.sha256(seed.encode()).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(_CHUNK)
    for start in range(0, content, _CHUNK):
        yield stream.update(zeros[: min(_CHUNK, content - start)])
    yield bytes(size - 512 - content)


async def _from(offset: int, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield *chunks* without their first *offset* bytes."""
    for chunk in chunks:
        if offset < len(chunk):
            yield chunk[offset:]
        offset = max(0, offset - len(chunk))


async def _read(path: Path, offset: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            yield chunk


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _json(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _encode(document: dict[str, Any]) -> bytes:
    # Indented unlike any tool would: a mirror that re-serialises is found out.
    return json.dumps(document, indent=3).encode()
