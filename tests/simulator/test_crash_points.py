"""The power goes before each single call that changes the receiver's disk, one run for each: bytes written in place,
fsync, rename, removal, journal commit. Everything that a reception does to the disk is in the story.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from oci.blobs import BlobStore
from protocol import batch
from protocol.drops import Drop
from protocol.geometry import Geometry, checked
from protocol.objects import Coding, Kind
from protocol.trust import TrustedSenders
from receiver import assemble
from tests.simulator.capturing import CaptureOnDisk
from tests.simulator.clock import VirtualClock
from tests.simulator.disk import Disk, Loss, PowerCut, watched
from tests.simulator.link import Faults, one_way_link
from tests.simulator.powerworld import points, quiet_folder
from tests.simulator.sending import Item, SendingWorld
from tests.support.content import digest_of

LARGE = 60_000
SPACE = 100_000  # of partial objects: one large object, not two


class Story:
    """One reception: objects whole and half, one given up for another, a batch, two sessions and two releases."""

    def __init__(self, disk: Disk, cut_at: int | None) -> None:
        random = Random(7)
        signer = Ed25519PrivateKey.from_private_bytes(random.randbytes(32))
        private = X25519PrivateKey.from_private_bytes(random.randbytes(32))
        self.clock = VirtualClock()
        inlet, self.outlet = one_way_link(Faults(), random)
        self.coded: dict[str, bytes] = {}
        cuts = iter([cut_at])  # once
        self.receiver = CaptureOnDisk(
            disk,
            TrustedSenders.of(signer.public_key()),
            private,
            self.coded,
            random,
            SPACE,
            lambda: next(cuts, None),
        )
        self.sender = SendingWorld(
            signer, [private.public_key()], random, self.clock, inlet, 560, self._deliver, "default"
        )
        small = {digest_of(body): body for body in (random.randbytes(500), random.randbytes(70))}
        self.first = Item(Kind.BLOB, random.randbytes(LARGE))
        self.second = Item(Kind.BLOB, random.randbytes(LARGE // 10) * 9, Coding.ZSTD)
        self.third = Item(Kind.BLOB, random.randbytes(LARGE))
        self.batch = Item(Kind.BATCH, batch.pack(list(small.items())))
        self.wanted = {
            digest_of(item.content): item.content for item in (self.first, self.second, self.third)
        } | small
        self.releases = [
            Item(Kind.RELEASE, self.sender.seal(small)),
            Item(Kind.RELEASE, self.sender.seal(self.wanted)),
        ]

    def tell(self) -> None:
        """From the first datagram to the last, with whatever crash was planned."""
        self._send(self.releases[0], self.batch)
        self._send(self.first, blocks=2)
        self._send(self.third, blocks=3)  # the first is given up
        self._send(self.first, blocks=3)  # comes again, into a new file
        self.sender.restart()
        self._send(self.releases[1], self.second, self.first)
        self._send(self.third)
        self.receiver.stop()
        self.sender.idle(0.5)  # so that it knows the session again
        for _ in range(2):  # what the crash took: the next pass brings it
            self._send(self.releases[1], self.batch, self.first, self.second, self.third)

    def _send(self, *items: Item, blocks: int | None = None) -> None:
        for item in items:
            entry = self.sender.entry(item, _geometry(len(item.coded)))
            self.coded[entry.coded_digest] = item.coded
            for sbn in range(entry.geometry.blocks if blocks is None else blocks):
                self.sender.send_block(entry, sbn, item.coded)
                self.clock.advance(0.01)
                self._deliver()
                self.receiver.settle()

    def _deliver(self) -> None:
        for burst, size in self.outlet.receive(self.clock.now):
            self.receiver.receive(burst, size)

    def check(self) -> None:
        """Everything is here, and nothing else is left."""
        receiver = self.receiver
        for digest, content in self.wanted.items():
            assert receiver.content(digest) == content
        assert receiver.releases() == {"default": self.sender.release}
        assert not receiver.partial_files()
        assert not receiver.leftovers()
        assert not receiver.drops.keys() & {Drop.CODED_DIGEST_MISMATCH, Drop.CONTENT_DIGEST_MISMATCH}


def _geometry(size: int) -> Geometry:
    return checked(size, 512, 8, 2, 4)


def run(cut_at: int | None, loss: Loss) -> Disk:
    """One run of the story, the power going before call *cut_at*."""
    with quiet_folder() as folder, mock.patch.object(assemble, "SYNC_S", 0.0):
        disk = Disk(folder / "high", Random(cut_at))
        disk.loss = loss
        with watched(disk):
            story = Story(disk, cut_at)
            story.tell()
            story.check()
            story.receiver.close()
        assert story.receiver.cuts == (cut_at is not None), "the power was to go once"
        return disk


@pytest.fixture(scope="module")
def calls() -> int:
    """How many calls the story is, without a crash."""
    return run(None, Loss.NOTHING).calls


@pytest.mark.parametrize(
    ("loss", "first", "step"), points((Loss.EVERYTHING, 0, 2), (Loss.SOMETHING, 1, 2), (Loss.NOTHING, 0, 5))
)
def test_the_power_may_go_before_any_call(calls: int, loss: Loss, first: int, step: int) -> None:
    assert calls > 100
    for cut_at in range(first, calls - 20, step):  # the last ones differ from run to run, with the threads
        try:
            run(cut_at, loss)
        except Exception as error:
            raise AssertionError(f"cut before call {cut_at} of {calls}, {loss.value} lost") from error


def test_what_was_not_synced_can_be_lost(tmp_path: Path) -> None:
    """The disk itself: a store that forgets an fsync, or renames before it, is found out."""
    for forgotten in ("fsync", "folder"):
        disk = Disk(tmp_path / forgotten, Random(1))
        with watched(disk):
            store = BlobStore(disk.root)
            digest = digest_of(b"content")
            with mock.patch("oci.blobs.fsync_folder" if forgotten == "folder" else "os.fsync"):
                store.write(digest, b"content")
            disk.cut(Loss.EVERYTHING)
            with pytest.raises(PowerCut):
                store.write(digest, b"content")
            disk.restart()
            there = store.path(digest)
            assert not there.exists() if forgotten == "folder" else not there.exists() or there.read_bytes() == b""


def test_what_was_synced_stays(tmp_path: Path) -> None:
    for loss in Loss:
        disk = Disk(tmp_path / loss.name, Random(1))
        with watched(disk):
            store = BlobStore(disk.root)
            digest = digest_of(b"content")
            store.write(digest, b"content")
            disk.cut(loss)
            disk.restart()
            assert store.read(digest, 100) == b"content"
            assert store.remove(digest)
            disk.cut(loss)
            disk.restart()
            assert store.size(digest) is None
