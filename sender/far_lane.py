"""The transmit role's side of a lane that a process of its own drives: hands it blocks, hears what became of them."""

from __future__ import annotations

from collections import deque
from typing import Final

import structlog

from protocol.objects import ObjectEntry
from runtime.channel import Child
from sender.blocks import BUFFERS, Order
from sender.config import SenderSettings
from sender.messages import (
    ENTRIES_MAX,
    OF_LANE,
    Announce,
    Begin,
    BlockTold,
    DropObject,
    EndSession,
    Figures,
    OfLane,
    Open,
    Recall,
    Send,
    SetRate,
)
from sender.session import Opening

MODULE: Final = "sender.lane_process"

log = structlog.get_logger()


class FarLane:
    """Used as a Lane is; :meth:`listen` takes the place of its turn. Nothing here waits for the process."""

    def __init__(self, settings: SenderSettings, number: int) -> None:
        self.number = number
        self.left: deque[Order] = deque()
        self.failed: deque[tuple[Order, str]] = deque()
        self.dropped: deque[Order] = deque()
        self.wire_bytes = self.datagrams = self.sealed = 0
        self._orders: dict[int, Order] = {}  # by serial number
        self._serial = 0
        self._recalled: set[int] = set()  # serial numbers of blocks that were asked back
        self._announced: list[int] = []
        self._child: Child[OfLane] = Child(f"lane {number}", MODULE, OF_LANE)
        log.info("lane_started", lane=number, pid=self._child.pid, to=str(settings.link.to.lane(number)))
        self._child.say(Begin.of(number, settings))

    def open(self, opening: Opening) -> None:
        """Go on in a new session; only while idle."""
        self._announced = []
        self._child.say(Open.of(opening))
        self.sealed = 0

    @property
    def has_room(self) -> bool:
        """Whether :meth:`start` may be called."""
        return len(self._orders) < BUFFERS

    def start(self, order: Order) -> None:
        """Have a block read and sent after those before it."""
        self._serial += 1
        self._orders[self._serial] = order
        self._child.say(
            Send(
                serial=self._serial,
                object_id=order.object_id,
                path=str(order.path),
                entry=order.entry.written(),
                sbn=order.shape.sbn,
                rank=order.rank,
            )
        )

    def drop(self, object_id: int) -> None:
        """Have the blocks of one object forgotten that are not on the wire yet."""
        self._child.say(DropObject(object_id=object_id))

    def recall(self, below: int) -> None:
        """Have the blocks of a rank lower than *below* forgotten that are not on the wire yet."""
        asked = {serial for serial, order in self._orders.items() if order.rank < below}
        if asked - self._recalled:
            self._recalled |= asked
            self._child.say(Recall(below=below))

    def set_rate(self, rate: float, now: float) -> None:
        """Have it send at *rate* bits per second from now on."""
        self._child.say(SetRate(rate=rate))

    def announce(self, entries: list[ObjectEntry]) -> None:
        """Have the objects of the next moments named."""
        entries = entries[:ENTRIES_MAX]
        tois = [entry.toi for entry in entries]
        if tois != self._announced:
            self._announced = tois
            self._child.say(Announce(entries=[entry.written() for entry in entries]))

    def end_session(self, now: float) -> None:
        """Have the end of the session announced from now on."""
        self._child.say(EndSession())

    @property
    def orders(self) -> list[Order]:
        """What has not left yet, in order."""
        return list(self._orders.values())

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to listen to."""
        return self._child.fileno()

    def listen(self) -> None:
        """Take what the process has said; UserError if it has ended."""
        for message in self._child.hear():
            match message:
                case BlockTold():
                    self._told(message)
                case Figures():
                    self.wire_bytes, self.datagrams, self.sealed = (
                        message.wire_bytes,
                        message.datagrams,
                        message.sealed,
                    )

    def _told(self, message: BlockTold) -> None:
        order = self._orders.pop(message.serial)
        self._recalled.discard(message.serial)
        if message.outcome == "left":
            self.left.append(order)
        elif message.outcome == "failed":
            self.failed.append((order, message.reason))
        else:
            self.dropped.append(order)

    def close(self) -> None:
        """End the process."""
        self._child.close()
