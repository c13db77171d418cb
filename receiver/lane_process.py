"""A further lane as a process of the capture role's: ``python -m receiver.lane_process DESCRIPTOR MEMORY``.

Receives, authenticates and restores blocks into shared memory (shared.py). Writes no file and no journal; what is
wanted, and what counts, the role says. Ends when the role does.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol.decoder import Decoder
from protocol.events import BlockAbandoned, BlockComplete, Event, ObjectAnnounced, SessionOpened
from protocol.incoming import IncomingBlock, IncomingObject
from protocol.limits import TRACKED_OBJECTS_MAX
from protocol.trust import Remembered, TrustedSenders
from receiver.lane import SWITCH_INTERVAL_S, Lane
from receiver.link import Link
from receiver.messages import (
    FOR_LANE,
    Again,
    Announced,
    Begin,
    BlockReady,
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
    Want,
)
from receiver.shared import SharedBuffer, SharedBuffers
from runtime import logs
from runtime.channel import Channel, child_main
from runtime.threads import name_thread

COUNTS_S: Final = 0.2


class LaneProcess:
    """The loop's state."""

    def __init__(self, channel: Channel[ForLane], begin: Begin, memory: int, passed: int | None = None) -> None:
        self._channel = channel
        listen = begin.settings()
        ready = None if passed is None else socket.socket(fileno=passed)
        link = Link(listen.on.lane(begin.lane), listen.receive_buffer, gro=listen.gro, passed=ready)
        link.watch(channel.fileno())
        self._remembered = Remembered({sender: (epoch, session) for sender, epoch, session in begin.epochs})
        trusted = TrustedSenders.of(*(Ed25519PublicKey.from_public_bytes(raw) for raw in begin.senders))
        private = X25519PrivateKey.from_private_bytes(begin.hpke_key)
        pool = SharedBuffers(memory).pool
        self._lane = Lane(link, Decoder(trusted, private, self._remembered, lane=begin.lane, pool=pool))
        self._objects: OrderedDict[tuple[bytes, int], IncomingObject] = OrderedDict()
        self._restoring: deque[tuple[IncomingBlock, bool, Future[None]]] = deque()
        self._lent: dict[int, IncomingBlock] = {}  # by slot: with the role
        self._restorer = ThreadPoolExecutor(1, "restore", name_thread, ("restore",))
        self._stopping = False
        self._due_counts = 0.0

    def run(self) -> NoReturn:
        """Receive until the role has gone (ChannelEnded)."""
        while True:
            arrived = self._lane.link.wait(0.001 if self._restoring else 0.1)
            self._listen()  # first: what is said to be wanted may have arrived since
            if arrived and not self._stopping:
                self._lane.turn(self._handle, self._relieve)
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

    def _relieve(self) -> None:
        """Give away what is restored; hear which buffers are free, while the role has any."""
        self._hand_over()
        if self._lent:
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
                self._channel.send(Announced(session=announced.session, entry=announced.entry.written()))
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
                    for event in self._lane.decoder.close():  # what is still new opens again by its next announcement
                        if isinstance(event, BlockAbandoned):
                            self._lane.give_back(event.block)
                return

    def _listen(self) -> None:
        for message in self._channel.receive():
            self._obey(message)

    def _obey(self, message: ForLane) -> None:
        match message:
            case Free(slot=slot):
                self._lane.give_back(self._lent.pop(slot))
                return
            case Epoch(sender=sender, epoch=epoch, session=session):
                if epoch >= self._remembered.epochs.get(sender, (0, b""))[0]:
                    self._remembered.epochs[sender] = epoch, session
                return
            case Stop():
                self._stopping = True
                for event in self._lane.decoder.close():
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
                self._lane.want(owner)
            case Settled():
                self._lane.settle(owner)
            case Forget():
                self._lane.forget(owner)
            case Again(sbn=sbn):
                self._lane.again(owner, sbn)

    def _hand_over(self) -> None:
        """Give the role what has been restored."""
        while self._restoring and self._restoring[0][2].done():
            block, complete, future = self._restoring.popleft()
            future.result()
            slot = block.buffer.slot if isinstance(block.buffer, SharedBuffer) else -1
            self._lent[slot] = block
            self._channel.send(
                BlockReady(
                    session=block.owner.session,
                    entry=block.owner.entry.written(),
                    sbn=block.shape.sbn,
                    complete=complete,
                    slot=slot,
                    pieces=[(offset, offset - block.shape.offset, len(piece)) for offset, piece in block.finished()],
                )
            )

    def _tell_counts(self) -> None:
        if not self._channel.clogged:
            self._channel.send(Counts(figures=self._lane.figures()))

    def close(self) -> None:
        """Free what the lane holds."""
        self._restorer.shutdown(cancel_futures=True)
        self._lane.link.close()


def drive(channel: Channel[ForLane], begin: ForLane, descriptors: list[int]) -> NoReturn:
    """Drive the lane that *begin* names until the role ends."""
    if not isinstance(begin, Begin):
        raise ValueError(f"{begin.kind} before the beginning")
    logs.configure(begin.log_format, begin.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    process = LaneProcess(channel, begin, *descriptors)
    try:
        process.run()
    finally:
        process.close()


if __name__ == "__main__":
    sys.exit(child_main(FOR_LANE, drive))
