"""The members of a tarball as byte ranges of the open file: found once, read where they lie, nothing unpacked.

Names that leave the archive are refused, and links are followed inside it only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from oci.blobs import stream_verified
from oci.errors import ContentMismatch, NotFound, OciError, TooLarge
from oci.limits import (
    ARCHIVE_LINKS_MAX,
    ARCHIVE_MEMBERS_MAX,
    BLOB_CHUNK_BYTES,
)

_HEADER_READ_BYTES_MAX: Final = 1024 * 1024  # a tar header, or a pax or long-name record
_READ_BYTES: Final = 4 * BLOB_CHUNK_BYTES


class Part(NamedTuple):
    """A byte range of the tarball."""

    start: int
    size: int


class Members:
    """The files of an open tarball by name, as byte ranges; thread-safe reads."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self._parts: dict[str, Part] = {}
        self._links: dict[str, str] = {}
        self._index()

    def _index(self) -> None:
        total = os.fstat(self._file.fileno()).st_size
        count = 0
        try:
            for member in _headers(self._file, self.path):
                count += 1
                if count > ARCHIVE_MEMBERS_MAX:
                    raise TooLarge(f"{self.path}: more than {ARCHIVE_MEMBERS_MAX} files in the archive")
                name = self._safe_name(member.name)
                self._parts.pop(name, None)
                self._links.pop(name, None)
                if member.issym():
                    self._links[name] = posixpath.join(posixpath.dirname(name), member.linkname)
                elif member.islnk():
                    self._links[name] = member.linkname
                elif member.isreg() and not member.issparse():
                    if member.size < 0 or member.offset_data + member.size > total:
                        raise ContentMismatch(f"{self.path}: cut off inside {name!r}; copy the file again")
                    self._parts[name] = Part(member.offset_data, member.size)
                # Folders, devices and sparse files hold nothing that an image archive refers to.
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise ContentMismatch(f"{self.path}: not a readable tar archive ({error})") from None

    def _safe_name(self, name: str) -> str:
        clean = posixpath.normpath(name)
        if clean.startswith(("/", "../")) or clean == ".." or "\0" in name:
            raise OciError(f"{self.path}: the member name {name[:200]!r} leaves the archive; refused")
        return clean

    def find(self, name: str) -> Part | None:
        """Return the range of the file *name*, links followed inside the archive; None if there is none."""
        for _ in range(ARCHIVE_LINKS_MAX):
            name = self._safe_name(name)
            target = self._links.get(name)
            if target is None:
                return self._parts.get(name)
            name = target
        raise OciError(f"{self.path}: more than {ARCHIVE_LINKS_MAX} links one after the other at {name!r}")

    def read(self, name: str, size_max: int) -> bytes:
        """Return the file *name*; NotFound, TooLarge."""
        part = self.find(name)
        if part is None:
            raise NotFound(f"{self.path}: no {name!r} in the archive")
        if part.size > size_max:
            raise TooLarge(f"{self.path}: {name!r} is larger than {size_max} bytes")
        return self.pread(part)

    def digest(self, part: Part) -> str:
        """Return the sha256 digest of a range."""
        hashing = hashlib.sha256()
        position = part.start
        while position < part.start + part.size:
            data = self._pread(min(_READ_BYTES, part.start + part.size - position), position)
            hashing.update(data)
            position += len(data)
        return f"sha256:{hashing.hexdigest()}"

    def compression(self, part: Part, suffixes: Mapping[bytes, str]) -> str:
        """Return the suffix whose magic bytes the range begins with, else nothing."""
        head = self._pread(min(8, part.size), part.start)
        return next((suffix for magic, suffix in suffixes.items() if head.startswith(magic)), "")

    def pread(self, part: Part) -> bytes:
        """Return a whole range, which the caller has bounded."""
        return self._pread(part.size, part.start)

    def _pread(self, length: int, position: int) -> bytes:
        data = os.pread(self._file.fileno(), length, position)
        if len(data) < length:
            raise ContentMismatch(f"{self.path}: became shorter while it was read")
        return data

    def stream(self, part: Part, digest: str, offset: int, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Yield a range that should be *digest*, as blobs.stream_verified does."""
        where = f"{self.path}: {digest}"
        return stream_verified(self._file.fileno(), part.start, digest, part.size, offset, where, verify=verify)

    def close(self) -> None:
        """Close the tarball."""
        self._file.close()


class _BoundedReads:
    """What tarfile reads through: a header that claims to be huge is refused before memory is spent on it."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_READ_BYTES_MAX:
            raise TooLarge(f"{self._path}: a tar header larger than {_HEADER_READ_BYTES_MAX} bytes")
        return self._file.read(size)


def _headers(file: BinaryIO, path: Path) -> Iterator[tarfile.TarInfo]:
    bounded = _BoundedReads(file, path)
    with contextlib.closing(tarfile.TarFile(fileobj=bounded, mode="r")) as tar:  # type: ignore[arg-type]
        while (member := tar.next()) is not None:
            yield member
            tar.members = []  # type: ignore[attr-defined]  # or it remembers every header it has seen
