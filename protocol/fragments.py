"""Cutting an announcement into datagrams and putting it together again within a small fixed memory.

WIRE_FORMAT.md §3.2. Fragments are the only datagrams whose bytes are kept before they are authenticated, so the
number of unfinished announcements and their size are bounded, and the oldest unfinished one gives way.

    offset size field          (after the 32-byte header, whose TOI is the fragment index)
    32     8    announcement id: first 8 bytes of its SHA-256
    40     2    fragment count
    42     2    bytes of the announcement in this fragment
    44     4    total length
    48     ..   bytes, then zeros to the datagram size

Every fragment but the last is filled to the datagram size, so a fragment's size follows from the other fields.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from protocol.drops import Drop
from protocol.errors import ProtocolMisuse, WireError
from protocol.limits import (
    ANNOUNCEMENT_BYTES_MAX,
    ANNOUNCEMENT_FRAGMENTS_MAX,
    ANNOUNCEMENTS_PENDING_MAX,
    HEADER_BYTES,
)
from protocol.reader import Reader
from protocol.wire import HEADER, MAGIC, VERSION, Type

_FRAGMENT_HEADER_BYTES: Final = 16
_ID_BYTES: Final = 8


def fragment(announcement: bytes, session_tag: bytes, datagram_bytes: int) -> list[bytes]:
    """Return the datagrams, each *datagram_bytes* long, that carry *announcement*."""
    room = datagram_bytes - HEADER_BYTES - _FRAGMENT_HEADER_BYTES
    pieces = [announcement[i : i + room] for i in range(0, len(announcement), room)]
    if len(announcement) > ANNOUNCEMENT_BYTES_MAX or len(pieces) > ANNOUNCEMENT_FRAGMENTS_MAX:
        raise ProtocolMisuse(f"announcement of {len(announcement)} bytes in {len(pieces)} fragments is too large")
    identifier = hashlib.sha256(announcement).digest()[:_ID_BYTES]
    tag = int.from_bytes(session_tag, "little")
    datagrams = []
    for index, piece in enumerate(pieces):
        header = HEADER.pack(MAGIC, VERSION, Type.ANNOUNCEMENT, tag, 0, index, 0, 0, 0, 0)
        prologue = (
            identifier
            + len(pieces).to_bytes(2, "little")
            + len(piece).to_bytes(2, "little")
            + len(announcement).to_bytes(4, "little")
        )
        datagrams.append((header + prologue + piece).ljust(datagram_bytes, b"\0"))
    return datagrams


class Assembler:
    """Collects fragments until an announcement is whole. Memory: at most 4 announcements of 64 KiB."""

    def __init__(self) -> None:
        self._pending: OrderedDict[tuple[bytes, int, int, int], dict[int, bytes]] = OrderedDict()
        self.evicted = 0  # unfinished announcements given up, since the last read of this counter

    def add(self, datagram: bytes | memoryview) -> bytes | None:
        """Take one announcement datagram (header included); return the announcement when it became whole."""
        index = int.from_bytes(datagram[16:20], "little")
        reader = Reader(datagram[HEADER_BYTES:], Drop.BAD_FRAGMENT)
        identifier = reader.take(_ID_BYTES)
        count, size, total = reader.uint(2), reader.uint(2), reader.uint(4)
        room = reader.left
        piece = reader.take(size)
        reader.padding()
        if not (1 <= count <= ANNOUNCEMENT_FRAGMENTS_MAX and index < count and 1 <= total <= ANNOUNCEMENT_BYTES_MAX):
            raise WireError(Drop.BAD_FRAGMENT, f"fragment {index} of {count}, {total} bytes in all")
        if size != (room if index < count - 1 else total - room * (count - 1)) or size < 1:
            raise WireError(Drop.BAD_FRAGMENT, f"fragment {index} of {count} has {size} of {total} bytes")
        # what a forger claims otherwise about the same announcement is kept apart and cannot spoil the real one
        key = (identifier, room, count, total)
        pieces = self._pending.setdefault(key, {})
        pieces[index] = piece
        if len(pieces) == count:
            del self._pending[key]
            return self._checked(identifier, total, b"".join(pieces[i] for i in range(count)))
        if len(self._pending) > ANNOUNCEMENTS_PENDING_MAX:
            self._pending.popitem(last=False)
            self.evicted += 1
        return None

    @staticmethod
    def _checked(identifier: bytes, total: int, announcement: bytes) -> bytes:
        if len(announcement) != total or hashlib.sha256(announcement).digest()[:_ID_BYTES] != identifier:
            raise WireError(Drop.BAD_FRAGMENT, "announcement does not match its id")
        return announcement
