"""What a decoder hands over to the one that takes its place: open sessions, and the blocks that were on their way.

Without it a receiver that starts again waits for the next announcement, and what arrived of unfinished blocks is
lost. The bytes are this receiver's own and never cross the link: an announcement is verified anew, epochs included,
and what is wrong in a block shows in its object's digest. :func:`parse` reads all of it before any is used.

Little-endian. ``CVH1``, u16 sessions, then for each: its announcement; u16 windows (u16 lane, four i64, bits); u64
beacon sequence; u32 object table entries as on the wire; u32 blocks (u64 TOI, u32 SBN, u32 symbol bytes, a byte for
each place that is 1 where a symbol is here, those symbols). Byte strings follow their u32 length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

MAGIC: Final = b"CVH1"
_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_WINDOW: Final = struct.Struct("<Hqqqq")
_BLOCK: Final = struct.Struct("<QII")


class HandoverError(ValueError):
    """The bytes are no handover of this version, or are cut off."""


@dataclass(frozen=True, slots=True)
class Window:
    """A replay window as it stood (replay.ReplayWindow)."""

    lane: int
    first: int
    highest: int
    accepted: int
    run: int
    bits: int


@dataclass(frozen=True, slots=True)
class UnfinishedBlock:
    """A source block of which some symbols are here: *have* by place in the buffer, *symbols* in that order."""

    toi: int
    sbn: int
    symbol_bytes: int
    have: bytes
    symbols: bytes | memoryview


@dataclass(slots=True)
class OpenSession:
    """One session; *announcement* is whole, as it was signed."""

    announcement: bytes
    windows: list[Window]
    beacon_sequence: int
    entries: list[bytes]
    blocks: list[UnfinishedBlock] = field(default_factory=list)


def write(sessions: list[OpenSession]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a handover, in pieces."""
    yield MAGIC + _U16.pack(len(sessions))
    for session in sessions:
        yield from _sized(session.announcement)
        yield _U16.pack(len(session.windows))
        for window in session.windows:
            yield _WINDOW.pack(window.lane, window.first, window.highest, window.accepted, window.run)
            yield from _sized(window.bits.to_bytes((window.bits.bit_length() + 7) // 8, "little"))
        yield _U64.pack(session.beacon_sequence) + _U32.pack(len(session.entries))
        for entry in session.entries:
            yield from _sized(entry)
        yield _U32.pack(len(session.blocks))
        for block in session.blocks:
            yield _BLOCK.pack(block.toi, block.sbn, block.symbol_bytes)
            yield from _sized(block.have)
            yield from _sized(block.symbols)


def parse(data: bytes) -> list[OpenSession]:
    """Read what :func:`write` has written; HandoverError if it is anything else."""
    reader = _Reader(memoryview(data))
    if bytes(reader.take(len(MAGIC))) != MAGIC:
        raise HandoverError("not of this version")
    sessions = [_session(reader) for _ in range(reader.number(_U16))]
    if reader.left:
        raise HandoverError(f"{reader.left} bytes too many")
    return sessions


def _session(reader: _Reader) -> OpenSession:
    announcement = bytes(reader.sized())
    windows = []
    for _ in range(reader.number(_U16)):
        lane, first, highest, accepted, run = _WINDOW.unpack(reader.take(_WINDOW.size))
        windows.append(Window(lane, first, highest, accepted, run, int.from_bytes(reader.sized(), "little")))
    session = OpenSession(announcement, windows, reader.number(_U64), [])
    session.entries = [bytes(reader.sized()) for _ in range(reader.number(_U32))]
    for _ in range(reader.number(_U32)):
        toi, sbn, size = _BLOCK.unpack(reader.take(_BLOCK.size))
        block = UnfinishedBlock(toi, sbn, size, bytes(reader.sized()), reader.sized())
        if block.have.count(1) * size != len(block.symbols) or block.have.translate(None, b"\0\1"):
            raise HandoverError("a block whose symbols are not those that it has")
        session.blocks.append(block)
    return session


def _sized(data: bytes | memoryview) -> Iterator[bytes | memoryview]:
    yield _U32.pack(len(data))
    yield data


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise HandoverError("cut off")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, form: struct.Struct) -> int:
        return int(form.unpack(self.take(form.size))[0])

    def sized(self) -> memoryview:
        return self.take(self.number(_U32))
