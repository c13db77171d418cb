"""One lane's way in: bursts from the socket through the decoder, what it holds of objects, and its counters.

Lane 0 is driven by the capture role itself, further ones by processes of their own (lane_process.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.decoder import Decoder, ReceiveBuffer
from protocol.events import Event
from protocol.incoming import IncomingBlock, IncomingObject
from receiver.link import Link
from receiver.margin import margin_name

SWITCH_INTERVAL_S: Final = 0.000_5  # the socket's loop gets the interpreter back this soon from other threads
BURSTS_PER_TURN: Final = 64  # between looks at the clock
ROOM_S: Final = 0.05  # without a single buffer coming back; then what arrives is dropped by name
NAP_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Figures:
    """What a lane has received since it began, by the names that journal and status use."""

    counts: dict[str, int]  # drops are under ``drop.<reason>``
    worst_repair: tuple[int, int]  # most repair symbols that a codeword needed, and how many it had
    last_datagram: float  # Unix seconds, 0 before the first
    path: str  # of the link


class Lane:
    """A link and the decoder behind it. For one thread."""

    def __init__(self, link: Link, decoder: Decoder) -> None:
        self.link = link
        self.decoder = decoder
        self._buffer = ReceiveBuffer()
        self._patient = True  # whether waiting for a block buffer is worth it
        self._last_datagram = 0.0

    def turn(self, handle: Callable[[Event], None], relieve: Callable[[], None]) -> None:
        """Receive what has come, handing on its events; *relieve* is called often, to give back block buffers.

        Stops receiving, for ROOM_S at most, while every block buffer is in use: the kernel holds what arrives.
        """
        receive, decode, decoder, buffer = self.link.receive, self.decoder.receive_burst, self.decoder, self._buffer
        for _ in range(BURSTS_PER_TURN):
            size, segment = receive(buffer)
            if segment == 0:
                break
            for event in decode(buffer, size, segment):
                handle(event)
            relieve()  # small objects use up the block buffers within a turn
            if self._patient and decoder.out_of_buffers:
                self._wait_for_room(relieve)
        self._last_datagram = time.time()

    def _wait_for_room(self, relieve: Callable[[], None]) -> None:
        """Let other threads and processes have the blocks, until a buffer is back or they seem stuck."""
        until = time.monotonic() + ROOM_S
        while self.decoder.out_of_buffers:
            if time.monotonic() >= until:
                self._patient = False
                return
            time.sleep(NAP_S)
            relieve()

    def give_back(self, block: IncomingBlock) -> None:
        """Return a block's buffer."""
        self.decoder.give_back(block)
        self._patient = True

    # --- what is wanted of it (wanted.py) ----------------------------------------------------------------------

    def want(self, owner: IncomingObject) -> None:
        """Receive what ``owner.have`` lacks."""
        self.decoder.want(owner, owner.have)

    def forget(self, owner: IncomingObject) -> None:
        """Start again from nothing."""
        self.decoder.forget(owner)

    def settle(self, owner: IncomingObject) -> None:
        """Receive no more of it."""
        owner.wanted = False

    def again(self, owner: IncomingObject, sbn: int) -> None:
        """Let a complete block come again."""
        owner.again(sbn)

    def learned(self, owner: IncomingObject, ranges: Sequence[tuple[int, int]]) -> None:
        """Bytes from another lane are on disk, and in ``owner.have``, which the decoder looks at by itself."""

    def figures(self) -> Figures:
        """Return them as they are now."""
        counters = self.decoder.counters
        counts = {
            "datagrams": counters.datagrams,
            "bytes": counters.bytes,
            "symbols": counters.symbols,
            "surplus": counters.surplus,
            "repaired": counters.repaired,
            "blocks": counters.blocks,
            "lost": self.decoder.lost,
            "kernel_drops": self.link.kernel_drops,
            "beacons": counters.beacons,
            **{margin_name(*margin): count for margin, count in counters.margins.items()},
            **{f"drop.{drop.value}": count for drop, count in counters.drops.items()},
        }
        worst = counters.worst_repair, counters.worst_repair_of
        return Figures(counts, worst, self._last_datagram, self.link.path)
