"""One lane's way to the wire: blocks read ahead, sealed into bursts, sent at the lane's share of the link's rate.

Lane 0 is driven by the transmit role itself, further ones by processes of their own (lane_process.py). One thread
drives a lane; a second reads and encodes its blocks ahead.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from protocol.encoder import Encoder
from protocol.objects import ObjectEntry
from protocol.outgoing import OutgoingBlock
from protocol.wire import BurstView, datagrams_per_burst, symbol_bytes
from runtime.signals import StopFlag
from sender.blocks import BlockReader, BlockUnreadable, Order, ReadyBlock
from sender.config import Link as LinkSettings
from sender.link import Link
from sender.pacing import Pacer
from sender.session import Opening

NAP_S: Final = 0.05  # longer waits of the pacer listen for the stop
LINK_RETRY_S: Final = 0.2


class Lane:
    """Sends the blocks it is given in order, and control traffic when that is due.

    What becomes of a block is told once in one of ``left``, ``failed`` (with the reason) and ``dropped``; whoever
    drives the lane empties them. *on_down* is called now and then while the interface is down.
    """

    def __init__(self, settings: LinkSettings, number: int = 0, on_down: Callable[[], None] = lambda: None) -> None:
        self.number = number
        self.link = Link(settings.to.lane(number), settings.mtu, gso=settings.gso, interface=settings.interface)
        self.left: deque[Order] = deque()
        self.failed: deque[tuple[Order, str]] = deque()
        self.dropped: deque[Order] = deque()
        self.wire_bytes = 0  # of IP packets
        self.datagrams = 0
        self._encoder: Encoder | None = None
        self._on_wire: ReadyBlock | None = None
        self.on_down = on_down
        self._reader = BlockReader(symbol_bytes(self.link.datagram_bytes))
        self._packet_bytes = self.link.datagram_bytes + self.link.header_bytes
        burst = settings.burst_bytes // settings.lanes
        count = max(1, min(datagrams_per_burst(self.link.datagram_bytes), burst // 2 // self._packet_bytes))
        self._view = BurstView(
            memoryview(bytearray(count * self.link.datagram_bytes)), self.link.datagram_bytes, count
        )
        self._pacer = Pacer(settings.lane_rate, burst, count * self._packet_bytes) if settings.pacing else None

    # --- what it is given ----------------------------------------------------------------------------------------

    def open(self, opening: Opening, encoder: Encoder | None = None) -> None:
        """Go on in a new session; only while idle. *encoder* is this lane's, if the caller has made it."""
        self._encoder = encoder or opening.encoder(self.number)

    @property
    def has_room(self) -> bool:
        """Whether :meth:`start` may be called."""
        return self._reader.has_room

    def start(self, order: Order) -> None:
        """Begin to read a block; it leaves after those before it."""
        self._reader.start(order)

    def drop(self, object_id: int) -> None:
        """Forget the blocks of one object that are not on the wire yet."""
        self._reader.drop(lambda order: order.object_id == object_id)
        self.dropped += self._reader.swept()

    def recall(self, below: int) -> None:
        """Forget the blocks of a rank lower than *below* that are not on the wire yet."""
        self._reader.drop(lambda order: order.rank < below)
        self.dropped += self._reader.swept()

    def set_rate(self, rate: float, now: float) -> None:
        """Send at *rate* bits per second (IP level) from *now* on."""
        if self._pacer is not None:
            self._pacer.set_rate(rate, now)

    def announce(self, entries: list[ObjectEntry]) -> None:
        """Name the objects of the next moments, in order (Encoder.set_upcoming)."""
        if self._encoder is not None:
            self._encoder.set_upcoming(entries)

    def end_session(self, now: float) -> None:
        """Announce from *now* on, often, that the session ends."""
        if self._encoder is not None:
            self._encoder.close(now)

    # --- what it does ----------------------------------------------------------------------------------------------

    def turn(self, now: float, stop: StopFlag) -> bool:
        """Send what is due at *now*; False if nothing was, or told to stop while the interface was down."""
        encoder = self._encoder
        if encoder is None:
            return False
        if self._reader.sweeping:
            self.dropped += self._reader.swept()
        if encoder.wants_block:
            self._load(encoder)
        count = encoder.next_burst(self._view, now)
        if count == 0 or not self._send(count, stop):
            return False
        if self._on_wire is not None and encoder.wants_block:
            self._reader.give_back(self._on_wire.buffer)
            self.left.append(self._on_wire.order)
            self._on_wire = None
        return True

    def next_time(self) -> float:
        """Return when control traffic is due (monotonic seconds); blocks may be ready before."""
        return self._encoder.next_time() if self._encoder is not None else float("inf")

    @property
    def sealed(self) -> int:
        """Datagrams under the session's key."""
        return self._encoder.counters.datagrams if self._encoder is not None else 0

    @property
    def orders(self) -> list[Order]:
        """What has not left yet, in order."""
        return ([self._on_wire.order] if self._on_wire is not None else []) + self._reader.orders()

    def close(self) -> None:
        """Free what the lane holds."""
        self._reader.close()
        self.link.close()

    def _load(self, encoder: Encoder) -> None:
        try:
            block = self._reader.peek()
        except BlockUnreadable as error:
            self.failed.append((error.order, str(error)))
            return
        if block is None or not encoder.may_start(block.order.entry.toi):
            return
        self._reader.pop()
        self._on_wire = block
        encoder.load(OutgoingBlock(block.order.entry, block.order.shape, block.buffer, block.encoded))

    def _send(self, count: int, stop: StopFlag) -> bool:
        """Send the burst when its time has come; False if told to stop while the interface was down."""
        wire = count * self._packet_bytes
        if self._pacer is not None:
            delay = self._pacer.delay(time.monotonic())
            if delay > NAP_S:
                stop.wait(delay)
            elif delay > 0:
                time.sleep(delay)
        burst = self._view.buffer[: count * self.link.datagram_bytes]
        while not self.link.send(burst):
            self.on_down()
            if stop.wait(LINK_RETRY_S):
                return False
        if self._pacer is not None:
            self._pacer.sent(wire, time.monotonic())
        self.wire_bytes += wire
        self.datagrams += count
        return True
