"""The repair code: what a receiver lacks, short enough for a person to carry across (WIRE_FORMAT.md §12).

Content is named by its place in a signed release, which both sides have, and source blocks by their numbers, together
with what both sides need to mean the same bytes by them: how many blocks the receiver saw, of which symbol size, of
which coded bytes. Says nothing of what is done about it. The characters are repair_text.py's.

A code is a string of bits: version (3), then sections. A section:

    sequence of the release (number), first 28 bits of its digest
    1 bit: the release itself is lacking
    1 bit, and if it is 1 a set: contents lacking as a whole, by their place in the release
    1 bit, and if it is 1: symbol size / 16 (10), a set: contents of which source blocks are lacking; for each of them
        the first 16 bits of the digest of its coded bytes, the number of its blocks (number), the blocks (set)
    1 bit: another section follows

Numbers, sets and their parts are described at the functions that write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.limits import BLOCKS_PER_OBJECT_MAX, NUMBER_MAX, RELEASE_DESCRIPTORS_MAX, RELEASE_IMAGES_MAX
from protocol.repair_text import BadRepairCode, read_text, write_text

VERSION: Final = 1
RELEASE_BITS: Final = 28
CODED_BITS: Final = 16
SYMBOL_BITS: Final = 10
SYMBOL_UNIT: Final = 16  # bytes; symbol sizes are multiples of it
CONTENTS_MAX: Final = RELEASE_DESCRIPTORS_MAX + RELEASE_IMAGES_MAX
_RICE_BITS: Final = 4

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges [start, end), ascending, apart from each other."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Source blocks that are lacking of one content."""

    content: int  # its place in Release.contents(), from 0
    coded: int  # first_bits of the digest of its coded bytes
    blocks: int  # how many blocks the receiver saw the object cut into
    missing: Ranges  # their numbers


@dataclass(frozen=True, slots=True)
class Section:
    """What is lacking of one release."""

    sequence: int
    digest: int  # first_bits of the digest of its payload
    release: bool = False  # the release object itself
    whole: Ranges = ()  # contents, by their place in Release.contents(), from 0
    symbol_bytes: int = 1  # of all pieces; 1 where the receiver does not know, and has cut by its own measure
    pieces: tuple[Pieces, ...] = ()  # by content


def first_bits(digest: str, bits: int) -> int:
    """Return the first *bits* (at most 64) of ``sha256:<hex>`` or ``sha512:<hex>``."""
    return int(digest.partition(":")[2][:16], 16) >> (64 - bits)


def refers_to(section: Section, sequence: int, digest: str) -> bool:
    """Whether a section is about this release."""
    return section.sequence == sequence and section.digest == first_bits(digest, RELEASE_BITS)


