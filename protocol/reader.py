"""Bounded reading of little-endian fields from received bytes: too short is a WireError, never an exception."""

from __future__ import annotations

from protocol.drops import Drop
from protocol.errors import WireError


class Reader:
    """A cursor over *data*; every read that does not fit raises WireError with *drop*."""

    def __init__(self, data: bytes | memoryview, drop: Drop) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._drop = drop

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes."""
        if count < 0 or count > self.left:
            raise WireError(self._drop, f"needs {count} bytes at offset {self._at}, has {self.left}")
        self._at += count
        return bytes(self._data[self._at - count : self._at])

    def uint(self, width: int) -> int:
        """Return the next little-endian unsigned integer of *width* bytes."""
        return int.from_bytes(self.take(width), "little")

    def expect(self, constant: bytes) -> None:
        """Read *constant* or fail."""
        found = self.take(len(constant))
        if found != constant:
            raise WireError(self._drop, f"expected {constant!r}, found {found!r}")

    def end(self) -> None:
        """Fail if anything is left."""
        if self.left:
            raise WireError(self._drop, f"{self.left} bytes too many")

    def padding(self) -> None:
        """Fail if what is left is not all zeros."""
        if bytes(self._data[self._at :]).strip(b"\0"):
            raise WireError(self._drop, "padding is not zero")
