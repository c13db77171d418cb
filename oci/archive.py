"""Images in a tarball, read where they lie: OCI-layout archives and the older ``docker save`` form.

OCI archives come from ``skopeo copy oci-archive:``, ``ctr images export`` and ``docker save`` since 25.0. For the
older form (manifest.json beside config and layer.tar files, no digests) archive_legacy.py makes up an OCI
manifest, always the same for the same content, so it can be pinned. An outer gzip or zstd is decompressed once,
into an unnamed temp file of bounded size. Nothing is ever unpacked: members are byte ranges, names that leave
the archive are refused, and links are followed inside it only.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import zstandard

from oci.archive_legacy import legacy_entries
from oci.archive_members import Members, Part
from oci.blobs import storage_errors
from oci.descriptor import check_digest, hasher
from oci.errors import ContentMismatch, Misconfigured, NotFound, TooLarge, Unsupported
from oci.indexed import IndexedSource
from oci.layout_index import LAYOUT_VERSION, Entry, Lookup, check_entries, parse_json
from oci.limits import (
    ARCHIVE_UNPACKED_BYTES_MAX,
    BLOB_CHUNK_BYTES,
    LAYOUT_INDEX_BYTES_MAX,
    MANIFEST_BYTES_MAX,
)
from oci.referrers import ReferrerIndex

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_REFUSED_MAGIC: Final = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
_READ_BYTES: Final = 4 * BLOB_CHUNK_BYTES


class _ArchiveContent:
    """Blobs by digest: ranges of the tarball, and the manifests made up for legacy images."""

    def __init__(self, members: Members, made_up: dict[str, bytes], ranges: dict[str, Part]) -> None:
        self._members = members
        self._made_up = made_up
        self._ranges = ranges

    def _part(self, digest: str) -> Part | None:
        algorithm, _, text = check_digest(digest).partition(":")
        return self._ranges.get(digest) or self._members.find(f"blobs/{algorithm}/{text}")

    def size(self, digest: str) -> int | None:
        if digest in self._made_up:
            return len(self._made_up[digest])
        part = self._part(digest)
        return None if part is None else part.size

    def read(self, digest: str, size_max: int) -> bytes:
        if digest in self._made_up:
            return self._made_up[digest]
        part = self._part(digest)
        if part is None:
            raise NotFound(f"{self._members.path}: no blob {digest}")
        if part.size > size_max:
            raise TooLarge(f"{self._members.path}: {digest} is larger than the {size_max} bytes for its kind")
        data = self._members.pread(part)
        hashing = hasher(digest)
        hashing.update(data)
        if hashing.hexdigest() != digest.partition(":")[2]:
            raise ContentMismatch(f"{self._members.path}: {digest} has other bytes than its name says")
        return data

    async def stream(self, digest: str, size: int, offset: int = 0, *, verify: bool = True) -> AsyncIterator[bytes]:
        if digest in self._made_up:
            yield self._made_up[digest][offset:]
            return
        part = self._part(digest)
        if part is None:
            raise NotFound(f"{self._members.path}: no blob {digest}")
        if part.size != size:
            raise ContentMismatch(f"{self._members.path}: {digest} has {part.size} bytes, expected {size}")
        async for chunk in self._members.stream(part, digest, offset, verify=verify):
            yield chunk


class _FixedEntries:
    def __init__(self, entries: list[Entry]) -> None:
        self._lookup = Lookup(entries)

    def lookup(self) -> Lookup:
        return self._lookup

    def version(self) -> object:
        return 0


class ArchiveSource(IndexedSource):
    """A ``Source`` of store.py over one tarball. Close it, or use it as a context manager.

    Tags are the short and full names in it; a digest is the surest way to ask.
    """

    def __init__(
        self,
        members: Members,
        entries: list[Entry],
        *,
        made_up: dict[str, bytes] | None = None,
        ranges: dict[str, Part] | None = None,
    ) -> None:
        content = _ArchiveContent(members, made_up or {}, ranges or {})
        referrers = ReferrerIndex(lambda digest: content.read(digest, MANIFEST_BYTES_MAX))
        kind = "docker-archive" if made_up else "oci-archive"
        super().__init__(f"{kind}:{members.path}", content, _FixedEntries(entries), referrers, None)
        self._members = members

    def close(self) -> None:
        """Close the tarball; a decompressed copy is gone with it."""
        self._members.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_archive(path: Path, *, scratch: Path | None = None) -> ArchiveSource:
    """Open the tarball *path*. It reads all headers, and legacy layers whole to hash them: call it in a thread.

    A compressed tarball is decompressed to an unnamed file in *scratch* (None: the
    system's folder for temp files). NotFound, Unsupported, TooLarge, ContentMismatch, StorageFull; OciError for names
    that leave the archive.
    """
    file = _open_plain(path, scratch)
    try:
        members = Members(path, file)
        if members.find("oci-layout") is not None and members.find("index.json") is not None:
            return ArchiveSource(members, _oci_entries(members))
        if members.find("manifest.json") is not None:
            entries, made_up, ranges = legacy_entries(members)
            return ArchiveSource(members, entries, made_up=made_up, ranges=ranges)
    except BaseException:
        file.close()
        raise
    file.close()
    raise Unsupported(
        f"{path}: neither an OCI archive (oci-layout, index.json) nor a docker save archive (manifest.json)"
    )


def _oci_entries(members: Members) -> list[Entry]:
    where = f"{members.path}: oci-layout"
    marker = parse_json(members.read("oci-layout", 64 * 1024), where)
    version = marker.get("imageLayoutVersion") if isinstance(marker, dict) else None
    if version != LAYOUT_VERSION:
        raise Unsupported(f"{where}: imageLayoutVersion {version!r}, only {LAYOUT_VERSION!r} is understood")
    where = f"{members.path}: index.json"
    return check_entries(parse_json(members.read("index.json", LAYOUT_INDEX_BYTES_MAX), where), where)


def _open_plain(path: Path, scratch: Path | None) -> BinaryIO:
    """Return the tarball as a seekable file without compression."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise Misconfigured(f"{path}: cannot be read ({error.strerror}); expected an image archive") from None
    try:
        magic = file.read(8)
        file.seek(0)
        for start, name in _REFUSED_MAGIC.items():
            if magic.startswith(start):
                raise Unsupported(f"{path}: {name}; expected a tar archive, plain or compressed by gzip or zstd")
        if not magic.startswith((_GZIP, _ZSTD)):
            return file
    except BaseException:
        file.close()
        raise
    with file:
        return _decompress(path, file, magic, scratch)


def _decompress(path: Path, file: BinaryIO, magic: bytes, scratch: Path | None) -> BinaryIO:
    reader: gzip.GzipFile | zstandard.ZstdDecompressionReader
    if magic.startswith(_GZIP):
        reader = gzip.GzipFile(fileobj=file, mode="rb")
    else:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    out = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - it becomes the archive's file
    try:
        size = 0
        while data := reader.read(_READ_BYTES):
            size += len(data)
            if size > ARCHIVE_UNPACKED_BYTES_MAX:
                raise TooLarge(f"{path}: unpacks to more than {ARCHIVE_UNPACKED_BYTES_MAX} bytes")
            with storage_errors(scratch or Path(tempfile.gettempdir())):
                out.write(data)
        with storage_errors(scratch or Path(tempfile.gettempdir())):
            out.flush()
    except (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile) as error:
        out.close()
        raise ContentMismatch(f"{path}: damaged or cut off ({error}); copy the file again") from None
    except BaseException:
        out.close()
        raise
    out.seek(0)
    return out
