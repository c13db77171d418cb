"""What the assembler says to the capture loop, and the blocks that it is given. Plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from protocol.drops import Drop
from protocol.geometry import BlockShape
from protocol.incoming import IncomingObject
from receiver.intake import Accepted
from receiver.journal import Partial


class Block(Protocol):
    """A source block that a lane has finished with: an IncomingBlock, or one from another process."""

    @property
    def owner(self) -> IncomingObject:
        """Its object."""

    @property
    def shape(self) -> BlockShape:
        """Its place."""

    @property
    def complete(self) -> bool:
        """Whether all of it can be restored."""

    def restore(self) -> None:
        """Recover what was lost, once, before finished."""

    def finished(self) -> Iterator[tuple[int, memoryview]]:
        """Yield (offset into the object, bytes)."""


@dataclass(frozen=True, slots=True)
class BlockWritten:
    """A block has been dealt with; its buffer may be given back. *ranges* are its bytes now on disk."""

    block: Block
    ranges: tuple[tuple[int, int], ...]
    whole: bool = False  # the block is all of its object, which has gone to the intake
    no_room: bool = False  # it had to be thrown away: the disk has no room for it


@dataclass(frozen=True, slots=True)
class ObjectTaken:
    """An object is in the spool (or, for a release, in the journal)."""

    owner: IncomingObject
    accepted: Accepted


@dataclass(frozen=True, slots=True)
class ObjectRefused:
    """An object is whole but wrong; its bytes are gone."""

    owner: IncomingObject
    drop: Drop
    detail: str


@dataclass(frozen=True, slots=True)
class PartialForgotten:
    """The finished bytes of an object were given up, for the named bound."""

    partial: Partial
    reason: str


Result = BlockWritten | ObjectTaken | ObjectRefused | PartialForgotten
