"""A sender without disk or network: real content, releases, Encoder; one session after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from protocol import batch, coding
from protocol.announcement import SessionParameters, build, wrap_context
from protocol.beacon import Newest
from protocol.buffers import BlockBuffer, block_symbols
from protocol.encoder import Encoder
from protocol.geometry import Geometry, LinkProfile, checked
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.outgoing import OutgoingBlock
from protocol.release import Content, Release, ReleaseImage, payload_digest, payload_of, seal_release
from protocol.trust import key_id
from protocol.wire import BurstView, datagrams_per_burst
from tests.simulator.clock import VirtualClock
from tests.simulator.link import Inlet
from tests.support.content import digest_of
from tests.vectors import hpke


@dataclass(frozen=True)
class Item:
    """One transport object to be."""

    kind: Kind
    content: bytes
    coding: Coding = Coding.IDENTITY

    @property
    def coded(self) -> bytes:
        if self.coding is Coding.IDENTITY:
            return self.content
        return b"".join(coding.compress([self.content], len(self.content)))


class SendingWorld:
    """Owns what a sender keeps: its key, its epoch, its content and its releases."""

    def __init__(
        self,
        signer: Ed25519PrivateKey,
        receivers: list[X25519PublicKey],
        random: Random,
        clock: VirtualClock,
        inlet: Inlet,
        datagram_bytes: int,
        after_burst: Callable[[], None],
        collection: str = "default",
        rate_bps: float = 100e6,
    ) -> None:
        self._signer = signer
        self._receivers = receivers
        self._random = random
        self._clock = clock
        self._inlet = inlet
        self._datagram_bytes = datagram_bytes
        self._after_burst = after_burst
        self.collection = collection
        self._rate_bps = rate_bps
        self._epoch = 0
        self._sequence = 0
        self._previous: str | None = None
        self._newest: Newest | None = None
        self.image: ReleaseImage | None = None  # of the newest release
        self.contents: dict[str, bytes] = {}  # what must arrive: digest -> bytes
        self.items: list[Item] = []
        self.sessions = 0
        self.restart()

    def restart(self, epoch: int | None = None) -> None:
        """Begin a new session: epoch first (a higher one, if none is given), then everything else anew."""
        self._epoch = epoch or self._epoch + self._random.randrange(1, 4)
        self.sessions += 1
        random, signer = self._random, self._signer
        parameters = SessionParameters(self._epoch, random.randbytes(16), self._datagram_bytes, 0)
        session_key = random.randbytes(32)
        sender = key_id(signer.public_key())
        info = wrap_context(sender, parameters)
        wrapped = {  # not by wrap_session_key: the library's randomness would not follow the seed
            key_id(receiver): hpke.seal(
                session_key, receiver, info, X25519PrivateKey.from_private_bytes(random.randbytes(32))
            )
            for receiver in self._receivers
        }
        self._encoder = Encoder(parameters, session_key, build(parameters, wrapped, signer))
        self._view = BurstView(
            memoryview(bytearray(65_536)), self._datagram_bytes, datagrams_per_burst(self._datagram_bytes)
        )
        self._entries: dict[str, ObjectEntry] = {}

    def publish(self, blobs: list[tuple[bytes, Coding]], small: list[bytes]) -> None:
        """Add content, and a release that names all content so far."""
        for blob, how in blobs:
            self.contents[digest_of(blob)] = blob
            self.items.append(Item(Kind.BLOB, blob, how))
        if small:
            self.contents |= {digest_of(member): member for member in small}
            packed = batch.pack([(digest_of(member), member) for member in small])
            self.items.append(Item(Kind.BATCH, packed, self._random.choice(list(Coding))))
        envelope = self.seal(self.contents)
        self.items = [item for item in self.items if item.kind is not Kind.RELEASE]
        self.items.insert(0, Item(Kind.RELEASE, envelope))

    def seal(self, contents: dict[str, bytes]) -> bytes:
        """Return the envelope of the next release, which names these contents (digest -> bytes)."""
        closure = tuple(Content("application/octet-stream", d, len(c)) for d, c in contents.items())
        image = self.image = ReleaseImage("registry.test/app", ("latest",), closure[0], closure[1:])
        self._sequence += 1
        created = "2026-01-01T00:00:00Z"
        payload = payload_of(Release(self.collection, self._sequence, self._previous, created, (image,)))
        self._previous = payload_digest(payload)
        self._newest = Newest(self.collection, self._sequence, self._previous, 0)
        return seal_release(payload, self._signer)

    @property
    def release(self) -> tuple[int, str]:
        """Sequence and payload digest of the newest release."""
        assert self._previous is not None
        return self._sequence, self._previous

    def pass_over(self, items: list[Item] | None = None) -> list[tuple[ObjectEntry, int]]:
        """Return every (entry, block number) of one carousel pass, in order."""
        plan = []
        for item in items or self.items:
            entry = self.entry(item)
            plan += [(entry, sbn) for sbn in range(entry.geometry.blocks)]
        return plan

    def send_block(self, entry: ObjectEntry, sbn: int, coded: bytes) -> None:
        """Put one block on the wire, whole, with whatever control traffic is due."""
        encoder, clock = self._encoder, self._clock
        encoder.newest = [self._newest] if self._newest else []
        encoder.set_upcoming([entry])
        shape = entry.geometry.block(sbn)
        buffer = BlockBuffer(block_symbols(shape), entry.geometry.symbol_bytes)
        buffer.memory[: shape.size] = coded[shape.offset : shape.offset + shape.size]
        while not encoder.may_start(entry.toi):
            if not self._burst():
                clock.advance_to(encoder.next_time())
        encoder.load(OutgoingBlock(entry, shape, buffer))
        while not encoder.wants_block:
            assert self._burst(), "a loaded block always gives a burst"

    def idle(self, seconds: float) -> None:
        """Send only what time makes due."""
        until = self._clock.now + seconds
        self._encoder.set_upcoming([])
        while self._clock.now < until:
            if not self._burst():
                self._clock.advance_to(min(until, self._encoder.next_time()))

    def coded_of(self, entry: ObjectEntry) -> bytes:
        return next(item.coded for item in self.items if digest_of(item.content) == entry.digest)

    def _burst(self) -> int:
        count = self._encoder.next_burst(self._view, self._clock.now)
        size = count * self._datagram_bytes
        if count:
            self._inlet.send(bytes(self._view.buffer[:size]), self._datagram_bytes, self._clock.now)
            self._clock.advance(size * 8 / self._rate_bps)
            self._after_burst()
        return count

    def entry(self, item: Item, geometry: Geometry | None = None) -> ObjectEntry:
        """Return an object's table entry in this session, with a *geometry* of the caller's or one drawn."""
        digest = digest_of(item.content)
        entry = self._entries.get(digest)
        if entry is None:
            coded = item.coded
            entry = ObjectEntry(
                toi=len(self._entries) + 1,
                kind=item.kind,
                coding=item.coding,
                digest=digest,
                content_size=len(item.content),
                coded_digest=digest_of(coded),
                geometry=geometry or self.geometry(len(coded)),
            )
            self._entries[digest] = entry
        return entry

    def geometry(self, size: int) -> Geometry:
        """Every session cuts its objects anew, as a sender with a changed link profile would."""
        random, symbol = self._random, self._datagram_bytes - 48
        if random.random() < 0.3:
            return LinkProfile(symbol, 24, 6, 4, outage=8).geometry(size)
        k = random.randrange(1, 33)
        m = random.randrange(max(2, k // 4), max(2, k) + 2)
        return checked(size, symbol, k, m, random.randrange(1, 9))
