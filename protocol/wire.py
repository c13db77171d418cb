"""The 32-byte datagram header and how a burst of equal datagrams is sliced (WIRE_FORMAT.md §2).

All integers are little-endian: the numbers of a whole burst are read and written as strided memoryviews in
native order, which costs a fraction of unpacking each header. Does not know what payloads mean.

    offset size field
    0      2    magic "CV"
    2      1    version, 1
    3      1    type (Type)
    4      4    session tag: the first 4 bytes of the session id
    8      8    packet number: lane << 56 | counter      (bytes 4..16 are the AES-GCM nonce)
    16     4    TOI                                      (fragment index for announcements)
    20     4    SBN
    24     2    row: ESI within the codeword; < k source, >= k repair
    26     2    column: codeword within the source block
    28     4    reserved, 0
"""

from __future__ import annotations

import struct
import sys
from array import array
from enum import IntEnum
from typing import Final

from protocol.buffers import addresses
from protocol.errors import ProtocolMisuse
from protocol.limits import (
    BURST_BYTES_MAX,
    BURST_DATAGRAMS_MAX,
    DATAGRAM_BYTES_MAX,
    DATAGRAM_BYTES_MIN,
    HEADER_BYTES,
    OVERHEAD_BYTES,
    SYMBOL_ALIGNMENT,
    TAG_BYTES,
)

MAGIC: Final = b"CV"
VERSION: Final = 1
HEADER: Final = struct.Struct("<2sBBIQIIHHI")
NONCE: Final = slice(4, 16)
LANE_SHIFT: Final = 56
COUNTER_MAX: Final = (1 << LANE_SHIFT) - 1
LITTLE_ENDIAN: Final = sys.byteorder == "little"

assert HEADER.size == HEADER_BYTES


class Type(IntEnum):
    """What a datagram's payload is."""

    ANNOUNCEMENT = 1  # a fragment of a signed session announcement; not sealed
    OBJECTS = 2  # object table entries; sealed, as are all that follow
    BEACON = 3
    SYMBOL = 4


def symbol_bytes(datagram_bytes: int) -> int:
    """Return the encoding symbol size (bytes) that a session with this datagram size carries."""
    return datagram_bytes - OVERHEAD_BYTES


def valid_datagram_bytes(datagram_bytes: int) -> bool:
    """Whether a session may use this datagram size: within bounds, its symbol a multiple of 16 bytes."""
    return (
        DATAGRAM_BYTES_MIN <= datagram_bytes <= DATAGRAM_BYTES_MAX
        and symbol_bytes(datagram_bytes) % SYMBOL_ALIGNMENT == 0
    )


def datagram_bytes_for_mtu(mtu: int, ip_header_bytes: int = 20) -> int:
    """Return the largest valid datagram size for a link MTU (bytes), less IP and 8 bytes of UDP header."""
    room = min(mtu - ip_header_bytes - 8, DATAGRAM_BYTES_MAX)
    return room - (room - OVERHEAD_BYTES) % SYMBOL_ALIGNMENT


