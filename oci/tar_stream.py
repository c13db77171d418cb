"""Tar as a stream, with the same bytes for the same content, and read again without trusting a word of it.

Written are regular files only, with no owner, time or mode of this machine. Read is exactly what was written: links,
devices, sparse files, folders, odd headers and names that leave the archive are refused by name, nothing is sought,
and memory is one header. Knows nothing of what the files mean.
"""

from __future__ import annotations

import tarfile
from typing import Final, NamedTuple, Protocol

from oci.errors import ContentMismatch, OciError, TooLarge

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
PAX_BYTES_MAX: Final = 1_024  # the only use of an extended header is a name that a plain one cannot hold
MEMBER_BYTES_MAX: Final = 1 << 40
_KINDS: Final = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGNAME: "a long name of GNU tar",
    tarfile.GNUTYPE_LONGLINK: "a long link of GNU tar",
    tarfile.XGLTYPE: "a header for all files",
}


class Stream(Protocol):
    """What is read from: bytes in order, and how errors call the place."""

    @property
    def where(self) -> str:
        """The file that is read just now."""
        ...

    def read(self, count: int) -> bytes:
        """Return *count* bytes, fewer only at the end."""
        ...


class Member(NamedTuple):
    """One file of the archive; *size* in bytes."""

    name: str
    size: int


def member_header(name: str, size: int) -> bytes:
    """Return what stands before the bytes of a file; a name above 100 characters takes a pax header."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def padding(size: int) -> bytes:
    """Return the zeros that follow a file of *size* bytes."""
    return bytes(-size % BLOCK)


def member_bytes(name: str, size: int) -> int:
    """Return how many bytes a file takes in an archive, with header and padding."""
    return len(member_header(name, size)) + size + -size % BLOCK


class TarReader:
    """Reads members in order; the caller takes the bytes of one before it asks for the next."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = 0  # bytes of the present member that nobody has taken
        self._padding = 0
        self._names: set[str] = set()

    def next(self) -> Member | None:
        """Return the next file, None at the end; ContentMismatch for what is no archive, OciError for a trick."""
        while self._left:
            self.read(min(self._left, 1 << 20))
        if any(self._exactly(self._padding)):
            raise ContentMismatch(f"{self._stream.where}: bytes between two files; the archive is damaged")
        self._padding = 0
        block = self._exactly(BLOCK)
        if not any(block):
            self._end()
            return None
        name = None
        info = self._header(block)
        if info.type == tarfile.XHDTYPE:
            name = self._pax_name(info)
            block = self._exactly(BLOCK)
            info = self._header(block)
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            kind = _KINDS.get(info.type, f"an entry of type {info.type!r}")
            raise OciError(f"{self._stream.where}: {(name or info.name)[:200]!r} is {kind}; refused: files only")
        return self._begin(info, name)

    def read(self, count: int) -> bytes:
        """Return up to *count* bytes of the present file; ContentMismatch if the archive ends within it."""
        data = self._exactly(min(count, self._left))
        self._left -= len(data)
        return data

    def _begin(self, info: tarfile.TarInfo, long_name: str | None) -> Member:
        name, where = long_name or info.name, self._stream.where
        parts = name.split("/")
        if not name.isprintable() or name.startswith("/") or {"", ".", ".."} & set(parts):
            raise OciError(f"{where}: the member name {name[:200]!r} leaves the archive; refused")
        if name in self._names:
            raise OciError(f"{where}: {name[:200]!r} is in the archive twice; refused")
        if not 0 <= info.size <= MEMBER_BYTES_MAX:
            raise TooLarge(f"{where}: {name[:200]!r} claims {info.size:,} bytes; refused")
        self._names.add(name)
        self._left, self._padding = info.size, -info.size % BLOCK
        return Member(name, info.size)

    def _header(self, block: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise ContentMismatch(f"{self._stream.where}: not a header of a tar archive ({error})") from None

    def _pax_name(self, info: tarfile.TarInfo) -> str:
        """Return the name in an extended header, which may hold that and nothing else."""
        if not 0 < info.size <= PAX_BYTES_MAX:
            raise TooLarge(f"{self._stream.where}: an extended header of {info.size:,} bytes; refused")
        raw = self._exactly(info.size + -info.size % BLOCK)[: info.size]
        length, _, record = raw.partition(b" ")
        key, _, value = record.partition(b"=")
        if length != str(len(raw)).encode() or key != b"path" or not value.endswith(b"\n") or b"\n" in value[:-1]:
            raise OciError(f"{self._stream.where}: an extended header that says more than a name; refused")
        try:
            return value[:-1].decode("utf-8")
        except UnicodeDecodeError:
            raise ContentMismatch(f"{self._stream.where}: a member name that is not UTF-8") from None

    def _end(self) -> None:
        rest = self._stream.read(BLOCK + 1)
        if len(rest) != BLOCK or any(rest):
            raise ContentMismatch(f"{self._stream.where}: the archive goes on, or breaks off, behind its end")

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count) if count else b""
        if len(data) < count:
            raise ContentMismatch(f"{self._stream.where}: cut off; copy the file again")
        return data
