"""Hands the blocks of passes to the lanes and puts together what becomes of them. No journal, no clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.objects import Kind
from sender.blocks import Order
from sender.far_lane import FarLane
from sender.journal import QueuedObject
from sender.lane import Lane
from sender.schedule import PRESSING, Rank, Schedule
from sender.session import Session

UPCOMING_MIN: Final = 8


@dataclass(slots=True)
class _Pass:
    """A pass of which blocks are on their way."""

    queued: QueuedObject
    blocks_left: int


@dataclass(slots=True)
class Outcome:
    """What the lanes have told since the last look."""

    passes: list[QueuedObject] = field(default_factory=list)  # whose last block has left
    unreadable: list[tuple[QueuedObject, str]] = field(default_factory=list)  # and why


class Dispatch:
    """Blocks go to the lane that has the fewest, in the schedule's order; the blocks of a pass may go to all of them.

    *lookahead_bytes*: how much of what follows is announced.
    """

    def __init__(self, schedule: Schedule, lookahead_bytes: float) -> None:
        self.content_bytes = self.content_datagrams = 0  # of blobs and batches that have left
        self._schedule = schedule
        self._lookahead_bytes = lookahead_bytes
        self._lanes: Sequence[Lane | FarLane] = ()
        self._session: Session | None = None
        self._passes: dict[int, _Pass] = {}  # by object id
        self._orders: dict[Order, QueuedObject] = {}  # what the lanes have

    def open(self, session: Session, lanes: Sequence[Lane | FarLane]) -> None:
        """Go on in a session that all *lanes* have opened; no block may be on its way."""
        self._session, self._lanes = session, lanes
        self.announce()

    @property
    def busy(self) -> bool:
        """Whether a lane has a block."""
        return bool(self._orders)

    def feed(self, now: float) -> None:
        """Hand out blocks as long as a lane has room for one."""
        while True:
            lane = self._lane_for_next(now)
            step = self._schedule.next_block(now) if lane is not None else None
            if lane is None or step is None or self._session is None:
                return
            queued, shape, rank = step
            entry = self._session.entry_of(queued)
            if queued.id not in self._passes:
                self._passes[queued.id] = _Pass(queued, self._schedule.blocks_of(queued))
            order = Order(queued.id, queued.path, entry, shape, rank)
            self._orders[order] = queued
            lane.start(order)
            self.announce()

    def _lane_for_next(self, now: float) -> Lane | FarLane | None:
        """Return the lane with the fewest blocks. One that is to take what presses gives back those read ahead."""
        if self._schedule.pressing:
            rank = next((rank for rank in PRESSING if self._schedule.ready(rank, now)), None)
            if rank is not None:
                lane = min(self._lanes, key=lambda lane: _in_front(lane, rank))
                lane.recall(rank)
                return lane if lane.has_room else None
        free = [lane for lane in self._lanes if lane.has_room]
        if len(free) > 1:
            return min(free, key=lambda lane: len(lane.orders))
        return free[0] if free else None

    def hold(self, floor: Rank) -> None:
        """Send nothing of a rank lower than *floor* but the blocks on the wire, until told otherwise."""
        self._schedule.floor = floor
        for lane in self._lanes:
            lane.recall(floor)
        self.announce()

    def carries(self, rank: Rank) -> bool:
        """Whether a lane has a block of this rank."""
        return any(order.rank == rank for order in self._orders)

    def announce(self) -> None:
        """Name the objects of the next moments: an entry has to be on the wire well before its object."""
        session = self._session
        if session is None:
            return
        most = session.encoder.max_upcoming
        ahead: dict[int, QueuedObject] = {}  # each once, in order
        size = 0
        for queued in (*self._orders.values(), *self._schedule.upcoming(most)):
            if len(ahead) >= most or (len(ahead) >= UPCOMING_MIN and size > self._lookahead_bytes):
                break
            if queued.id not in ahead:
                ahead[queued.id] = queued
                size += queued.coded_size
        entries = [session.entry_of(queued) for queued in ahead.values()]
        for lane in self._lanes:
            lane.announce(entries)

    def collect(self, now: float) -> Outcome | None:
        """Return what has become of blocks, None if nothing was told."""
        outcome: Outcome | None = None
        for lane in self._lanes:
            if not (lane.left or lane.failed or lane.dropped):
                continue
            outcome = outcome or Outcome()
            while lane.left:
                self._left(lane.left.popleft(), now, outcome)
            while lane.failed:
                self._failed(*lane.failed.popleft(), outcome)
            while lane.dropped:
                self._dropped(lane.dropped.popleft())
        return outcome

    def _left(self, order: Order, now: float, outcome: Outcome) -> None:
        queued = self._orders.pop(order)
        if queued.kind != Kind.RELEASE:
            self.content_bytes += order.shape.size
            self.content_datagrams += order.shape.datagrams
        passing = self._pass_of(queued)
        if passing is None:
            return
        passing.blocks_left -= 1
        if passing.blocks_left == 0:
            del self._passes[queued.id]
            self._schedule.pass_ended(queued, now)
            outcome.passes.append(queued)

    def _dropped(self, order: Order) -> None:
        queued = self._orders.pop(order)
        if self._pass_of(queued) is not None:
            self._schedule.take_back(queued, order.shape.sbn)

    def _failed(self, order: Order, reason: str, outcome: Outcome) -> None:
        queued = self._orders.pop(order)
        if self._pass_of(queued) is None:
            return  # told of another block
        del self._passes[queued.id]
        self._schedule.abandon(queued)
        outcome.unreadable.append((queued, reason))
        for lane in self._lanes:
            lane.drop(queued.id)

    def _pass_of(self, queued: QueuedObject) -> _Pass | None:
        """Return the pass a block belongs to; None if it was given up, whoever has the object's id now."""
        passing = self._passes.get(queued.id)
        return passing if passing is not None and passing.queued is queued else None

    def current(self) -> tuple[QueuedObject, Order] | None:
        """Return what is on the wire, or next."""
        order = next(iter(self._orders), None)
        return (self._orders[order], order) if order is not None else None


def _in_front(lane: Lane | FarLane, rank: Rank) -> tuple[int, int]:
    """How many blocks one of *rank* cannot overtake on a lane, and how many there are."""
    orders = lane.orders
    return sum(order.rank >= rank for order in orders), len(orders)
