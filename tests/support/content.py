"""Bytes for tests, the same for the same seed, and their digests."""

from __future__ import annotations

import hashlib
import random
from typing import Final

_PART: Final = 64_000_000  # bytes; randbytes makes 268 MB at most at once


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Return *size* bytes that do not compress."""
    source = random.Random(seed)
    return b"".join(source.randbytes(min(_PART, size - at)) for at in range(0, size, _PART))


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """Return ``algorithm:hex``."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
