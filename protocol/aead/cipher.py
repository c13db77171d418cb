"""What every implementation offers: a burst of symbols sealed or opened in place. For one thread each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from protocol.buffers import BlockBuffer
from protocol.wire import BurstView


class Sealer(ABC):
    """Seals symbols into datagrams whose headers are written. The caller never uses a packet number twice."""

    @abstractmethod
    def __init__(self, key: bytes) -> None: ...

    @abstractmethod
    def seal(self, view: BurstView, buffer: BlockBuffer, places: Sequence[slice]) -> None:
        """Seal the symbols at *places* of *buffer*, in that order, into the datagrams of *view* from the first on."""


class Opener(ABC):
    """Opens sealed symbols into block buffers."""

    @abstractmethod
    def __init__(self, key: bytes) -> None: ...

    @abstractmethod
    def open(
        self, view: BurstView, first: int, count: int, buffer: BlockBuffer | None, places: Sequence[slice]
    ) -> bool:
        """Open *count* datagrams of *view* from *first* into *places* of *buffer*; without one, only authenticate.

        Returns whether all are authentic. If not, what is at *places* is not to be used.
        """
