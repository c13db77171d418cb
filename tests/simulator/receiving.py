"""A receiver without disk or network: the real Decoder, asked and answered as capture does it."""

from __future__ import annotations

import hashlib
from collections import Counter
from random import Random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol import batch, coding
from protocol.decoder import Decoder, ReceiveBuffer
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.events import BeaconReceived, BlockAbandoned, BlockComplete, Event, ObjectAnnounced, SessionOpened
from protocol.incoming import IncomingBlock, IncomingObject
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.ranges import RangeSet
from protocol.release import check_order, open_release
from protocol.trust import ReleaseMark, TrustedSenders
from tests.simulator.storage import ContentStore, PartialStore, RememberedStore


class ReceivingWorld:
    """Owns a decoder and drives stores that outlive it."""

    def __init__(
        self,
        trusted: TrustedSenders,
        private: X25519PrivateKey,
        partials: PartialStore,
        contents: ContentStore,
        remembered: RememberedStore,
        random: Random,
    ) -> None:
        self._trusted = trusted
        self._private = private
        self._partials = partials
        self._contents = contents
        self._store = remembered
        self._random = random
        self._buffer = ReceiveBuffer()
        self.problems: list[WireError] = []
        self.opened = 0
        self.beacons = 0
        self.repaired = 0
        self.drops: Counter[Drop] = Counter()
        self.remembered = remembered.load()
        self.decoder = Decoder(trusted, private, self.remembered)

    def start(self) -> None:
        """Begin with what the stores hold."""
        self.tally()
        self.remembered = self._store.load()
        self.decoder = Decoder(self._trusted, self._private, self.remembered)

    def tally(self) -> None:
        """Add up what the decoder counted so far; restarts begin with new counters."""
        counters = self.decoder.counters
        self.repaired += counters.repaired
        self.drops += counters.drops
        counters.repaired = 0
        counters.drops.clear()

    def crash(self) -> None:
        """Lose all memory and whatever the stores had not made durable, then start again."""
        self._partials.crash()
        self.start()

    def stop(self) -> None:
        """Shut down in order: what was written is durable."""
        self._partials.sync()
        self.start()

    def receive(self, burst: bytes, datagram_bytes: int) -> None:
        """Take one burst and act on what it led to."""
        self._buffer.memory[: len(burst)] = burst
        for event in self.decoder.receive_burst(self._buffer, len(burst), datagram_bytes):
            self._act(event)

    def _act(self, event: Event) -> None:
        if isinstance(event, SessionOpened):
            self._store.save(self.remembered)
            self.opened += 1
        elif isinstance(event, ObjectAnnounced):
            self._announced(event.object)
        elif isinstance(event, BlockComplete | BlockAbandoned):
            self._block(event.block)
        elif isinstance(event, BeaconReceived):
            self.beacons += 1

    def _announced(self, announced: IncomingObject) -> None:
        entry = announced.entry
        if not self._contents.has(entry.digest):
            self.decoder.want(announced, self._partials.ranges(entry.coded_digest, entry.geometry.size))

    def _block(self, block: IncomingBlock) -> None:
        owner = block.owner
        entry = owner.entry
        block.restore()
        if not self._contents.has(entry.digest):
            have = self._partials.ranges(entry.coded_digest, entry.geometry.size)
            for offset, data in block.finished():
                self._partials.write(entry.coded_digest, offset, bytes(data))
            if have.covers(0, entry.geometry.size):
                self._finish(owner)
        self.decoder.give_back(block)
        if self._random.random() < 0.3:
            self._partials.sync()

    def _finish(self, owner: IncomingObject) -> None:
        entry = owner.entry
        coded = self._partials.read(entry.coded_digest)
        self._partials.discard(entry.coded_digest)
        try:
            if "sha256:" + hashlib.sha256(coded).hexdigest() != entry.coded_digest:
                raise WireError(Drop.CODED_DIGEST_MISMATCH, entry.coded_digest)
            self._use(entry, self._decoded(entry, coded))
        except WireError as error:
            self.problems.append(error)
            self.decoder.forget(owner)
            self.decoder.want(owner, self._partials.ranges(entry.coded_digest, entry.geometry.size))
            return
        owner.have = RangeSet([(0, entry.geometry.size)])

    def _decoded(self, entry: ObjectEntry, coded: bytes) -> bytes:
        content = coded
        if entry.coding is Coding.ZSTD:
            step = self._random.randrange(1, 5_000)
            chunks = (coded[i : i + step] for i in range(0, len(coded), step))
            content = b"".join(coding.decompress(chunks, entry.content_size))
        name, _, hexadecimal = entry.digest.partition(":")
        if hashlib.new(name, content).hexdigest() != hexadecimal:
            raise WireError(Drop.CONTENT_DIGEST_MISMATCH, entry.digest)
        return content

    def _use(self, entry: ObjectEntry, content: bytes) -> None:
        if entry.kind is Kind.BATCH:
            for digest, body in batch.unpack(content):
                self._contents.put(digest, body)
        elif entry.kind is Kind.RELEASE:
            opened = open_release(content, self._trusted)
            collection = opened.release.collection
            if check_order(opened, self.remembered.releases.get(collection)):
                self.remembered.releases[collection] = ReleaseMark(opened.release.sequence, opened.digest)
                self._store.save(self.remembered)
                self._contents.apply_release(collection, content)
        self._contents.put(entry.digest, content)
