"""A further lane as a process of the capture role's: ``python -m receiver.lane_process DESCRIPTOR MEMORY``.

Receives, authenticates and restores blocks into shared memory (shared.py). Writes no file and no journal; what is
wanted, and what counts, the role says. Ends when the role does.
"""

from __future__ import annotations

import select
import sys
import time
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol.decoder import Decoder, ReceiveBuffer
from protocol.events import BlockAbandoned, BlockComplete, Event, ObjectAnnounced, SessionOpened
from protocol.incoming import IncomingBlock, IncomingObject
from protocol.limits import TRACKED_OBJECTS_MAX
from protocol.trust import Remembered, TrustedSenders
from receiver.link import Link
from receiver.messages import (
    FOR_LANE,
    Again,
    Announced,
    Begin,
    Block,
    Counts,
    Epoch,
    Forget,
    ForLane,
    Free,
    Have,
    SessionFound,
    Settled,
    Stop,
    Stopped,
    Table,
    Want,
)
from receiver.shared import SharedBuffer, SharedBuffers
from receiver.tally import tally
from runtime import logs
from runtime.channel import Channel, ChannelEnded, parent_channel
from runtime.errors import UserError, print_error
from runtime.threads import name_thread

SWITCH_INTERVAL_S: Final = 0.000_5  # as capture's
BURSTS_PER_TURN: Final = 64
COUNTS_S: Final = 0.2
ROOM_S: Final = 0.05  # as capture's


