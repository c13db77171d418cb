"""Object table entries: how a transport object's bytes are coded and cut (as FLUTE's FDT, RFC 6726 §3.2).

WIRE_FORMAT.md §4.1. Each entry stands alone, so any datagram of the table is useful by itself.

    offset size field
    0      4    TOI, >= 1
    4      1    kind (Kind)
    5      1    coding (Coding)
    6      1    digest algorithm of the content, 0 = sha256, 1 = sha512
    7      1    k
    8      1    m
    9      1    reserved, 0
    10     2    depth
    12     4    reserved, 0
    16     8    content size (bytes, decoded)
    24     8    coded size (bytes on the wire, before padding)
    32     32   SHA-256 of the coded bytes
    64     64   digest of the content, zero-padded
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.drops import Drop
from protocol.errors import ProtocolMisuse, WireError
from protocol.geometry import Geometry, checked
from protocol.limits import CONTROL_OBJECT_BYTES_MAX, OBJECT_BYTES_MAX, SYMBOL_ALIGNMENT
from protocol.reader import Reader

ENTRY_BYTES: Final = 128
_ALGORITHMS: Final = (("sha256", 32), ("sha512", 64))


class Kind(IntEnum):
    """What an object's content is."""

    BLOB = 1  # one blob or manifest, by its OCI digest
    BATCH = 2  # many small ones (batch.py)
    RELEASE = 3  # a signed release (release.py)


class Coding(IntEnum):
    """How the content became the coded bytes."""

    IDENTITY = 0
    ZSTD = 1  # RFC 8878, window at most 8 MiB


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One transport object within a session."""

    toi: int
    kind: Kind
    coding: Coding
    digest: str  # of the content: "sha256:<hex>" or "sha512:<hex>"
    content_size: int
    coded_digest: str  # always sha256
    geometry: Geometry  # its size is the coded size

    def written(self) -> tuple[bytes, int]:
        """Return what parse_entry makes this entry of again: its bytes, and its symbol size (bytes)."""
        return self.encode(), self.geometry.symbol_bytes

    def encode(self) -> bytes:
        """Return the 128 bytes of this entry."""
        name, _, hexadecimal = self.digest.partition(":")
        algorithm = next((i for i, (known, _) in enumerate(_ALGORITHMS) if known == name), None)
        if algorithm is None or self.toi < 1:
            raise ProtocolMisuse(f"object {self.toi} with digest {self.digest}")
        g = self.geometry
        return b"".join(
            (
                self.toi.to_bytes(4, "little"),
                bytes((self.kind, self.coding, algorithm, g.k, g.m, 0)),
                g.depth.to_bytes(2, "little"),
                bytes(4),
                self.content_size.to_bytes(8, "little"),
                g.size.to_bytes(8, "little"),
                bytes.fromhex(self.coded_digest.partition(":")[2]),
                bytes.fromhex(hexadecimal).ljust(64, b"\0"),
            )
        )


def parse_entry(data: bytes, symbol_bytes: int) -> ObjectEntry:
    """Parse one 128-byte entry of a session whose symbols are *symbol_bytes*; WireError with the reason."""
    reader = Reader(data, Drop.BAD_OBJECT_TABLE)
    toi = reader.uint(4)
    kind, coding, algorithm, k, m = (reader.uint(1) for _ in range(5))
    reader.expect(b"\0")
    depth = reader.uint(2)
    reader.expect(bytes(4))
    content_size, coded_size = reader.uint(8), reader.uint(8)
    coded = reader.take(32)
    if toi < 1 or kind not in Kind.__members__.values() or coding not in Coding.__members__.values():
        raise WireError(Drop.BAD_OBJECT_TABLE, f"toi {toi}, kind {kind}, coding {coding}")
    if algorithm >= len(_ALGORITHMS):
        raise WireError(Drop.BAD_OBJECT_TABLE, f"digest algorithm {algorithm}")
    name, width = _ALGORITHMS[algorithm]
    digest = reader.take(width)
    reader.padding()
    size_max = OBJECT_BYTES_MAX if kind == Kind.BLOB else CONTROL_OBJECT_BYTES_MAX
    if content_size > size_max:
        raise WireError(Drop.OBJECT_TOO_LARGE, f"content of {content_size} bytes")
    entry = ObjectEntry(
        toi=toi,
        kind=Kind(kind),
        coding=Coding(coding),
        digest=f"{name}:{digest.hex()}",
        content_size=content_size,
        coded_digest="sha256:" + coded.hex(),
        geometry=checked(coded_size, symbol_bytes, k, m, depth),
    )
    same = entry.coded_digest == entry.digest or name != "sha256"
    if entry.coding is Coding.IDENTITY and (content_size != coded_size or not same):
        raise WireError(Drop.BAD_OBJECT_TABLE, "identity coding whose coded bytes differ from the content")
    return entry


def entries_per_datagram(symbol_bytes: int) -> int:
    """Return how many entries fit in the payload of one datagram."""
    return symbol_bytes // ENTRY_BYTES


def encode_table(entries: list[ObjectEntry], symbol_bytes: int) -> bytes:
    """Return one datagram's payload: entries, then zeros to the symbol size."""
    if not entries or len(entries) > entries_per_datagram(symbol_bytes):
        raise ProtocolMisuse(f"{len(entries)} entries do not fit {symbol_bytes} bytes")
    return b"".join(entry.encode() for entry in entries).ljust(symbol_bytes, b"\0")


def parse_table(
    payload: bytes, symbol_bytes: int, parse: Callable[[bytes, int], ObjectEntry] = parse_entry
) -> list[ObjectEntry | WireError]:
    """Return the entries of one payload; a bad entry is returned as its error and spoils no other.

    *parse* is parse_entry, or something that remembers what that returned: tables repeat themselves.
    """
    found: list[ObjectEntry | WireError] = []
    end = 0
    for at in range(0, entries_per_datagram(symbol_bytes) * ENTRY_BYTES, ENTRY_BYTES):
        raw = payload[at : at + ENTRY_BYTES]
        if not raw.strip(b"\0"):
            break
        end = at + ENTRY_BYTES
        try:
            found.append(parse(raw, symbol_bytes))
        except WireError as error:
            found.append(error)
    if payload[end:].strip(b"\0"):
        found.append(WireError(Drop.BAD_OBJECT_TABLE, "padding is not zero"))
    return found


assert ENTRY_BYTES % SYMBOL_ALIGNMENT == 0
