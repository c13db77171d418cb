"""Writes an OCI image layout as a tarball, the same bytes for the same content: what archive.py reads.

``oci-layout`` and ``index.json`` come first, so that a reader knows at once what is inside. Blobs are verified while
they are copied. Knows nothing of which images, and of what their entries are called.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final

import zstandard

from oci import limits
from oci.blobs import BlobStore
from oci.descriptor import OCI_INDEX, Descriptor, hasher
from oci.errors import ContentMismatch, NotFound, OciError, Unsupported
from oci.layout_index import LAYOUT_VERSION, Entry, check_entries, parse_json

# zstd: K3s gives its decoder 32 MiB; the window of this level is 2 MiB. Layers are mostly compressed already.
_ZSTD_LEVEL: Final = 3
_MARKER: Final = json.dumps({"imageLayoutVersion": LAYOUT_VERSION}).encode()


def write_archive(
    out: BinaryIO,
    entries: list[Entry],
    contents: Iterable[Descriptor],
    blobs: BlobStore,
    *,
    compress: bool,
    progress: Callable[[int], None],
) -> None:
    """Write the *contents* and an index.json of *entries* to *out*, with zstd if *compress*.

    *progress* hears of bytes of content; what it raises ends the writing. NotFound, ContentMismatch for content that
    is absent or damaged, OSError for *out*.
    """
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    if not compress:
        _write(out, index, contents, blobs, progress)
        return
    with zstandard.ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(out, closefd=False) as packed:
        _write(packed, index, contents, blobs, progress)


def _write(
    out: Any, index: dict[str, Any], contents: Iterable[Descriptor], blobs: BlobStore, progress: Callable[[int], None]
) -> None:
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT, bufsize=limits.BLOB_CHUNK_BYTES) as tar:
        tar.copybufsize = limits.BLOB_CHUNK_BYTES  # type: ignore[attr-defined]
        for name, data in (("oci-layout", _MARKER), ("index.json", json.dumps(index).encode())):
            tar.addfile(_member(name, len(data)), io.BytesIO(data))
        seen: set[str] = set()
        for content in contents:
            if content.digest in seen:
                continue
            seen.add(content.digest)
            algorithm, _, text = content.digest.partition(":")
            with blobs.open(content.digest) as file:
                reader = _Verified(file, content, progress)
                tar.addfile(_member(f"blobs/{algorithm}/{text}", content.size), reader)
                reader.finish()


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


class _Verified:
    """A blob as tarfile reads it, hashed on the way."""

    def __init__(self, file: BinaryIO, content: Descriptor, progress: Callable[[int], None]) -> None:
        self._file = file
        self._content = content
        self._progress = progress
        self._hash = hasher(content.digest)

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        if not data and count:
            raise ContentMismatch(f"{self._content.digest}: the file ends before its {self._content.size:,} bytes")
        self._hash.update(data)
        self._progress(len(data))
        return data

    def finish(self) -> None:
        if self._hash.hexdigest() != self._content.digest.partition(":")[2]:
            raise ContentMismatch(f"{self._content.digest}: the bytes on disk have another digest")


def read_entries(path: Path) -> list[Entry]:
    """Return the entries of index.json of an archive of ``write_archive``, reading only its beginning.

    NotFound if there is no such file, OciError if it is no such archive.
    """
    try:
        with path.open("rb") as file:
            zstd = file.read(4) == b"\x28\xb5\x2f\xfd"
            file.seek(0)
            plain: Any = zstandard.ZstdDecompressor().stream_reader(file) if zstd else file
            with tarfile.open(fileobj=plain, mode="r|", bufsize=limits.BLOB_CHUNK_BYTES) as tar:
                for name in ("oci-layout", "index.json"):
                    member = tar.next()
                    if member is None or member.name != name or member.size > limits.LAYOUT_INDEX_BYTES_MAX:
                        raise Unsupported(f"{path}: no {name} at its beginning; expected an archive of ours")
                    data = tar.extractfile(member)
                    raw = data.read() if data is not None else b""
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise OciError(f"{path}: damaged or cut off ({error})") from None
    return check_entries(parse_json(raw, str(path)), str(path))