@dataclass(frozen=True, slots=True)
class Cut:
    """How *size* bytes fall into *blocks* source blocks of symbols: Geometry.block, without the codewords.

    A content cut in another way has other blocks, but bytes stay bytes: each side turns them into its own numbers.
    """

    size: int
    symbol_bytes: int
    blocks: int

    @property
    def sound(self) -> bool:
        """Whether so many bytes can be cut so."""
        return self.size >= 1 and self.symbol_bytes >= 1 and 1 <= self.blocks <= self._symbols

    @property
    def _symbols(self) -> int:
        return -(-self.size // self.symbol_bytes)

    def start(self, block: int) -> int:
        """Return where *block* begins (bytes); the end of the object for *blocks*."""
        small, large = divmod(self._symbols, self.blocks)
        return min(self.size, (block * small + min(block, large)) * self.symbol_bytes)

    def block_at(self, offset: int) -> int:
        """Return the block that the byte at *offset* is in."""
        small, large = divmod(self._symbols, self.blocks)
        symbol = offset // self.symbol_bytes
        within = symbol // (small + 1)
        return within if within < large else large + (symbol - large * (small + 1)) // small

    def blocks_of(self, spans: Iterable[tuple[int, int]]) -> Ranges:
        """Return the blocks that spans of bytes touch; the spans ascend."""
        return joined((self.block_at(start), self.block_at(end - 1) + 1) for start, end in spans if start < end)

    def bytes_of(self, blocks: Ranges) -> Ranges:
        """Return the spans of bytes that these blocks are."""
        return tuple((self.start(first), self.start(end)) for first, end in blocks)


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return ascending ranges, those that touch or overlap made one."""
    found: list[tuple[int, int]] = []
    for start, end in ranges:
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return tuple(found)


def encode(sections: Sequence[Section]) -> str:
    """Return the code's characters, not grouped; BadRepairCode if it is longer than any code may be."""
    bits: list[int] = list(_fixed(VERSION, 3))
    for number, section in enumerate(sections, 1):
        bits += _section(section)
        bits.append(int(number < len(sections)))
    return write_text(bits)


def decode(text: str) -> tuple[tuple[Section, ...], int]:
    """Return (sections, characters mended) of a code as typed; BadRepairCode says in one line what is wrong."""
    bits, mended = read_text(text)
    reader = _Bits(bits)
    if (version := reader.fixed(3)) != VERSION:
        raise BadRepairCode(f"a code of version {version}; this version reads {VERSION}: bring both sides up to date")
    sections = [_read_section(reader)]
    while reader.fixed(1):
        sections.append(_read_section(reader))
    if reader.left_over():
        raise BadRepairCode("more follows than belongs to it")
    return tuple(sections), mended


# --- writing -------------------------------------------------------------------------------------------------------


def _section(section: Section) -> Iterator[int]:
    yield from _number(section.sequence)
    yield from _fixed(section.digest, RELEASE_BITS)
    yield from (int(section.release), int(bool(section.whole)))
    if section.whole:
        yield from _set(section.whole)
    yield int(bool(section.pieces))
    if section.pieces:
        yield from _fixed(section.symbol_bytes // SYMBOL_UNIT, SYMBOL_BITS)
        yield from _set(joined((piece.content, piece.content + 1) for piece in section.pieces))
        for piece in section.pieces:
            yield from _fixed(piece.coded, CODED_BITS)
            yield from _number(piece.blocks)
            yield from _set(piece.missing)


def _fixed(value: int, width: int) -> Iterator[int]:
    """*width* bits, the highest first."""
    return (value >> shift & 1 for shift in range(width - 1, -1, -1))


def _number(value: int) -> Iterator[int]:
    """Groups of four bits, the lowest group first: whether another follows, and three bits of the value."""
    while True:
        value, low = value >> 3, value & 7
        yield from _fixed(low | (8 if value else 0), 4)
        if not value:
            return


def _gamma(value: int) -> Iterator[int]:
    """Elias gamma, *value* >= 1: as many zeros as bits follow the first, then the value."""
    width = value.bit_length()
    yield from _fixed(value, 2 * width - 1)


def _rice(value: int, parameter: int) -> Iterator[int]:
    """Golomb-Rice: value >> parameter ones, a zero, and the rest in *parameter* bits."""
    yield from (1 for _ in range(value >> parameter))
    yield 0
    yield from _fixed(value & ((1 << parameter) - 1), parameter)


def _set(ranges: Ranges) -> list[int]:
    """A set, in the shorter of two forms.

    0: how many ranges (gamma), Rice parameter (4); each: distance from the end of the one before (Rice; less one but
    for the first), length (gamma). 1: first member (number), span from there to the last (number), one bit for each.
    """
    gaps = [start - (ranges[at - 1][1] + 1 if at else 0) for at, (start, _) in enumerate(ranges)]
    parameter = min(range(1 << _RICE_BITS), key=lambda p: sum((gap >> p) + p for gap in gaps))
    runs = [0, *_gamma(len(ranges)), *_fixed(parameter, _RICE_BITS)]
    first, last = ranges[0][0], ranges[-1][1]
    for gap, (start, end) in zip(gaps, ranges, strict=True):
        runs += [*_rice(gap, parameter), *_gamma(end - start)]
    if last - first >= len(runs):
        return runs
    members = [0] * (last - first)
    for start, end in ranges:
        members[start - first : end - first] = [1] * (end - start)
    bitmap = [1, *_number(first), *_number(last - first), *members]
    return min(runs, bitmap, key=len)


# --- reading -------------------------------------------------------------------------------------------------------


class _Bits:
    """Reads bits; each read is bounded by what is there."""

    def __init__(self, bits: list[int]) -> None:
        self._bits = bits
        self._at = 0

    def fixed(self, width: int) -> int:
        """Read *width* bits."""
        if self._at + width > len(self._bits):
            raise BadRepairCode("it ends too early")
        value = 0
        for bit in self._bits[self._at : self._at + width]:
            value = value << 1 | bit
        self._at += width
        return value

    def number(self, most: int, what: str) -> int:
        """Read a number of at most *most*."""
        value = shift = 0
        while True:
            group = self.fixed(4)
            value |= (group & 7) << shift
            if value > most:
                raise BadRepairCode(f"{what} is more than {most}")
            if group < 8:
                return value
            shift += 3

    def gamma(self) -> int:
        """Read an Elias gamma code."""
        zeros = self._equal(0)
        return self.fixed(zeros + 1)

    def rice(self, parameter: int) -> int:
        """Read a Golomb-Rice code."""
        high = self._equal(1)
        self.fixed(1)
        return high << parameter | self.fixed(parameter)

    def _equal(self, bit: int) -> int:
        at = self._at
        while self._at < len(self._bits) and self._bits[self._at] == bit:
            self._at += 1
        return self._at - at

    def left_over(self) -> bool:
        """Whether anything but zeros follows."""
        return any(self._bits[self._at :])

    def members(self, most: int, what: str) -> Ranges:
        """Read a set whose members are below *most*."""
        ranges: list[tuple[int, int]] = []
        if self.fixed(1):
            first, span = self.number(most, what), self.number(most, what)
            flags = (self.fixed(1) for _ in range(span))
            ranges = list(joined((first + at, first + at + 1) for at, flag in enumerate(flags) if flag))
        else:
            count, parameter = self.gamma(), self.fixed(_RICE_BITS)
            end = -1
            for _ in range(count):
                start = end + 1 + self.rice(parameter)
                end = start + self.gamma()
                ranges.append((start, end))
                if end > most:
                    break
        if not ranges or ranges[-1][1] > most:
            raise BadRepairCode(f"{what} is out of bounds")
        return tuple(ranges)


def _read_section(bits: _Bits) -> Section:
    sequence = bits.number(NUMBER_MAX, "the sequence of a release")
    digest, release = bits.fixed(RELEASE_BITS), bool(bits.fixed(1))
    whole = bits.members(CONTENTS_MAX, "a content") if bits.fixed(1) else ()
    if not bits.fixed(1):
        return Section(sequence, digest, release, whole)
    symbol_bytes = bits.fixed(SYMBOL_BITS) * SYMBOL_UNIT or 1
    pieces = []
    for start, end in bits.members(CONTENTS_MAX, "a content"):
        for content in range(start, end):
            coded = bits.fixed(CODED_BITS)  # ends the loop if the set has more members than there are bits
            blocks = bits.number(BLOCKS_PER_OBJECT_MAX, "the number of blocks")
            pieces.append(Pieces(content, coded, blocks, bits.members(blocks, "a block")))
    return Section(sequence, digest, release, whole, symbol_bytes, tuple(pieces))
