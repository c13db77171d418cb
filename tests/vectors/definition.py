"""Sections 4 and 5 of WIRE_FORMAT.md written out the slow way, sharing nothing with the product."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def multiply(a: int, b: int) -> int:
    """Product in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1, by shifting."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11D
        b >>= 1
    return product


def reciprocal(a: int) -> int:
    """a to the power 254."""
    result = 1
    for _ in range(254):
        result = multiply(result, a)
    return result


RECIPROCALS = [0, *(reciprocal(a) for a in range(1, 256))]


TABLES = [bytes(multiply(factor, x) for x in range(256)) for factor in range(256)]


def repair_symbols(k: int, m: int, source: bytes) -> list[bytes]:
    size = len(source) // k
    rows = []
    for i in range(m):
        row = bytearray(size)
        for j in range(k):
            part = source[j * size : (j + 1) * size].translate(TABLES[RECIPROCALS[(k + i) ^ j]])
            row = bytearray(a ^ b for a, b in zip(row, part, strict=True))
        rows.append(bytes(row))
    return rows


def blocks(size: int, symbol_bytes: int, k: int, depth: int) -> list[tuple[int, int, int, int, int]]:
    """Return (first symbol, symbols, D', k', bytes) of each block."""
    n = (size + symbol_bytes - 1) // symbol_bytes
    count = (n + k * depth - 1) // (k * depth)
    found, first = [], 0
    for sbn in range(count):
        symbols = n // count + (1 if sbn < n % count else 0)
        columns = (symbols + k - 1) // k
        rows = (symbols + columns - 1) // columns
        start = first * symbol_bytes
        found.append((first, symbols, columns, rows, min(size, start + symbols * symbol_bytes) - start))
        first += symbols
    return found


def order(symbols: int, columns: int, rows: int, m: int) -> Iterator[tuple[int, int]]:
    """Yield (row, column) in wire order; a source position is sent if its symbol exists."""
    for row in range(rows + m):
        for column in range(columns):
            if row >= rows or column * rows + row < symbols:
                yield row, column


def geometry_table(size: int, symbol_bytes: int, k: int, depth: int) -> bytes:
    records = (
        struct.pack("<IQIHHQ", sbn, first * symbol_bytes, symbols, columns, rows, length)
        for sbn, (first, symbols, columns, rows, length) in enumerate(blocks(size, symbol_bytes, k, depth))
    )
    return b"".join(records)


def pattern(size: int) -> bytes:
    """Test content: byte i is (167 i + 13 + floor(i / 256)) mod 256."""
    return bytes((167 * i + 13 + i // 256) & 0xFF for i in range(size))
