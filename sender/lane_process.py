"""A further lane as a process of the transmit role's: ``python -m sender.lane_process DESCRIPTOR``.

Holds the session's key, which comes over the descriptor, and never the signing key. Ends when the role does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final, NoReturn

from protocol.objects import parse_entry
from runtime import logs
from runtime.channel import Channel, child_main
from runtime.signals import StopFlag
from sender.blocks import Order
from sender.lane import Lane
from sender.messages import (
    FOR_LANE,
    Announce,
    Begin,
    BlockTold,
    DropObject,
    EndSession,
    Figures,
    ForLane,
    Open,
    Recall,
    Send,
    SetRate,
)

LISTEN_S: Final = 0.002  # between looks at the channel, while sending
IDLE_S: Final = 0.01
FIGURES_S: Final = 0.2


class LaneProcess:
    """The loop's state."""

    def __init__(self, channel: Channel[ForLane], begin: Begin) -> None:
        self._channel = channel
        self._stop = StopFlag()  # never set by a signal here: the role decides
        self._lane = Lane(begin.settings(), begin.lane, self._listen)
        self._serials: dict[Order, int] = {}
        self._due_listen = self._due_figures = 0.0

    def run(self) -> NoReturn:
        """Send until the role has gone (ChannelEnded)."""
        while True:
            now = time.monotonic()
            if now >= self._due_listen:
                self._due_listen = now + LISTEN_S
                self._listen()
            if now >= self._due_figures:
                self._due_figures = now + FIGURES_S
                self._tell_figures()
            sent = self._lane.turn(now, self._stop)
            self._tell()
            if not sent:
                wait = min(IDLE_S, self._lane.next_time() - now)
                self._stop.wait(max(0.0, wait), (self._channel.fileno(),))
                self._due_listen = now

    def _listen(self) -> None:
        lane = self._lane
        for message in self._channel.receive():
            match message:
                case Send():
                    entry = parse_entry(*message.entry)
                    shape = entry.geometry.block(message.sbn)
                    order = Order(message.object_id, Path(message.path), entry, shape, message.rank)
                    self._serials[order] = message.serial
                    lane.start(order)
                case Announce():
                    lane.announce([parse_entry(*entry) for entry in message.entries])
                case Open():
                    lane.open(message.opening())
                case DropObject():
                    lane.drop(message.object_id)
                case Recall():
                    lane.recall(message.below)
                case SetRate():
                    lane.set_rate(message.rate, time.monotonic())
                case EndSession():
                    lane.end_session(time.monotonic())
                case Begin():
                    raise ValueError("a second beginning")

    def _tell(self) -> None:
        lane = self._lane
        while lane.left:
            self._channel.send(BlockTold(serial=self._serials.pop(lane.left.popleft()), outcome="left"))
        while lane.failed:
            order, reason = lane.failed.popleft()
            self._channel.send(BlockTold(serial=self._serials.pop(order), outcome="failed", reason=reason))
        while lane.dropped:
            self._channel.send(BlockTold(serial=self._serials.pop(lane.dropped.popleft()), outcome="dropped"))

    def _tell_figures(self) -> None:
        lane = self._lane
        if not self._channel.clogged:
            self._channel.send(
                Figures(
                    wire_bytes=lane.wire_bytes,
                    datagrams=lane.datagrams,
                    sealed=lane.sealed,
                )
            )

    def close(self) -> None:
        """Free what the lane holds."""
        self._lane.close()


def drive(channel: Channel[ForLane], begin: ForLane, descriptors: list[int]) -> NoReturn:
    """Drive the lane that *begin* names until the role ends."""
    if not isinstance(begin, Begin):
        raise ValueError(f"{begin.kind} before the beginning")
    logs.configure(begin.log_format, begin.log_level)
    process = LaneProcess(channel, begin)
    try:
        process.run()
    finally:
        process.close()


if __name__ == "__main__":
    sys.exit(child_main(FOR_LANE, drive))
