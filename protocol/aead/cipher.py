"""What every implementation offers: a burst of symbols sealed or opened in place. For one thread each."""

from __future__ import annotations

from abc import ABC, abstractmethod

from protocol.buffers import BlockBuffer, OrderedSymbols
from protocol.wire import BurstView

Symbols = BlockBuffer | OrderedSymbols


class Sealer(ABC):
    """Seals symbols into datagrams whose headers are written. The caller never uses a packet number twice."""

    @abstractmethod
    def __init__(self, key: bytes) -> None: ...

    @abstractmethod
    def seal(self, view: BurstView, count: int, symbols: Symbols, at: int) -> None:
        """Seal *count* of *symbols*, from number *at* on, into the first datagrams of *view*."""


class Opener(ABC):
    """Opens sealed symbols into block buffers."""

    @abstractmethod
    def __init__(self, key: bytes) -> None: ...

    @abstractmethod
    def open(self, view: BurstView, first: int, count: int, symbols: Symbols | None = None, at: int = 0) -> bool:
        """Open *count* datagrams of *view* from *first* into *symbols* from *at* on; without them, only authenticate.

        Returns whether all are authentic. If not, what is in those symbols is not to be used.
        """
