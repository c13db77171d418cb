"""What every implementation of the code offers, and recovery by syndromes on top of any encoder (DESIGN §5.1).

Recovery: with zeros in place of lost source symbols, encode again; the result xor the received repair symbols
are the syndromes, which equal the lost symbols under a small Cauchy matrix; invert that and multiply. No loss
costs nothing, e losses cost encoding the about e repair symbols that are used, and e*e symbol products.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.errors import ProtocolMisuse
from protocol.fec import field
from protocol.limits import CODEWORD_SYMBOLS_MAX, INVERSE_CACHE_BYTES_MAX


class InverseCache:
    """Inverted matrices of every code by (k, used repair rows, lost places), the least recent ones given up first."""

    def __init__(self, bytes_max: int = INVERSE_CACHE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._known: OrderedDict[tuple[int, tuple[int, ...], tuple[int, ...]], list[bytes]] = OrderedDict()

    def get(self, k: int, used: tuple[int, ...], lost: tuple[int, ...]) -> list[bytes]:
        """Return the rows that turn syndromes of the *used* repair symbols into the *lost* source symbols."""
        key = (k, used, lost)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = field.cauchy_inverse([k + i for i in used], lost)
            self._bytes += len(used) * len(lost)
            while self._bytes > self._bytes_max and len(self._known) > 1:
                _, given_up = self._known.popitem(last=False)
                self._bytes -= len(given_up) ** 2
        else:
            self._known.move_to_end(key)
        return found


_inverses: Final = InverseCache()


def decoding_rows(k: int, used: Sequence[int], lost: Sequence[int], repair_rows: Sequence[bytes]) -> list[bytes]:
    """Return for each lost source symbol its coefficients over the source symbols left, then the used repair symbols.

    *repair_rows* are the k coefficients of each used repair symbol. Each row has k bytes.
    """
    shortened = []
    for row in repair_rows:
        left = bytearray(row)
        for j in reversed(lost):
            del left[j]
        shortened.append(left)
    rows = []
    for inverse in _inverses.get(k, tuple(used), tuple(lost)):
        total = 0
        for coefficient, others in zip(inverse, shortened, strict=True):
            total ^= int.from_bytes(others.translate(field.TABLES[coefficient]), "little")
        rows.append(total.to_bytes(k - len(lost), "little") + bytes(inverse))
    return rows


class ErasureCode(ABC):
    """The systematic Cauchy code with *k* source and *m* repair symbols; any k of the k + m restore all."""

    def __init__(self, k: int, m: int) -> None:
        if k < 1 or m < 1 or k + m > CODEWORD_SYMBOLS_MAX:
            raise ProtocolMisuse(f"no code with k={k}, m={m}: need k >= 1, m >= 1, k + m <= 255")
        self.k = k
        self.m = m
        self._shorter: dict[int, ErasureCode] = {}

    @abstractmethod
    def encode(self, source: bytes) -> Sequence[bytes | memoryview]:
        """Return the m repair symbols of *source*, k symbols of equal size (a multiple of 16 bytes) end to end."""

    def encode_into(self, source: memoryview, into: memoryview) -> None:
        """Write the m repair symbols of *source* (writable memory, not changed) end to end to *into*."""
        at = 0
        for symbol in self.encode(bytes(source)):
            into[at : at + len(symbol)] = symbol
            at += len(symbol)

    def recover(
        self,
        source: memoryview,
        symbol_bytes: int,
        lost: Sequence[int],
        repair: Mapping[int, bytes | memoryview],
    ) -> None:
        """Restore the *lost* source symbols (ascending indices) of *source* in place.

        *source* is writable, k * symbol_bytes long; what the lost places hold is ignored. *repair* maps repair
        index to received repair symbol and must hold at least ``len(lost)``; the lowest indices are used.
        """
        if not lost:
            return
        if len(repair) < len(lost):
            raise ProtocolMisuse(f"{len(lost)} symbols lost, {len(repair)} repair symbols")
        used = sorted(repair)[: len(lost)]
        zeros = bytes(symbol_bytes)
        for j in lost:
            source[j * symbol_bytes : (j + 1) * symbol_bytes] = zeros
        again = self._with_rows(used[-1] + 1).encode(bytes(source))
        syndromes = [
            (int.from_bytes(again[i], "little") ^ int.from_bytes(repair[i], "little")).to_bytes(
                symbol_bytes, "little"
            )
            for i in used
        ]
        for j, row in zip(lost, _inverses.get(self.k, tuple(used), tuple(lost)), strict=True):
            symbol = field.dot(row, syndromes).to_bytes(symbol_bytes, "little")
            source[j * symbol_bytes : (j + 1) * symbol_bytes] = symbol

    def _with_rows(self, count: int) -> ErasureCode:
        """Return a code with this one's first *count* repair symbols, or some more: a row depends on k alone."""
        m = 1 << (count - 1).bit_length()  # powers of two: few codes to keep
        if m >= self.m:
            return self
        if m not in self._shorter:
            self._shorter[m] = type(self)(self.k, m)
        return self._shorter[m]
