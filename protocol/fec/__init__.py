"""Systematic Reed-Solomon over GF(2^8), Cauchy form, polynomial 0x11d (WIRE_FORMAT.md §5; RFC 5510 words).

Repair symbol i of a codeword is the sum over source symbols j of ``1 / ((k + i) xor j)`` times symbol j,
k + m <= 255. The code is defined by this mathematics; ``isal`` (pyeclib's ISA-L) and ``portable`` (reedsolo's
field, no C) must agree to the byte. Lost symbols are recovered from
syndromes (``code``), or by one product with the inverse matrix where ISA-L can be called in place.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from protocol.fec.code import ErasureCode
from protocol.fec.portable import PortableCode
from protocol.limits import CODES_MAX

__all__ = ["BACKENDS", "ErasureCode", "PortableCode", "erasure_code"]

BACKENDS: Final[dict[str, type[ErasureCode]]] = {"portable": PortableCode}

try:
    from protocol.fec.isal import IsalCode
except ImportError:  # no pyeclib wheel for this platform: the portable code serves
    pass
else:
    BACKENDS["isal"] = IsalCode

_cache: OrderedDict[tuple[str, int, int], ErasureCode] = OrderedDict()


def erasure_code(k: int, m: int, backend: str | None = None) -> ErasureCode:
    """Return the (cached) code with *k* source and *m* repair symbols; fastest backend unless one is named."""
    name = backend or ("isal" if "isal" in BACKENDS else "portable")
    code = _cache.get((name, k, m))
    if code is None:
        code = _cache[name, k, m] = BACKENDS[name](k, m)
        if len(_cache) > CODES_MAX:
            _cache.popitem(last=False)
    return code