class LaneProcess:
    """The loop's state."""

    def __init__(self, channel: Channel[ForLane], begin: Begin, memory: int) -> None:
        self._channel = channel
        listen = begin.settings()
        self._link = Link(listen.on.lane(begin.lane), listen.receive_buffer, gro=listen.gro)
        self._link.watch(channel.fileno())
        self._remembered = Remembered({sender: (epoch, session) for sender, epoch, session in begin.epochs})
        self._buffers = SharedBuffers(memory)
        trusted = TrustedSenders.of(*(Ed25519PublicKey.from_public_bytes(raw) for raw in begin.senders))
        private = X25519PrivateKey.from_private_bytes(begin.hpke_key)
        self._decoder = Decoder(trusted, private, self._remembered, lane=begin.lane, pool=self._buffers.pool)
        self._objects: OrderedDict[tuple[bytes, int], IncomingObject] = OrderedDict()
        self._restoring: deque[tuple[IncomingBlock, bool, Future[None]]] = deque()
        self._lent: dict[int, IncomingBlock] = {}  # by slot: with the role
        self._restorer = ThreadPoolExecutor(1, "restore", name_thread, ("restore",))
        self._patient = True
        self._stopping = False
        self._due_counts = 0.0
        self._last_datagram = 0.0

    def run(self) -> NoReturn:
        """Receive until the role has gone (ChannelEnded)."""
        buffer = ReceiveBuffer()
        while True:
            if self._link.wait(0.001 if self._restoring else 0.1) and not self._stopping:
                self._turn(buffer)
            self._listen()
            self._hand_over()
            if self._stopping and not self._restoring:
                self._due_counts = 0.0
                self._tell_counts()
                self._channel.send(Stopped())
                self._idle()
            now = time.monotonic()
            if now >= self._due_counts:
                self._due_counts = now + COUNTS_S
                self._tell_counts()

    def _idle(self) -> NoReturn:
        """Wait for the role's end."""
        while True:
            select.select([self._channel], [], [])
            self._listen()

    def _turn(self, buffer: ReceiveBuffer) -> None:
        for _ in range(BURSTS_PER_TURN):
            size, segment = self._link.receive(buffer)
            if segment == 0:
                break
            for event in self._decoder.receive_burst(buffer, size, segment):
                self._handle(event)
            if self._patient and self._decoder.out_of_buffers:
                self._wait_for_room()
        self._last_datagram = time.time()

    def _wait_for_room(self) -> None:
        """Let the kernel hold what arrives until the role has read a buffer, or seems stuck."""
        until = time.monotonic() + ROOM_S
        while self._decoder.out_of_buffers:
            if time.monotonic() >= until:
                self._patient = False
                return
            self._hand_over()
            select.select([self._channel], [], [], 0.001)
            self._listen()

    def _handle(self, event: Event) -> None:
        match event:
            case BlockComplete(block) | BlockAbandoned(block):
                complete = isinstance(event, BlockComplete)
                self._restoring.append((block, complete, self._restorer.submit(block.restore)))
            case ObjectAnnounced(announced):
                key = announced.session, announced.entry.toi
                self._objects[key] = announced
                if len(self._objects) > TRACKED_OBJECTS_MAX:
                    self._objects.popitem(last=False)
                self._channel.send(Announced(session=announced.session, table=Table.of(announced.entry)))
            case SessionOpened(sender, parameters):
                self._channel.send(
                    SessionFound(
                        sender=sender,
                        epoch=parameters.epoch,
                        session=parameters.session_id,
                        datagram_bytes=parameters.datagram_bytes,
                        created_ms=parameters.created_ms,
                        lanes=parameters.lanes,
                    )
                )
                self._await_epoch(sender, parameters.epoch, parameters.session_id)
            case _:  # beacons are lane 0's
                pass

    def _await_epoch(self, sender: bytes, epoch: int, session: bytes) -> None:
        """Wait until the role has the epoch on disk; a session it will not have is closed again."""
        while True:
            select.select([self._channel], [], [])
            answered = False
            for message in self._channel.receive():
                answered |= isinstance(message, Epoch) and message.sender == sender and message.epoch >= epoch
                self._obey(message)
            if answered:
                if self._remembered.epochs[sender] != (epoch, session):
                    for event in self._decoder.close():  # what is still new opens again by its next announcement
                        if isinstance(event, BlockAbandoned):
                            self._decoder.give_back(event.block)
                return

    def _listen(self) -> None:
        for message in self._channel.receive():
            self._obey(message)

    def _obey(self, message: ForLane) -> None:
        match message:
            case Free(slot=slot):
                self._decoder.give_back(self._lent.pop(slot))
                self._patient = True
                return
            case Epoch(sender=sender, epoch=epoch, session=session):
                if epoch >= self._remembered.epochs.get(sender, (0, b""))[0]:
                    self._remembered.epochs[sender] = epoch, session
                return
            case Stop():
                self._stopping = True
                for event in self._decoder.close():
                    self._handle(event)
                return
            case Begin():
                raise ValueError("a second beginning")
        owner = self._objects.get((message.session, message.toi))
        if owner is None:
            return
        match message:
            case Have(ranges=ranges):
                for start, end in ranges:
                    owner.have.add(start, end)
            case Want():
                self._decoder.want(owner, owner.have)
            case Settled():
                owner.wanted = False
            case Forget():
                self._decoder.forget(owner)
            case Again(sbn=sbn):
                owner.again(sbn)

    def _hand_over(self) -> None:
        """Give the role what has been restored."""
        while self._restoring and self._restoring[0][2].done():
            block, complete, future = self._restoring.popleft()
            future.result()
            slot = block.buffer.slot if isinstance(block.buffer, SharedBuffer) else -1
            self._lent[slot] = block
            self._channel.send(
                Block(
                    session=block.owner.session,
                    table=Table.of(block.owner.entry),
                    sbn=block.shape.sbn,
                    complete=complete,
                    slot=slot,
                    pieces=[(offset, offset - block.shape.offset, len(piece)) for offset, piece in block.finished()],
                )
            )

    def _tell_counts(self) -> None:
        if not self._channel.clogged:
            counters = self._decoder.counters
            self._channel.send(
                Counts(
                    counts=tally(self._decoder, self._link),
                    worst_repair=(counters.worst_repair, counters.worst_repair_of),
                    last_datagram=self._last_datagram,
                    path=self._link.path,
                )
            )

    def close(self) -> None:
        """Free what the lane holds."""
        self._restorer.shutdown(cancel_futures=True)
        self._link.close()


def main() -> int:
    """Drive a lane until the role ends; return the exit code."""
    channel, (memory,) = parent_channel(FOR_LANE)
    try:
        begin = first(channel)
        logs.configure(begin.log_format, begin.log_level)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        process = LaneProcess(channel, begin, memory)
        try:
            process.run()
        finally:
            process.close()
    except ChannelEnded:
        return 0
    except UserError as error:
        print_error(error)
        return error.exit_code


def first(channel: Channel[Any]) -> Begin:
    """Wait for the first message."""
    select.select([channel], [], [])
    message = channel.receive(1)[0]
    if not isinstance(message, Begin):
        raise ValueError(f"{message.kind} before the beginning")
    return message


if __name__ == "__main__":
    sys.exit(main())
