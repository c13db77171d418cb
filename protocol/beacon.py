"""The beacon: about once a second, what the sender lives on and what is newest (WIRE_FORMAT.md §6).

Sealed in the session like any datagram. More collections than fit are spread over consecutive beacons.

    offset size field
    0      8    beacon sequence within the session, from 1
    8      8    sender's clock, Unix milliseconds; informational
    16     4    TOI on the wire now, 0 = idle
    20     4    SBN on the wire now
    24     8    bytes of content still queued
    32     1    flags: bit 0 = the sender is closing this session, all was sent
    33     1    number of collection entries that follow
    34     2    collections known to the sender in all
    then for each entry:
    0      1    length of the name, 1..64
    1      ..   name, [a-z0-9._-]
    ..     8    sequence of the newest release
    ..     32   SHA-256 of its signed payload
    ..     4    TOI of the release object in this session, 0 = not on the wire
    and zeros to the symbol size
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocol.drops import Drop
from protocol.errors import ProtocolMisuse, WireError
from protocol.limits import CLOCK_MS_MAX, COLLECTION_NAME_BYTES_MAX, COLLECTIONS_MAX, NUMBER_MAX
from protocol.reader import Reader

CLOSING: Final = 1
_FIXED_BYTES: Final = 36
_ENTRY_FIXED_BYTES: Final = 1 + 8 + 32 + 4
COLLECTION_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest release of one collection."""

    collection: str
    sequence: int
    digest: str  # "sha256:<hex>" of the signed payload
    toi: int


@dataclass(frozen=True, slots=True)
class Beacon:
    """One heartbeat."""

    sequence: int
    clock_ms: int
    toi: int
    sbn: int
    queued_bytes: int
    closing: bool
    collections: int
    newest: tuple[Newest, ...]

    def encode(self, symbol_bytes: int) -> bytes:
        """Return the payload, *symbol_bytes* long."""
        if not 1 <= self.sequence <= NUMBER_MAX or not len(self.newest) <= self.collections <= COLLECTIONS_MAX:
            raise ProtocolMisuse(f"beacon {self.sequence} with {self.collections} collections")
        parts = [
            self.sequence.to_bytes(8, "little"),
            self.clock_ms.to_bytes(8, "little"),
            self.toi.to_bytes(4, "little"),
            self.sbn.to_bytes(4, "little"),
            self.queued_bytes.to_bytes(8, "little"),
            bytes((CLOSING if self.closing else 0, len(self.newest))),
            self.collections.to_bytes(2, "little"),
        ]
        for newest in self.newest:
            if not COLLECTION_NAME.match(newest.collection):
                raise ProtocolMisuse(f"collection name {newest.collection!r}")
            name = newest.collection.encode()
            parts += [
                bytes((len(name),)),
                name,
                newest.sequence.to_bytes(8, "little"),
                bytes.fromhex(newest.digest.removeprefix("sha256:")),
                newest.toi.to_bytes(4, "little"),
            ]
        payload = b"".join(parts)
        if len(payload) > symbol_bytes:
            raise ProtocolMisuse(f"beacon of {len(payload)} bytes")
        return payload.ljust(symbol_bytes, b"\0")


def newest_per_beacon(symbol_bytes: int) -> int:
    """Return how many collections surely fit one beacon, whatever their names."""
    return min(255, (symbol_bytes - _FIXED_BYTES) // (_ENTRY_FIXED_BYTES + COLLECTION_NAME_BYTES_MAX))


def parse_beacon(payload: bytes | memoryview) -> Beacon:
    """Parse one payload; WireError(BAD_BEACON) otherwise."""
    reader = Reader(payload, Drop.BAD_BEACON)
    sequence, clock_ms = reader.uint(8), reader.uint(8)
    toi, sbn, queued = reader.uint(4), reader.uint(4), reader.uint(8)
    flags, count, collections = reader.uint(1), reader.uint(1), reader.uint(2)
    if flags & ~CLOSING or collections > COLLECTIONS_MAX or count > collections:
        raise WireError(Drop.BAD_BEACON, f"flags {flags}, {count} of {collections} collections")
    if not 1 <= sequence <= NUMBER_MAX or clock_ms > CLOCK_MS_MAX or queued > NUMBER_MAX:
        raise WireError(Drop.BAD_BEACON, f"sequence {sequence}, clock {clock_ms}, queued {queued}")
    newest = []
    for _ in range(count):
        name = reader.take(reader.uint(1)).decode("latin-1")
        if not COLLECTION_NAME.match(name):
            raise WireError(Drop.BAD_BEACON, f"collection name {name!r}")
        number, digest, release_toi = reader.uint(8), reader.take(32), reader.uint(4)
        if not 1 <= number <= NUMBER_MAX:
            raise WireError(Drop.BAD_BEACON, f"release sequence {number} of {name}")
        newest.append(Newest(name, number, "sha256:" + digest.hex(), release_toi))
    reader.padding()
    return Beacon(sequence, clock_ms, toi, sbn, queued, bool(flags & CLOSING), collections, tuple(newest))
