"""One seeded world: a sender, a link with faults, a receiver, restarts on both sides, and the laws they must keep.

Laws: what completes is byte-identical; wrong bytes are never stored; with loss within the repair budget one pass
is enough; after enough passes everything has arrived; what is replayed afterwards changes nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol.drops import Drop
from protocol.objects import Coding
from protocol.trust import TrustedSenders
from tests.simulator.clock import VirtualClock
from tests.simulator.link import Faults, one_way_link
from tests.simulator.receiving import ReceivingWorld
from tests.simulator.sending import SendingWorld
from tests.simulator.storage import MemoryContents, MemoryPartials, MemoryRemembered

PASSES_MAX = 200
RESTLESS_PASSES = 20  # then nobody restarts any more: a pass that never ends completes nothing
REPLAYED_MOST = 400
DAMAGES_MAX = 3
JITTER = 0.0001  # where one pass has to do: reorders across less than the blocks that the decoder keeps open


@dataclass(frozen=True)
class Plan:
    """What a seed decides."""

    faults: Faults
    restarts: float  # probability before each block, of either side
    senders: int  # on the one link, each with its own datagram size and collection
    damage: float  # probability before each block that the receiver's disk changes a bit
    releases: int
    one_pass: bool  # loss stays within the repair budget, so one pass has to do


@dataclass(frozen=True)
class Outcome:
    """What a world came to, to compare and to print."""

    seed: int
    passes: int
    sessions: int
    opened: int
    contents: int
    datagrams: int
    lost: int
    repaired: int
    drops: dict[str, int]
    damaged: int  # objects found changed by the disk, and received again


def plan(random: Random) -> Plan:
    if random.random() < 0.25:
        faults = Faults(loss=random.random() * 0.6, codeword_budget=2, jitter=random.choice((0, JITTER)))
        return Plan(faults, 0.0, 1, 0.0, 1, True)
    faults = Faults(
        loss=random.choice((0, 0.01, 0.05, 0.2)),
        outage=random.choice((0, 0.001, 0.01)),
        outage_seconds=0.02,
        duplicate=random.choice((0, 0.02)),
        corrupt=random.choice((0, 0.005, 0.05)),
        replay=random.choice((0, 0.02, 0.2)),
        invent=random.choice((0, 0.02)),
        jitter=random.choice((0, 0.0005, 0.01)),
        burst_most=random.choice((1, 8, 64)),
    )
    return Plan(
        faults,
        random.choice((0, 0.02, 0.1)),
        random.choice((1, 1, 2)),
        random.choice((0, 0.2)),
        random.randrange(1, 4),
        False,
    )


class World:
    """Build from a seed, then :meth:`run`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.plan = plan(random)
        self.clock = VirtualClock()
        signers = [Ed25519PrivateKey.from_private_bytes(random.randbytes(32)) for _ in range(self.plan.senders)]
        private = X25519PrivateKey.from_private_bytes(random.randbytes(32))
        others = [
            X25519PrivateKey.from_private_bytes(random.randbytes(32)) for _ in range(random.choice((0, 0, 1, 9)))
        ]
        publics = [private.public_key(), *(other.public_key() for other in others)]
        inlet, self.outlet = one_way_link(self.plan.faults, random)
        self.link = inlet.counters
        self.senders = [
            SendingWorld(
                signer,
                publics,
                random,
                self.clock,
                inlet,
                random.choice((560, 576, 1_472, 2_048)),
                self._deliver,
                f"collection-{number}",
            )
            for number, signer in enumerate(signers)
        ]
        self.contents = MemoryContents()
        self.partials = MemoryPartials()
        self.damaged = 0
        self.receiver = ReceivingWorld(
            TrustedSenders.of(*(signer.public_key() for signer in signers)),
            private,
            self.partials,
            self.contents,
            MemoryRemembered(),
            random,
        )

    def run(self) -> Outcome:
        """Run to the end; AssertionError when a law is broken."""
        passes = 0
        for _ in range(self.plan.releases):
            for sender in self.senders:
                self._publish(sender)
            passes += self._until_complete()
        self._check_contents()
        drops = self._drops()
        if self.plan.one_pass:
            assert passes == 1, f"one pass was to do, {passes} were needed"
            assert set(drops) <= {"replayed", "unknown_session", "block_abandoned"}, drops
        self._replay_changes_nothing()
        drops = self._drops()
        receiver, link = self.receiver, self.link
        assert {problem.drop for problem in receiver.problems} <= {Drop.CODED_DIGEST_MISMATCH}, receiver.problems
        assert len(receiver.problems) <= self.damaged, "more wrong objects than the disk damaged"
        return Outcome(
            seed=self.seed,
            passes=passes,
            sessions=sum(sender.sessions for sender in self.senders),
            opened=receiver.opened,
            contents=sum(len(sender.contents) for sender in self.senders),
            datagrams=link.sent,
            lost=link.lost,
            repaired=receiver.repaired,
            drops=drops,
            damaged=len(receiver.problems),
        )

    def _publish(self, sender: SendingWorld) -> None:
        random = self.random
        blobs = []
        for _ in range(random.randrange(1, 4)):
            size = random.choice(
                (1, random.randrange(1, 3_000), random.randrange(1, 60_000), random.randrange(1, 150_000))
            )
            how = random.choice(list(Coding))
            body = (
                random.randbytes(size) if how is Coding.IDENTITY else bytes(random.randrange(4) for _ in range(size))
            )
            blobs.append((body, how))
        small = [random.randbytes(random.randrange(1, 900)) for _ in range(random.randrange(0, 6))]
        sender.publish(blobs, [*small, b""] if small else [])

    def _until_complete(self) -> int:
        for number in range(1, PASSES_MAX + 1):
            self._one_pass(self.plan.restarts if number <= RESTLESS_PASSES else 0.0)
            if self._complete():
                return number
        raise AssertionError(f"not complete after {PASSES_MAX} passes; lacks {self._lacking()}")

    def _one_pass(self, restarts: float) -> None:
        random = self.random
        left = [(sender, sender.pass_over()) for sender in self.senders]
        while left:
            chosen = random.randrange(len(left))
            sender, plan = left[chosen]
            if random.random() < restarts:
                if random.random() < 0.5:
                    sender.restart()  # its table is new: the pass begins again with the same content
                    left[chosen] = (sender, sender.pass_over())
                    continue
                random.choice((self.receiver.crash, self.receiver.stop))()
            if self.damaged < DAMAGES_MAX and random.random() < self.plan.damage:
                self.damaged += self.partials.damage(random)
            entry, sbn = plan.pop(0)
            sender.send_block(entry, sbn, sender.coded_of(entry))
            if not plan:
                del left[chosen]
        random.choice(self.senders).idle(random.choice((0.02, 0.3, 2.0)))
        self.clock.advance(0.1)
        self._deliver()

    def _deliver(self) -> None:
        for burst, size in self.outlet.receive(self.clock.now):
            self.receiver.receive(burst, size)

    def _complete(self) -> bool:
        marks = self.receiver.remembered.releases
        newest = {collection: (mark.sequence, mark.digest) for collection, mark in marks.items()}
        return not self._lacking() and newest == {sender.collection: sender.release for sender in self.senders}

    def _lacking(self) -> list[str]:
        return [digest for sender in self.senders for digest in sender.contents if not self.contents.has(digest)]

    def _check_contents(self) -> None:
        for sender in self.senders:
            for digest, content in sender.contents.items():
                assert self.contents.contents[digest] == content, f"{digest} differs"

    def _drops(self) -> dict[str, int]:
        self.receiver.tally()
        return {drop.value: count for drop, count in sorted(self.receiver.drops.items(), key=str)}

    def _replay_changes_nothing(self) -> None:
        """Send again a part of everything ever sent, to this receiver and to it after a restart."""
        recorded = self.outlet.recorded()
        chosen = self.random.sample(recorded, min(REPLAYED_MOST, len(recorded)))
        for restarted in (False, True):
            if restarted:
                self.receiver.stop()
            before = copy.deepcopy((self.contents.state(), self.receiver.remembered))
            for datagram in chosen:
                self.receiver.receive(datagram, len(datagram))
            assert (self.contents.state(), self.receiver.remembered) == before, (
                "a replayed datagram changed the state"
            )
