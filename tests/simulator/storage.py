"""What a receiver keeps: interfaces that a crash test can implement with fsync in mind, and the memory they use here.

Written bytes are volatile until ``sync``; ``crash`` forgets what was not synced.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from protocol.ranges import RangeSet
from protocol.trust import Remembered


class PartialStore(Protocol):
    """Objects being reassembled, keyed by the digest of their coded bytes, never by session."""

    def ranges(self, coded_digest: str, size: int) -> RangeSet: ...
    def write(self, coded_digest: str, offset: int, data: bytes) -> None: ...
    def read(self, coded_digest: str) -> bytes: ...
    def discard(self, coded_digest: str) -> None: ...
    def sync(self) -> None: ...
    def crash(self) -> None: ...
    def damage(self, random: Random) -> bool: ...


class ContentStore(Protocol):
    """Finished content by digest, and the desired state of each collection."""

    def has(self, digest: str) -> bool: ...
    def put(self, digest: str, content: bytes) -> None: ...
    def apply_release(self, collection: str, envelope: bytes) -> None: ...


class RememberedStore(Protocol):
    """The numbers that make old things stay old."""

    def load(self) -> Remembered: ...
    def save(self, remembered: Remembered) -> None: ...


@dataclass
class _Partial:
    memory: bytearray
    have: RangeSet = field(default_factory=RangeSet)


class MemoryPartials:
    """PartialStore in memory."""

    def __init__(self) -> None:
        self._now: dict[str, _Partial] = {}
        self._synced: dict[str, _Partial] = {}

    def ranges(self, coded_digest: str, size: int) -> RangeSet:
        return self._now.setdefault(coded_digest, _Partial(bytearray(size))).have

    def write(self, coded_digest: str, offset: int, data: bytes) -> None:
        partial = self._now[coded_digest]
        assert offset + len(data) <= len(partial.memory), "bytes beyond the end of the object"
        partial.memory[offset : offset + len(data)] = data
        partial.have.add(offset, offset + len(data))

    def read(self, coded_digest: str) -> bytes:
        return bytes(self._now[coded_digest].memory)

    def discard(self, coded_digest: str) -> None:
        self._now.pop(coded_digest, None)
        self._synced.pop(coded_digest, None)

    def sync(self) -> None:
        self._synced = copy.deepcopy(self._now)

    def crash(self) -> None:
        self._now = copy.deepcopy(self._synced)

    def damage(self, random: Random) -> bool:
        """Flip a bit of some finished byte; whether there was one."""
        partials = [partial for partial in self._now.values() if partial.have.total]
        if not partials:
            return False
        partial = random.choice(partials)
        start, end = random.choice(list(partial.have))
        partial.memory[random.randrange(start, end)] ^= 1 << random.randrange(8)
        return True


class MemoryContents:
    """ContentStore in memory; refuses what the real registry would refuse."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.releases: dict[str, list[str]] = {}  # collection -> digests of envelopes, in the order applied

    def has(self, digest: str) -> bool:
        return digest in self.contents

    def put(self, digest: str, content: bytes) -> None:
        name, _, hexadecimal = digest.partition(":")
        assert hashlib.new(name, content).hexdigest() == hexadecimal, f"wrong bytes for {digest}"
        self.contents[digest] = content

    def apply_release(self, collection: str, envelope: bytes) -> None:
        self.releases.setdefault(collection, []).append("sha256:" + hashlib.sha256(envelope).hexdigest())

    def state(self) -> tuple[list[str], dict[str, list[str]]]:
        return sorted(self.contents), copy.deepcopy(self.releases)


class MemoryRemembered:
    """RememberedStore in memory."""

    def __init__(self) -> None:
        self._saved = Remembered()

    def load(self) -> Remembered:
        return copy.deepcopy(self._saved)

    def save(self, remembered: Remembered) -> None:
        self._saved = copy.deepcopy(remembered)
