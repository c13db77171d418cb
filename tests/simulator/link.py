"""A seeded one-way link. It hands out two ends: one can only send, the other only receive; there is no way back.

Faults are drawn from one random generator, so a seed is a run. What the attacker on the low side can do is here
too: replay anything sent before, flip bits, invent datagrams.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from random import Random

from protocol.limits import RECEIVE_BURST_BYTES_MAX
from protocol.wire import HEADER, HEADER_BYTES, Type


@dataclass(frozen=True)
class Faults:
    """Probabilities are per datagram; times in seconds."""

    loss: float = 0.0
    outage: float = 0.0  # probability that an outage begins with a datagram
    outage_seconds: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    replay: float = 0.0  # an earlier datagram, of any session, comes again
    invent: float = 0.0  # random bytes
    delay: float = 0.0005
    jitter: float = 0.0  # of the delay; reorders
    burst_most: int = 64  # datagrams the receiver's kernel coalesces
    codeword_budget: int | None = None  # lose symbols only, and at most so many of each codeword


@dataclass
class LinkCounters:
    sent: int = 0
    lost: int = 0
    corrupted: int = 0
    duplicated: int = 0
    replayed: int = 0
    invented: int = 0


class _Wire:
    def __init__(self, faults: Faults, random: Random) -> None:
        self.faults = faults
        self.random = random
        self.counters = LinkCounters()
        self.history: list[bytes] = []
        self.flying: list[tuple[float, int, bytes]] = []
        self.outage_until = -1.0
        self.blackout = (0.0, 0.0)
        self.spent: Counter[bytes] = Counter()

    def loses(self, datagram: bytes, now: float) -> bool:
        faults, random = self.faults, self.random
        if faults.codeword_budget is not None:
            header = HEADER.unpack(datagram[:HEADER_BYTES])
            codeword = datagram[4:8] + datagram[16:24] + datagram[26:28]
            if header[2] != Type.SYMBOL or self.spent[codeword] >= faults.codeword_budget:
                return False
            lost = random.random() < faults.loss
            self.spent[codeword] += lost
            return lost
        if now < self.outage_until or self.blackout[0] <= now < self.blackout[1]:
            return True
        if faults.outage and random.random() < faults.outage:
            self.outage_until = now + random.random() * faults.outage_seconds
            return True
        return random.random() < faults.loss

    def fly(self, datagram: bytes, now: float) -> None:
        arrives = now + self.faults.delay + self.random.random() * self.faults.jitter
        heapq.heappush(self.flying, (arrives, self.counters.sent, datagram))
        self.counters.sent += 1


class Inlet:
    """The sending end."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def send(self, burst: bytes, datagram_bytes: int, now: float) -> None:
        wire, random, faults = self._wire, self._wire.random, self._wire.faults
        for at in range(0, len(burst), datagram_bytes):
            datagram = burst[at : at + datagram_bytes]
            wire.history.append(datagram)
            if wire.loses(datagram, now):
                wire.counters.lost += 1
            elif random.random() < faults.corrupt:
                wire.counters.corrupted += 1
                wire.fly(corrupted(datagram, random), now)
            else:
                wire.fly(datagram, now)
            if random.random() < faults.duplicate:
                wire.counters.duplicated += 1
                wire.fly(datagram, now)
            if random.random() < faults.replay:
                wire.counters.replayed += 1
                wire.fly(random.choice(wire.history), now)
            if random.random() < faults.invent:
                wire.counters.invented += 1
                wire.fly(random.randbytes(random.choice((0, 1, 31, 32, 48, datagram_bytes, 1_472, 9_000))), now)

    def black_out(self, start: float, end: float) -> None:
        """Lose everything that is sent from *start* until *end* (seconds of the world)."""
        self._wire.blackout = start, end

    @property
    def counters(self) -> LinkCounters:
        return self._wire.counters


class Outlet:
    """The receiving end: bursts as a kernel with GRO hands them over."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def receive(self, now: float) -> list[tuple[bytes, int]]:
        """Return (bytes, datagram size) of the bursts that have arrived; the last datagram of one may be shorter."""
        wire = self._wire
        bursts: list[tuple[bytes, int]] = []
        room = 0
        while wire.flying and wire.flying[0][0] <= now:
            _, _, datagram = heapq.heappop(wire.flying)
            if not datagram:
                continue
            previous, size = bursts[-1] if bursts else (b"", 0)
            joins = room > 0 and len(datagram) <= size and len(previous) + len(datagram) <= RECEIVE_BURST_BYTES_MAX
            if joins:
                bursts[-1] = (previous + datagram, size)
                room = room - 1 if len(datagram) == size else 0
            else:
                bursts.append((datagram, len(datagram)))
                room = wire.random.randrange(wire.faults.burst_most)
        return bursts

    def recorded(self) -> list[bytes]:
        """Everything that was ever sent, for an attacker to send again."""
        return list(self._wire.history)


def one_way_link(faults: Faults, random: Random) -> tuple[Inlet, Outlet]:
    """Return the two ends of a new link."""
    wire = _Wire(faults, random)
    return Inlet(wire), Outlet(wire)


def corrupted(datagram: bytes, random: Random) -> bytes:
    """Flip a bit, cut, or lengthen."""
    choice = random.randrange(4)
    if choice == 0:
        return datagram[: random.randrange(len(datagram))]
    if choice == 1:
        return datagram + random.randbytes(random.randrange(1, 64))
    at = random.randrange(len(datagram) if choice == 2 else HEADER_BYTES)
    return datagram[:at] + bytes((datagram[at] ^ 1 << random.randrange(8),)) + datagram[at + 1 :]
