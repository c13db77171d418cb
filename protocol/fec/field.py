"""GF(2^8) by reedsolo's tables, and its one bulk operation: a constant times a symbol, added to another.

``bytes.translate`` with the 256-byte table of a constant multiplies a whole symbol at memory speed; xor of big
integers adds. Both are C loops inside CPython, so this is the fast path where no native library is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import reedsolo

POLYNOMIAL: Final = 0x11D

# Kept here: reedsolo's own functions compute in the field that was asked for last, which may be another one.
_LOG, _EXP, _ORDER = reedsolo.init_tables(POLYNOMIAL)  # _ORDER = 255


def inverse(value: int) -> int:
    """Return 1 / value; ZeroDivisionError for 0."""
    if value == 0:
        raise ZeroDivisionError("0 has no inverse in GF(2^8)")
    return int(_EXP[_ORDER - _LOG[value]])


def multiply(a: int, b: int) -> int:
    """Return a * b."""
    return int(_EXP[_LOG[a] + _LOG[b]]) if a and b else 0


TABLES: Final[list[bytes]] = [bytes(multiply(c, x) for x in range(256)) for c in range(256)]
"""TABLES[c].translate table: byte x maps to c * x."""


def cauchy_row(k: int, i: int) -> list[int]:
    """Return the coefficients of repair symbol *i* over the k source symbols."""
    return [inverse((k + i) ^ j) for j in range(k)]


def dot(coefficients: Sequence[int], symbols: Sequence[bytes]) -> int:
    """Return the sum of coefficient * symbol as a little-endian integer (xor is addition)."""
    total = 0
    for coefficient, symbol in zip(coefficients, symbols, strict=True):
        if coefficient:
            total ^= int.from_bytes(symbol.translate(TABLES[coefficient]), "little")
    return total


def cauchy_inverse(x: Sequence[int], y: Sequence[int]) -> list[bytes]:
    """Return the inverse of the square matrix ``1 / (x[i] ^ y[j])``; x and y all distinct. Row j, column i.

    In closed form (Schechter 1959), e * e steps: an attacker who chooses which datagrams are lost cannot make
    each codeword cost a Gaussian elimination. Products are sums of logarithms.
    """
    across = [[_LOG[a ^ b] for b in y] for a in x]
    by_x = [sum(row) - sum(_LOG[a ^ other] for other in x if other != a) for a, row in zip(x, across, strict=True)]
    by_y = [
        sum(row[j] for row in across) - sum(_LOG[b ^ other] for other in y if other != b) for j, b in enumerate(y)
    ]
    return [bytes(_EXP[(by_x[i] + by_y[j] - across[i][j]) % _ORDER] for i in range(len(x))) for j in range(len(y))]
