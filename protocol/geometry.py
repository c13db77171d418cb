"""How an object's bytes become source blocks, codewords and symbols (WIRE_FORMAT.md §4; RFC 5052 §9.1).

An object of *n* symbols is cut into as few blocks as its geometry allows, all equal but for one symbol. A block
of *s* symbols is D' = ceil(s / k) codewords of k' = ceil(s / D') consecutive symbols; the symbols that the last
codewords lack are zeros that are never sent. Row r, column c of a block is symbol c * k' + r of that block.
Rows k' .. k' + m - 1 are repair symbols.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from protocol.drops import Drop
from protocol.errors import WireError
from protocol.limits import (
    BLOCK_BYTES_MAX,
    BLOCKS_PER_OBJECT_MAX,
    CODEWORD_SYMBOLS_MAX,
    INTERLEAVE_MAX,
    OBJECT_BYTES_MAX,
)

REPAIR_SYMBOLS_MIN: Final = 4  # in a block: even one symbol is sent five times


@dataclass(frozen=True, slots=True)
class BlockShape:
    """One source block: where it lies in the object and what its codewords are. Sizes in symbols, bytes as named."""

    sbn: int
    offset: int  # bytes into the object
    size: int  # bytes of content; the rest of the last symbol is zero padding
    symbols: int  # s: source symbols sent
    depth: int  # D': codewords
    k: int  # k': source symbols of each codeword
    m: int  # repair symbols of each codeword

    @property
    def rows(self) -> int:
        """Rows on the wire, source and repair."""
        return self.k + self.m

    @property
    def datagrams(self) -> int:
        """Datagrams of one pass over this block."""
        return self.symbols + self.depth * self.m

    def source_columns(self, row: int) -> int:
        """How many columns of source *row* are sent; the later ones are virtual zeros."""
        full, rest = divmod(self.symbols, self.k)
        return full + (1 if row < rest else 0)

    def sends(self, row: int, column: int) -> bool:
        """Whether the block has a symbol at this position on the wire."""
        return column < (self.source_columns(row) if row < self.k else self.depth if row < self.rows else 0)

    def codeword_symbols(self, column: int) -> int:
        """How many source symbols of codeword *column* are sent (k', or fewer for the last ones)."""
        return max(0, min(self.k, self.symbols - column * self.k))


@dataclass(frozen=True)
class Geometry:
    """The FEC object transmission information of one object. Construct through :func:`checked` for wire input."""

    size: int  # bytes of the coded object, > 0
    symbol_bytes: int
    k: int  # most source symbols in a codeword
    m: int  # repair symbols in each codeword
    depth: int  # most codewords in a block

    @cached_property
    def symbols(self) -> int:
        """n: source symbols of the object."""
        return -(-self.size // self.symbol_bytes)

    @cached_property
    def blocks(self) -> int:
        """Number of source blocks."""
        return -(-self.symbols // (self.k * self.depth))

    def block(self, sbn: int) -> BlockShape:
        """Return the shape of block *sbn* (0 <= sbn < blocks)."""
        if not 0 <= sbn < self.blocks:
            raise IndexError(f"block {sbn} of {self.blocks}")
        small, large_blocks = divmod(self.symbols, self.blocks)
        symbols = small + (1 if sbn < large_blocks else 0)
        first = sbn * small + min(sbn, large_blocks)
        offset = first * self.symbol_bytes
        depth = -(-symbols // self.k)
        return BlockShape(
            sbn=sbn,
            offset=offset,
            size=min(symbols * self.symbol_bytes, self.size - offset),
            symbols=symbols,
            depth=depth,
            k=-(-symbols // depth),
            m=self.m,
        )

    def datagrams(self) -> int:
        """Datagrams of one pass over the whole object."""
        small, large_blocks = divmod(self.symbols, self.blocks)
        total = 0
        if large_blocks:
            total += large_blocks * self.block(0).datagrams
        if small:
            total += (self.blocks - large_blocks) * self.block(self.blocks - 1).datagrams
        return total


def checked(size: int, symbol_bytes: int, k: int, m: int, depth: int) -> Geometry:
    """Return the geometry if it keeps every rule of WIRE_FORMAT.md §4; raise WireError(BAD_GEOMETRY) otherwise."""
    if size < 1:  # nothing to send: empty content travels as a member of a batch
        raise WireError(Drop.BAD_GEOMETRY, f"coded size {size}")
    if size > OBJECT_BYTES_MAX:
        raise WireError(Drop.OBJECT_TOO_LARGE, f"coded size {size}")
    if k < 1 or m < 1 or k + m > CODEWORD_SYMBOLS_MAX or not 1 <= depth <= INTERLEAVE_MAX:
        raise WireError(Drop.BAD_GEOMETRY, f"k={k} m={m} depth={depth}")
    if (k + m) * depth * symbol_bytes > BLOCK_BYTES_MAX:
        raise WireError(Drop.BAD_GEOMETRY, f"block of {(k + m) * depth * symbol_bytes} bytes")
    geometry = Geometry(size, symbol_bytes, k, m, depth)
    if geometry.blocks > BLOCKS_PER_OBJECT_MAX:
        raise WireError(Drop.BAD_GEOMETRY, f"{geometry.blocks} blocks")
    return geometry


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """What the sender chose for its link; geometries of all its objects follow from it.

    A full block survives the loss of *outage* consecutive datagrams. Smaller blocks get as many repair symbols as
    that takes, up to one for each source symbol; below *outage* datagrams in all, only another pass can help.
    """

    symbol_bytes: int
    k: int = 200
    m: int = 20
    depth: int = 44
    outage: int = 880

    def geometry(self, size: int) -> Geometry:
        """Return the geometry for an object of *size* coded bytes."""
        symbols = -(-size // self.symbol_bytes)
        blocks = -(-symbols // (self.k * self.depth))
        share = -(-symbols // blocks)  # source symbols of the largest block
        repair = max(REPAIR_SYMBOLS_MIN, -(-share * self.m // self.k), min(self.outage, share))
        usual = -(-share // self.k)  # codewords of the profile's own k and m
        if usual * self.m >= repair:
            return checked(size, self.symbol_bytes, min(self.k, share), self.m, usual)
        k = max(1, min(self.k, share, CODEWORD_SYMBOLS_MAX * share // (share + repair)))
        depth = -(-share // k)
        room = BLOCK_BYTES_MAX // self.symbol_bytes // depth - k  # rounding up k and depth made the block larger
        m = max(1, min(-(-k * repair // share), CODEWORD_SYMBOLS_MAX - k, room))
        return checked(size, self.symbol_bytes, k, m, depth)


def profile_for_link(
    symbol_bytes: int, datagrams_per_second: float, repair_ratio: float, outage_seconds: float
) -> LinkProfile:
    """Return the profile with *repair_ratio* (repair per source symbol) that survives *outage_seconds* if it can.

    A burst of B lost datagrams costs each of D codewords ceil(B / D) symbols, so D >= B / m (DESIGN §5.2); D is
    bounded by the memory of a block. What random loss takes in the same block comes off that.
    """
    k = max(1, min(200, int(CODEWORD_SYMBOLS_MAX / (1 + repair_ratio))))
    m = max(1, min(CODEWORD_SYMBOLS_MAX - k, round(k * repair_ratio)))
    wanted = math.ceil(datagrams_per_second * outage_seconds)
    bound = min(INTERLEAVE_MAX, BLOCK_BYTES_MAX // ((k + m) * symbol_bytes))
    depth = max(1, min(max(-(-wanted // m), 16), bound))
    return LinkProfile(symbol_bytes, k, m, depth, outage=min(wanted, depth * m))
