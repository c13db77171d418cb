"""The carousel brings everything, also to a receiver that loses the same part of every round: the real carousel,
queue and schedule, the real encoder and decoder, the real capture role.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol.geometry import checked
from protocol.objects import Kind
from protocol.trust import TrustedSenders
from sender.carousel import Carousel
from tests.simulator.capturing import CaptureOnDisk
from tests.simulator.clock import VirtualClock
from tests.simulator.disk import Disk, Loss, watched
from tests.simulator.link import Faults, one_way_link
from tests.simulator.powerworld import quiet_folder
from tests.simulator.scheduling import ScheduledSender
from tests.simulator.sending import Item

SIZE = 400_000  # of the one object that takes long: 79 blocks
SMALL = (5_000, 30, 9_000)  # of one block or two each
EVERY_S = 2.0  # between rounds of the carousel; one takes about 0.4 s
ROUNDS_MAX = 12


class Steady:
    """One sender and one receiver; from round to round nothing differs but the order."""

    def __init__(self, high: Disk, low: Disk) -> None:
        random = Random(3)
        signer = Ed25519PrivateKey.from_private_bytes(random.randbytes(32))
        private = X25519PrivateKey.from_private_bytes(random.randbytes(32))
        self.clock = VirtualClock()
        self.inlet, self.outlet = one_way_link(Faults(), random)
        coded: dict[str, bytes] = {}
        self.low = low
        self.receiver = CaptureOnDisk(high, TrustedSenders.of(signer.public_key()), private, coded, random)
        publics = [private.public_key()]
        self.sender = ScheduledSender(
            low, signer, publics, random, self.clock, self.inlet, 560, self._deliver, "default", coded
        )
        self.sender.world.geometry = lambda size: checked(size, 512, 10, 2, 1)  # type: ignore[method-assign]
        items = [Item(Kind.BLOB, random.randbytes(size)) for size in (SMALL[0], SIZE, *SMALL[1:])]
        self.sender.publish(items, {}, keep=False, urgent=False)
        self.inlet.black_out(0.0, float("inf"))  # nobody hears the passes that the queue begins with
        while self.sender.step():
            pass

    def _deliver(self) -> None:
        for burst, size in self.outlet.receive(self.clock.now):
            self.receiver.receive(burst, size)

    def round(self, blocks: int | None = None) -> float:
        """One round of the carousel, or its first *blocks*; return the seconds it took."""
        self.sender.world.idle(EVERY_S)
        begun, sent = self.clock.now, 0
        self.sender.journal.repeat(self.sender.release_digest)
        carousel = Carousel(self.sender.journal, EVERY_S)
        while True:
            self.sender.refresh()
            while (blocks is None or sent < blocks) and self.sender.step():
                sent += 1
            if sent == blocks:
                break
            if carousel.turn(self.sender.journal.newest_releases(), self.clock.now, self.clock.now) is None:
                break
        took = self.clock.now - begun
        self.clock.advance(0.1)
        self._deliver()
        self.receiver.settle()
        return took

    @property
    def complete(self) -> bool:
        """Whether the receiver has all that the release needs."""
        return all(self.receiver.has(digest) for digest in self.sender.wanted)


@contextmanager
def steady() -> Iterator[Steady]:
    """A world in which nothing has been heard yet."""
    with quiet_folder() as folder:
        high, low = Disk(folder / "high", Random(1)), Disk(folder / "low", Random(2))
        with watched(high, low):
            world = Steady(high, low)
            yield world
            world.sender.close()
            world.receiver.close()


@pytest.mark.parametrize("share", [0.1, 0.4])
@pytest.mark.parametrize("begins", [0.0, 0.3, 0.55])
def test_a_receiver_that_always_loses_the_same_part_of_a_round_gets_it_in_another(
    begins: float, share: float
) -> None:
    with steady() as world:
        seconds = world.round()
        for _ in range(ROUNDS_MAX):
            start = world.clock.now + EVERY_S
            world.inlet.black_out(start + begins * seconds, start + (begins + share) * seconds)
            world.round()
            if world.complete:
                return
        raise AssertionError(f"not complete after {ROUNDS_MAX} rounds")


def test_a_sender_that_never_lives_for_a_whole_round_still_sends_all_of_it() -> None:
    with steady() as world:
        world.inlet.black_out(0.0, 0.0)
        for _ in range(3 * ROUNDS_MAX):
            world.round(blocks=25)
            if world.complete:
                return
            world.low.cut(Loss.NOTHING)
            world.sender.rise()
        raise AssertionError("what comes after the first third of an object never came")