def datagrams_per_burst(datagram_bytes: int) -> int:
    """Return how many datagrams of this size one burst holds."""
    return min(BURST_BYTES_MAX // datagram_bytes, BURST_DATAGRAMS_MAX)


class BurstView:
    """A burst buffer, sliced once: header columns as strided views, and per datagram the AEAD's pieces.

    Those pieces are views, and in ``..._at`` the addresses of the same (unsigned 64-bit).

    *buffer* is writable, at least ``count * datagram_bytes`` long; *datagram_bytes* is a multiple of 16.
    """

    def __init__(self, buffer: memoryview, datagram_bytes: int, count: int) -> None:
        self.buffer = buffer
        self.datagram_bytes = datagram_bytes
        self.count = count
        used = buffer[: count * datagram_bytes]
        if len(used) != count * datagram_bytes:
            raise ProtocolMisuse(f"{len(used)} bytes are not room for {count} datagrams of {datagram_bytes}")
        quads, words = used.cast("Q"), used.cast("I")
        step = datagram_bytes
        self._prefix = quads[0 :: step // 8]
        self._number = quads[1 :: step // 8]
        self._toi = words[4 :: step // 4]
        self._sbn = words[5 :: step // 4]
        self._position = words[6 :: step // 4]
        self._reserved = words[7 :: step // 4]
        self._toi_sbn = quads[2 :: step // 8]
        self._standing: tuple[int, int, int] | None = None  # prefix, TOI and SBN, the same for bursts of a block,
        self._standing_count = 0  # that so many headers hold already
        starts = range(0, count * step, step)
        self.nonces = [used[s + 4 : s + 16] for s in starts]
        self.headers = [used[s : s + HEADER_BYTES] for s in starts]
        self.sealed = [used[s + HEADER_BYTES : s + step] for s in starts]
        self.datagrams = [used[s : s + step] for s in starts]
        self.headers_at, self.nonces_at, self.sealed_at, self.tags_at = (
            memoryview(addresses(used, step, offset)) for offset in (0, NONCE.start, HEADER_BYTES, step - TAG_BYTES)
        )
        tags = quads[(step - TAG_BYTES) // 8 :]
        self._tag_halves = tags[:: step // 8], tags[1 :: step // 8]

    def prefixes(self, count: int, start: int = 0) -> list[int]:
        """Magic, version, type and session tag of *count* datagrams from *start*, as integers for comparing."""
        return _read(self._prefix, "Q", start, count)

    def numbers(self, count: int, start: int = 0) -> list[int]:
        """Packet numbers."""
        return _read(self._number, "Q", start, count)

    def tois(self, count: int, start: int = 0) -> list[int]:
        """Transport object identifiers."""
        return _read(self._toi, "I", start, count)

    def sbns(self, count: int, start: int = 0) -> list[int]:
        """Source block numbers."""
        return _read(self._sbn, "I", start, count)

    def positions(self, count: int, start: int = 0) -> list[int]:
        """Rows (ESI) and columns (codeword), as ``row | column << 16``."""
        return _read(self._position, "I", start, count)

    def reserved(self, count: int, start: int = 0) -> list[int]:
        """The reserved words; 0 in every valid datagram."""
        return _read(self._reserved, "I", start, count)

    def one_block(self, count: int, start: int = 0) -> bool:
        """Whether *count* datagrams from *start* are all of one object and block, their reserved words 0."""
        both, reserved = self._toi_sbn[start : start + count].tobytes(), self._reserved[start : start + count]
        return both == both[:8] * count and reserved.tobytes() == bytes(4 * count)

    def tags(self, count: int, start: int = 0) -> bytes:
        """The first halves of the tags of *count* datagrams from *start*, then the second halves."""
        first, second = self._tag_halves
        return first[start : start + count].tobytes() + second[start : start + count].tobytes()

    def write_headers(self, prefix: int, number: int, toi: int, sbn: int, positions: array[int]) -> None:
        """Write ``len(positions)`` headers: consecutive packet numbers from *number*, one TOI and SBN for all.

        *positions* are ``row | column << 16`` (array of "I").
        """
        count = len(positions)
        if self._standing != (prefix, toi, sbn) or count > self._standing_count:
            self._standing, self._standing_count = (prefix, toi, sbn), count
            _write(self._prefix, "Q", [prefix] * count)
            _write(self._toi, "I", [toi] * count)
            _write(self._sbn, "I", [sbn] * count)
            _write(self._reserved, "I", [0] * count)
        _write(self._number, "Q", range(number, number + count))
        _write(self._position, "I", positions)

    def write_header(self, index: int, header: bytes) -> None:
        """Write one packed header."""
        self._standing = None
        self.headers[index][:] = header

    def write_datagram(self, index: int, datagram: bytes) -> None:
        """Write one whole datagram."""
        self._standing = None
        self.datagrams[index][:] = datagram


def prefix(kind: Type, session_tag: bytes) -> int:
    """Return the first 8 header bytes (magic, version, type, session tag) as a little-endian integer."""
    return int.from_bytes(MAGIC + bytes((VERSION, kind)) + session_tag, "little")


def _read(column: memoryview, code: str, start: int, count: int) -> list[int]:
    if LITTLE_ENDIAN:
        return column[start : start + count].tolist()
    swapped = array(code, column[start : start + count].tolist())
    swapped.byteswap()
    return swapped.tolist()


def _write(column: memoryview, code: str, values: list[int] | range | array[int]) -> None:
    packed = values if isinstance(values, array) and LITTLE_ENDIAN else array(code, values)
    if not LITTLE_ENDIAN:
        packed.byteswap()
    column[: len(packed)] = memoryview(packed)
