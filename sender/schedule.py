"""What goes on the wire next: releases, repairs, urgent objects, then the others by passes made and age. Pure.

Each pass over an object begins at another of its blocks, so that an outage at the same moment of every pass does not
take the same block each time.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from protocol.geometry import BlockShape, Geometry
from protocol.objects import Kind
from protocol.ranges import RangeSet
from protocol.repair_code import Cut
from sender.journal import QueuedObject


class Rank(IntEnum):
    """What goes before what; a higher one interrupts the pass of a lower one between two of its blocks."""

    BULK = 0
    URGENT = 1
    REPAIR = 2  # what somebody has carried across by hand
    RELEASE = 3


def rank_of(queued: QueuedObject) -> Rank:
    """Return the rank that the journal gives an object."""
    if queued.kind == Kind.RELEASE:
        return Rank.RELEASE
    if queued.spans:
        return Rank.REPAIR
    return Rank.URGENT if queued.urgent else Rank.BULK


PRESSING: Final = (Rank.REPAIR, Rank.URGENT)  # what takes back from a lane the blocks that it has read ahead
_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the multiples of it fall evenly, however many there are


def rotated(count: int, number: int) -> int:
    """Return where in 0 .. count - 1 the pass *number* (from 0) begins: at 0 first, then far from all before it."""
    return ((number * _GOLDEN) % (1 << 64) * count) >> 64


def blocks_touched(geometry: Geometry, spans: Iterable[tuple[int, int]]) -> list[int]:
    """Return the numbers of the blocks that spans of coded bytes touch, ascending."""
    cut = Cut(geometry.size, geometry.symbol_bytes, geometry.blocks)
    inside = ((max(0, start), min(end, geometry.size)) for start, end in RangeSet(spans))
    return [sbn for first, end in cut.blocks_of(inside) for sbn in range(first, end)]


@dataclass(slots=True)
class _Pass:
    """A pass that has begun: places from *place* on are to be handed out, and those in *returned*, lowest first.

    Places count the blocks in the order of this pass: from *first* on, to the end, and then from the beginning.
    """

    queued: QueuedObject
    geometry: Geometry
    rank: Rank
    first: int
    chosen: list[int] | None  # the only blocks that belong to it, ascending; None: all
    place: int = 0
    returned: list[int] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return self.geometry.blocks if self.chosen is None else len(self.chosen)

    @property
    def to_go(self) -> bool:
        return bool(self.returned) or self.place < self.blocks

    def take(self) -> BlockShape:
        place = self.returned.pop(0) if self.returned else self.place
        self.place = max(self.place, place + 1)
        at = (self.first + place) % self.blocks
        return self.geometry.block(at if self.chosen is None else self.chosen[at])

    def give_back(self, sbn: int) -> None:
        at = sbn if self.chosen is None else self.chosen.index(sbn)
        insort(self.returned, (at - self.first) % self.blocks)


class Schedule:
    """Orders passes over objects; *geometry_of* cuts a coded size (bytes) into blocks.

    Passes of one object are *spacing* seconds apart, so that one outage cannot swallow two of them. What has a rank
    below *floor* waits, also in the middle of a pass. What is in the queue when a role starts may have been begun
    before, so its passes begin at other blocks in another *turn*, which counts the starts: what no start lives long
    enough to reach from one block, another reaches. All else begins in order, as receivers hash in order.
    """

    def __init__(self, geometry_of: Callable[[int], Geometry], spacing: float, turn: int = 0) -> None:
        self.floor = Rank.BULK
        self.pressing = False  # whether anything of PRESSING is known, which may be on its way already
        self._geometry_of = geometry_of
        self._spacing = spacing
        self._turn = turn
        self._inherited: frozenset[int] | None = None  # ids of what the first queue had; None before it was taken
        self._waiting: dict[Rank, list[QueuedObject]] = {rank: [] for rank in reversed(Rank)}
        self._passes: dict[int, _Pass] = {}  # by object id, first begun first; until their last block has left
        self._begun: dict[int, int] = {}  # object id -> passes begun, in all sessions
        self._ready_at: dict[int, float] = {}  # object id -> when its next pass may begin; inf while one goes on

    def refresh(self, queue: Iterable[QueuedObject]) -> None:
        """Take the journal's queue as it is now: the objects with passes to go."""
        queue = list(queue)
        if self._inherited is None:
            self._inherited = frozenset(queued.id for queued in queue)
        keep = {queued.id for queued in queue} | self._passes.keys()
        self._begun = {each: begun for each, begun in self._begun.items() if each in keep}
        self._ready_at = {each: at for each, at in self._ready_at.items() if each in keep}
        for waiting in self._waiting.values():
            waiting.clear()
        self._take_in(queue)

    def hurry(self, urgent: Iterable[QueuedObject]) -> None:
        """Take the urgent objects and repairs with passes to go before all of the queue is looked at again."""
        urgent = list(urgent)
        known = {queued.id for queued in urgent}
        for rank, waiting in self._waiting.items():
            self._waiting[rank] = [queued for queued in waiting if queued.id not in known]
        self._take_in(urgent)

    def _take_in(self, queue: list[QueuedObject]) -> None:
        touched = set()
        for queued in queue:
            begun = self._begun.setdefault(queued.id, queued.passes_done)
            rank = rank_of(queued)
            going = self._passes.get(queued.id)
            if going is not None:
                going.rank = max(going.rank, rank)
            if begun < queued.passes_done + queued.passes_left:
                self._waiting[rank].append(queued)
                touched.add(rank)
        for rank in touched:
            self._waiting[rank].sort(key=lambda queued: (self._begun[queued.id], queued.id))
        self._note_pressing()

    def next_block(self, now: float) -> tuple[QueuedObject, BlockShape, Rank] | None:
        """Return the next object, its block and its rank; None when nothing may be sent at *now*."""
        for rank in self._waiting:
            if rank < self.floor:
                return None
            going = self._going(rank) or self._begin(rank, now)
            if going is not None:
                return going.queued, going.take(), rank
        return None

    def ready(self, rank: Rank, now: float) -> bool:
        """Whether a block of exactly this rank may be handed out at *now*."""
        if rank < self.floor:
            return False
        return self._going(rank) is not None or self._first_ready(rank, now) is not None

    def _note_pressing(self) -> None:
        going = any(each.rank in PRESSING for each in self._passes.values())
        self.pressing = going or any(self._waiting[rank] for rank in PRESSING)

    def _going(self, rank: Rank) -> _Pass | None:
        return next((each for each in self._passes.values() if each.rank is rank and each.to_go), None)

    def _first_ready(self, rank: Rank, now: float) -> int | None:
        waiting = self._waiting[rank]
        return next((at for at, each in enumerate(waiting) if self._ready_at.get(each.id, now) <= now), None)

    def _begin(self, rank: Rank, now: float) -> _Pass | None:
        at = self._first_ready(rank, now)
        if at is None:
            return None
        queued = self._waiting[rank].pop(at)
        geometry = self._geometry_of(queued.coded_size)
        chosen = blocks_touched(geometry, queued.spans) or None  # None: all
        turn = self._turn if queued.id in (self._inherited or ()) else 0
        first = rotated(geometry.blocks, turn + self._begun[queued.id]) if chosen is None else 0
        self._begun[queued.id] += 1
        self._ready_at[queued.id] = float("inf")
        self._passes[queued.id] = _Pass(queued, geometry, rank, first, chosen)
        return self._passes[queued.id]

    def blocks_of(self, queued: QueuedObject) -> int:
        """Return how many blocks the pass that has begun over *queued* has."""
        return self._passes[queued.id].blocks

    def take_back(self, queued: QueuedObject, sbn: int) -> None:
        """Hand out again, in its turn, a block that did not leave."""
        self._passes[queued.id].give_back(sbn)

    def upcoming(self, most: int) -> list[QueuedObject]:
        """Return the objects that follow those being read, at most *most*."""
        found: list[QueuedObject] = []
        for rank, waiting in self._waiting.items():
            if rank < self.floor or len(found) >= most:
                break
            found += [each.queued for each in self._passes.values() if each.rank is rank and each.to_go]
            found += waiting[:most]
        return found[:most]

    def pass_ended(self, queued: QueuedObject, now: float) -> None:
        """Note that the last symbol of a pass has left."""
        del self._passes[queued.id]
        self._ready_at[queued.id] = now + self._spacing
        self._note_pressing()

    def abandon(self, queued: QueuedObject) -> None:
        """Forget an object whose bytes cannot be read; the journal may give its id to another one."""
        self._passes.pop(queued.id, None)
        for rank, waiting in self._waiting.items():
            self._waiting[rank] = [other for other in waiting if other.id != queued.id]
        self._begun.pop(queued.id, None)
        self._ready_at.pop(queued.id, None)
        self._note_pressing()

    @property
    def empty(self) -> bool:
        """Whether every known pass has been handed out."""
        return not any(self._waiting.values()) and not any(each.to_go for each in self._passes.values())
