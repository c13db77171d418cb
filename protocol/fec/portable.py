"""The code without native libraries: the second implementation, and the fallback where pyeclib has no wheel."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.errors import ProtocolMisuse
from protocol.fec import field
from protocol.fec.code import ErasureCode


class PortableCode(ErasureCode):
    """Encodes by table lookups over whole symbols (``bytes.translate``) and big-integer xor."""

    def __init__(self, k: int, m: int) -> None:
        super().__init__(k, m)
        self._rows = [field.cauchy_row(k, i) for i in range(m)]

    def encode(self, source: bytes) -> Sequence[bytes | memoryview]:
        """Return the m repair symbols of k symbols end to end; about k * m symbol products."""
        size, rest = divmod(len(source), self.k)
        if rest or not size:
            raise ProtocolMisuse(f"{len(source)} bytes are not k={self.k} symbols of equal size")
        symbols = [source[j * size : (j + 1) * size] for j in range(self.k)]
        return [field.dot(row, symbols).to_bytes(size, "little") for row in self._rows]
