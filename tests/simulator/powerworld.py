"""One seeded world with power cuts on both sides: the real capture role, the real queue and schedule, on disks that
lose what was not synced, and a link that loses, reorders and repeats.

Laws: those of capturing.py after every crash; whatever the sender has used, an epoch or a release's number, it never
uses again for something else; and after enough passes the receiver has the newest release and all it needs, byte for
byte, with nothing half done left behind.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol import batch
from protocol.drops import Drop
from protocol.objects import Coding, Kind
from protocol.trust import TrustedSenders
from receiver import assemble
from tests.simulator.capturing import CaptureOnDisk
from tests.simulator.clock import VirtualClock
from tests.simulator.disk import Disk, Loss, watched
from tests.simulator.link import Faults, one_way_link
from tests.simulator.scheduling import ScheduledSender
from tests.simulator.sending import Item
from tests.support.content import digest_of

ROUNDS_MAX = 200  # passes over all that the newest release needs
RESTLESS_ROUNDS = 12  # then nobody crashes any more
LARGEST = 300_000  # bytes of an object
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class PowerPlan:
    """What a seed decides."""

    faults: Faults
    senders: int
    releases: int
    cuts: bool  # whether the receiver's power goes in the middle of a call
    crashes: float  # probability before each block, of either side
    damage: float
    space: int  # of partial objects at the receiver, bytes
    sync_s: float  # how long the receiver leaves bytes unsynced


@dataclass(frozen=True)
class PowerOutcome:
    """What a world came to."""

    seed: int
    rounds: int
    receiver_cuts: int
    sender_cuts: int
    blobs_checked: int  # found sound after crashes
    ranges_checked: int
    drops: dict[str, int]
    datagrams: int


def points(*some: tuple[Loss, int, int]) -> list[tuple[Loss, int, int]]:
    """Return the crash points to try, (loss, first, step): *some*, or all where ``make worlds`` asks."""
    return [(loss, 0, 1) for loss, _, _ in some] if os.environ.get("CHECKVALVE_TEST_ALL_POINTS") else list(some)


@contextmanager
def quiet_folder() -> Iterator[Path]:
    """A folder in memory, and no logs: a world crashes too often to tell."""
    where = tempfile.mkdtemp(prefix="world-", dir=MEMORY if MEMORY.is_dir() else None)
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    try:
        yield Path(where).resolve()
    finally:
        structlog.configure(**before)
        shutil.rmtree(where)


def _drop(logger: object, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    raise structlog.DropEvent


def plan(random: Random) -> PowerPlan:
    """Draw a world."""
    faults = Faults(
        loss=random.choice((0, 0.01, 0.05, 0.2, 0.4)),
        outage=random.choice((0, 0.001, 0.01)),
        outage_seconds=0.02,
        duplicate=random.choice((0, 0.02)),
        corrupt=random.choice((0, 0.005)),
        replay=random.choice((0, 0.02)),
        jitter=random.choice((0, 0.0005, 0.01)),
        burst_most=random.choice((1, 8, 64)),
    )
    tight = random.random() < 0.3  # only one partial object fits: what a pass leaves half is given up for the next
    if tight:
        # nor may a pass be reordered over more blocks than are open at once (ACTIVE_BLOCKS_MAX): here a block is some
        # ten datagrams, and 10 ms are more than four of them, in every pass
        faults = replace(faults, loss=0, outage=0, jitter=min(faults.jitter, 0.0005))
    return PowerPlan(
        faults,
        senders=1 if tight else random.choice((1, 1, 2)),
        releases=random.randrange(1, 4),
        cuts=random.random() < 0.8,
        crashes=random.choice((0, 0.02, 0.1)),
        damage=random.choice((0, 0, 0.3)),
        space=LARGEST if tight else 1 << 30,
        sync_s=random.choice((0.0, 0.002, 1.0)),
    )


class PowerWorld:
    """Build from a seed, then :meth:`run`, once."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.plan = plan(random)
        self.clock = VirtualClock()

    def run(self) -> PowerOutcome:
        """Run to the end; AssertionError when a law is broken."""
        with quiet_folder() as folder, mock.patch.object(assemble, "SYNC_S", self.plan.sync_s):
            return self._run(folder)

    def _run(self, folder: Path) -> PowerOutcome:
        random, plan = self.random, self.plan
        signers = [Ed25519PrivateKey.from_private_bytes(random.randbytes(32)) for _ in range(plan.senders)]
        private = X25519PrivateKey.from_private_bytes(random.randbytes(32))
        inlet, self.outlet = one_way_link(plan.faults, random)
        here = Disk(folder / "high", Random(random.random()))
        there = [Disk(folder / f"low-{number}", Random(random.random())) for number in range(plan.senders)]
        coded: dict[str, bytes] = {}
        with watched(here, *there):
            trusted = TrustedSenders.of(*(signer.public_key() for signer in signers))
            self.receiver = receiver = CaptureOnDisk(here, trusted, private, coded, random, plan.space)
            receiver.damage = plan.damage
            self.senders = [
                ScheduledSender(
                    disk,
                    signer,
                    [private.public_key()],
                    random,
                    self.clock,
                    inlet,
                    random.choice((560, 1_472)),
                    self._deliver,
                    f"collection-{number}",
                    coded,
                )
                for number, (disk, signer) in enumerate(zip(there, signers, strict=True))
            ]
            try:
                rounds = self._live()
                self._check()
            finally:
                for sender in self.senders:
                    sender.close()
                receiver.close()
        return PowerOutcome(
            self.seed,
            rounds,
            receiver.cuts,
            sum(sender.cuts for sender in self.senders),
            receiver.checked["blobs"],
            receiver.checked["ranges"],
            {drop.value: count for drop, count in sorted(receiver.drops.items(), key=str)},
            inlet.counters.sent,
        )

    def _live(self) -> int:
        rounds = 0
        for _ in range(self.plan.releases):
            self._restless(True)
            for sender in self.senders:
                self._publish(sender)
            rounds += self._until_complete()
        return rounds

    def _restless(self, on: bool) -> None:
        random = self.random
        cuts = on and self.plan.cuts
        self.receiver.plan_cut = lambda: (
            random.randrange(random.choice((20, 200))) if cuts and random.random() < 0.9 else None
        )
        for sender in self.senders:
            sender.plan_cut = lambda: random.randrange(30) if cuts and random.random() < 0.5 else None
        for side in (self.receiver, *self.senders):
            side.arm()
        self._crashes = self.plan.crashes if on else 0.0

    def _publish(self, sender: ScheduledSender) -> None:
        random = self.random
        items = []
        for _ in range(random.randrange(1, 4)):
            size = random.randrange(1, random.choice((3_000, 60_000, LARGEST, LARGEST)))
            how = random.choice(list(Coding))
            body = random.randbytes(size) if how is Coding.IDENTITY else random.randbytes(size // 8 + 1) * 8
            items.append(Item(Kind.BLOB, body, how))
        small = {digest_of(body): body for body in (random.randbytes(random.randrange(1, 900)) for _ in range(4))}
        items.append(Item(Kind.BATCH, batch.pack(list(small.items())), random.choice(list(Coding))))
        sender.publish(items, small, keep=random.random() < 0.6, urgent=random.random() < 0.3)

    def _until_complete(self) -> int:
        for number in range(1, ROUNDS_MAX + 1):
            if number == RESTLESS_ROUNDS:
                self._restless(False)
            self._round()
            if not self._lacking():
                return number
            for sender in self.senders:
                sender.carousel()
        raise AssertionError(f"not complete after {ROUNDS_MAX} rounds; lacks {self._lacking()}")

    def _round(self) -> None:
        """Until each sender has sent what it has queued."""
        random = self.random
        left = list(self.senders)
        while left:
            sender = random.choice(left)
            if random.random() < self._crashes:
                if random.random() < 0.5:
                    sender.crash()
                elif random.random() < 0.7:
                    self.receiver.crash(random.choice(list(Loss)))
                else:
                    self.receiver.stop()
            if not sender.step():
                left.remove(sender)
        for sender in self.senders:
            sender.world.idle(random.choice((0.02, 0.3)))
        self.clock.advance(0.1)
        self._deliver()
        self.receiver.settle()

    def _deliver(self) -> None:
        for burst, size in self.outlet.receive(self.clock.now):
            self.receiver.receive(burst, size)

    def _lacking(self) -> list[str]:
        releases = self.receiver.releases()
        lacks = [
            sender.collection for sender in self.senders if releases.get(sender.collection) != sender.world.release
        ]
        return lacks + [
            digest for sender in self.senders for digest in sender.wanted if not self.receiver.has(digest)
        ]

    def _check(self) -> None:
        receiver = self.receiver
        for sender in self.senders:
            for digest, content in sender.wanted.items():
                assert receiver.content(digest) == content, f"{digest} differs"
        receiver.stop()
        assert not receiver.leftovers(), receiver.leftovers()
        wrong = receiver.drops[Drop.CODED_DIGEST_MISMATCH]
        assert wrong <= receiver.damages, f"{wrong} objects with wrong bytes; the disk changed {receiver.damages}"
        assert not receiver.drops[Drop.CONTENT_DIGEST_MISMATCH]
