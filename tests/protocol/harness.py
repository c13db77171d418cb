"""A decoder with a hand-built session (tests.vectors.session) or a real encoder in front of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from protocol.announcement import SessionParameters
from protocol.buffers import BlockBuffer, block_symbols
from protocol.decoder import Decoder, ReceiveBuffer
from protocol.drops import Drop
from protocol.encoder import Encoder
from protocol.errors import WireError
from protocol.events import BlockAbandoned, BlockComplete, Event, ObjectAnnounced
from protocol.geometry import Geometry
from protocol.incoming import IncomingBlock
from protocol.limits import BUFFERS_MAX
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.outgoing import BlockEncoder, OutgoingBlock
from protocol.ranges import RangeSet
from protocol.trust import Remembered, TrustedSenders
from protocol.wire import BurstView, datagrams_per_burst
from tests.support.content import digest_of
from tests.vectors import session as s

Result = TypeVar("Result")
RECEIVER = s.agreement_key("receiver")


def trusted(*names: str) -> TrustedSenders:
    return TrustedSenders.of(*(s.signing_key(name).public_key() for name in names or ("sender",)))


def outcome(parse: Callable[[], Result]) -> tuple[Result | None, Drop | None]:
    """Return what *parse* returned and None, or None and the reason of its WireError; nothing else may come out."""
    try:
        return parse(), None
    except WireError as error:
        return None, error.drop


class Receiver:
    """Wants every object, writes what completes into memory, keeps every event."""

    def __init__(
        self, *, senders: tuple[str, ...] = ("sender",), buffers: int = BUFFERS_MAX, lane: int | None = None
    ) -> None:
        self.remembered = Remembered()
        self.decoder = Decoder(trusted(*senders), RECEIVER, self.remembered, buffers=buffers, lane=lane)
        self.buffer = ReceiveBuffer()
        self.events: list[Event] = []
        self.contents: dict[str, bytearray] = {}
        self.kept: list[IncomingBlock] = []
        self.keep_blocks = False  # do not give buffers back, as a slow disk would not

    def feed(self, data: bytes, datagram_bytes: int | None = None) -> list[Event]:
        self.buffer.memory[: len(data)] = data
        events = self.decoder.receive_burst(self.buffer, len(data), datagram_bytes or len(data))
        for event in events:
            self.events.append(event)
            if isinstance(event, ObjectAnnounced):
                self.decoder.want(event.object, RangeSet())
                entry = event.object.entry
                self.contents.setdefault(entry.coded_digest, bytearray(min(entry.geometry.size, 1 << 24)))
            elif isinstance(event, BlockComplete | BlockAbandoned):
                event.block.restore()
                for offset, piece in event.block.finished():
                    content = self.contents[event.block.owner.entry.coded_digest]
                    content[offset : offset + len(piece)] = piece
                if self.keep_blocks:
                    self.kept.append(event.block)
                else:
                    self.decoder.give_back(event.block)
        return events

    def feed_each(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            self.feed(datagram)

    @property
    def drops(self) -> dict[str, int]:
        return {drop.value: count for drop, count in self.decoder.counters.drops.items()}


def encoder_of(session: s.Session, **options: object) -> Encoder:
    parameters = SessionParameters(
        session.epoch, session.session_id, session.datagram_bytes, session.created_ms, session.lanes
    )
    return Encoder(parameters, session.session_key, session.announcement, **options)  # type: ignore[arg-type]


def entry_of(content: bytes, geometry: Geometry, toi: int = 1) -> ObjectEntry:
    digest = digest_of(content)
    return ObjectEntry(toi, Kind.BLOB, Coding.IDENTITY, digest, len(content), digest, geometry)


def bursts_of(
    encoder: Encoder,
    objects: list[tuple[ObjectEntry, bytes]],
    backend: str | None = None,
    each: Callable[[float], None] = lambda now: None,
) -> list[bytes]:
    """Return every burst of one pass over *objects*; time advances by a millisecond where nothing is due."""
    size = encoder.parameters.datagram_bytes
    view = BurstView(memoryview(bytearray(65_536)), size, datagrams_per_burst(size))
    bursts: list[bytes] = []
    now = 0.0

    def burst() -> int:
        count = encoder.next_burst(view, now)
        if count:
            bursts.append(bytes(view.buffer[: count * size]))
            each(now)
        return count

    for entry, content in objects:
        encoder.set_upcoming([entry])
        for sbn in range(entry.geometry.blocks):
            shape = entry.geometry.block(sbn)
            buffer = BlockBuffer(block_symbols(shape), entry.geometry.symbol_bytes)
            buffer.memory[: shape.size] = content[shape.offset : shape.offset + shape.size]
            while not encoder.may_start(entry.toi):
                if not burst():
                    now += 0.001
            encoder.load(OutgoingBlock(entry, shape, buffer, BlockEncoder(shape, buffer, backend)))
            while not encoder.wants_block:
                assert burst()
    return bursts


def split(bursts: list[bytes], datagram_bytes: int) -> list[bytes]:
    return [burst[at : at + datagram_bytes] for burst in bursts for at in range(0, len(burst), datagram_bytes)]
