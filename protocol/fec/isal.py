"""The code by ISA-L: the fast implementation (x86-64, arm64).

ISA-L comes with pyeclib. Where its wheel carries the library as a file of its own, it is called in place on the
caller's buffers: no copies, the GIL released, and recovery as one product with the inverse matrix instead of by
syndromes. Elsewhere pyeclib's own interface encodes and the base class recovers. Both give the same bytes.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from typing import Final

import pyeclib
from pyeclib.ec_iface import ECDriver

from protocol.buffers import address_of, addresses
from protocol.errors import ProtocolMisuse
from protocol.fec import field
from protocol.fec.code import ErasureCode, decoding_rows
from protocol.limits import SYMBOL_ALIGNMENT

FRAGMENT_HEADER_BYTES: Final = 80  # liberasurecode's own, before each fragment; never on the wire
_TABLE_BYTES: Final = 32  # of ISA-L's expanded tables, for each coefficient


class _Library:
    """``ec_init_tables`` and ``ec_encode_data`` of isa-l/erasure_code.h."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._init = library.ec_init_tables
        self._init.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self._init.restype = None
        self._encode = library.ec_encode_data
        self._encode.argtypes = [ctypes.c_int] * 3 + [ctypes.c_void_p] * 3
        self._encode.restype = None

    def tables(self, rows: Sequence[bytes]) -> bytearray:
        """Expand a matrix (rows of equal length) for :meth:`product`."""
        width = len(rows[0])
        expanded = bytearray(_TABLE_BYTES * width * len(rows))
        self._init(width, len(rows), b"".join(rows), address_of(expanded))
        return expanded

    def product(self, size: int, tables: bytearray, sources: array[int], targets: array[int]) -> None:
        """Write matrix times source symbols of *size* bytes to the targets; both are addresses."""
        self._encode(
            size,
            len(sources),
            len(targets),
            address_of(tables),
            sources.buffer_info()[0],
            targets.buffer_info()[0],
        )


def _load() -> _Library | None:
    """Return the library if the wheel has it and it computes our code."""
    try:
        library = _Library(f"{pyeclib.__path__[0]}.libs/libisal-pyeclib.so.2")
    except (OSError, AttributeError):
        return None
    source, repair = bytearray(range(3 * 64)), bytearray(2 * 64)
    rows = [bytes(field.cauchy_row(3, i)) for i in range(2)]
    library.product(64, library.tables(rows), addresses(source, 64), addresses(repair, 64))
    symbols = [bytes(source[at : at + 64]) for at in range(0, len(source), 64)]
    expected = b"".join(field.dot(row, symbols).to_bytes(64, "little") for row in rows)
    return library if repair == expected else None


_library: Final = _load()


class IsalCode(ErasureCode):
    """Encodes and recovers by ISA-L."""

    def __init__(self, k: int, m: int) -> None:
        super().__init__(k, m)
        self._driver = ECDriver(k=k, m=m, ec_type="isa_l_rs_cauchy") if _library is None else None
        self._rows = [bytes(field.cauchy_row(k, i)) for i in range(m)]
        self._tables = _library.tables(self._rows) if _library is not None else bytearray()

    def encode(self, source: bytes) -> Sequence[bytes | memoryview]:
        """Return the m repair symbols; one call into ISA-L."""
        size = self._symbol_bytes(len(source))
        if self._driver is None:
            into = memoryview(bytearray(self.m * size))
            self.encode_into(memoryview(bytearray(source)), into)
            return [into[at : at + size] for at in range(0, len(into), size)]
        fragments = self._driver.encode(source)
        return [memoryview(fragment)[FRAGMENT_HEADER_BYTES:] for fragment in fragments[self.k :]]

    def encode_into(self, source: memoryview, into: memoryview) -> None:
        """As the base class; in place."""
        size = self._symbol_bytes(len(source))
        if len(into) != self.m * size:
            raise ProtocolMisuse(f"{len(into)} bytes are not room for m={self.m} symbols of {size}")
        if _library is None:
            super().encode_into(source, into)
        else:
            _library.product(size, self._tables, addresses(source, size), addresses(into, size))

    def recover(
        self,
        source: memoryview,
        symbol_bytes: int,
        lost: Sequence[int],
        repair: Mapping[int, bytes | memoryview],
    ) -> None:
        """As the base class; where the repair symbols are writable memory, as one product without copies."""
        used = sorted(repair)[: len(lost)]
        symbols = [symbol for i in used if isinstance(symbol := repair[i], memoryview) and not symbol.readonly]
        if _library is None or not lost or len(symbols) < len(lost):
            super().recover(source, symbol_bytes, lost, repair)
            return
        if len(source) != self.k * symbol_bytes or any(len(symbol) != symbol_bytes for symbol in symbols):
            raise ProtocolMisuse(f"symbols are not all of {symbol_bytes} bytes")
        rows = decoding_rows(self.k, used, lost, [self._rows[i] for i in used])
        places = addresses(source, symbol_bytes)
        targets = array("Q", [places[j] for j in lost])
        here = set(range(self.k)).difference(lost)
        sources = array("Q", [places[j] for j in sorted(here)]) + array("Q", map(address_of, symbols))
        _library.product(symbol_bytes, _library.tables(rows), sources, targets)

    def _symbol_bytes(self, source_bytes: int) -> int:
        if not source_bytes or source_bytes % (self.k * SYMBOL_ALIGNMENT):
            raise ProtocolMisuse(f"{source_bytes} bytes are not k={self.k} symbols of a multiple of 16 bytes")
        return source_bytes // self.k
