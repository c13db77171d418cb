"""Losses in bursts and at random against the repair ratio: the protocol's own encoder and decoder, a simulated link.

Every datagram of one pass is recorded once for each repair ratio; then the decoder is given all but what a seeded
link loses, again and again. Residual failure at low loss, which no run could show, is computed from the exact
binomial distribution; the same formula is checked at losses high enough to count failures of the real decoder.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import alternating, overhead
from benchmarks.pipeline import IP_UDP_BYTES, session
from protocol.buffers import BlockBuffer, block_symbols
from protocol.decoder import Decoder, ReceiveBuffer
from protocol.encoder import Encoder
from protocol.events import BlockAbandoned, BlockComplete, Event, ObjectAnnounced
from protocol.geometry import LinkProfile, profile_for_link
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.outgoing import OutgoingBlock
from protocol.ranges import RangeSet
from protocol.wire import BurstView, Type, datagram_bytes_for_mtu, datagrams_per_burst, symbol_bytes

MTU: Final = 1500
LINK_BITS_PER_S: Final = 1e9
OUTAGE_S: Final = 0.010
RATIOS: Final = (0.05, 0.10, 0.20)
LENGTHS: Final = (1, 10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 880, 1_000, 1_200, 1_500, 2_000)
RANDOM: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.10)
_DATAGRAM: Final = datagram_bytes_for_mtu(MTU)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for each figure."""

    lengths: tuple[int, ...] = LENGTHS
    ratios: tuple[float, ...] = RATIOS
    trials: int = 6  # places of a burst
    block_trials: int = 300  # blocks for each checked point of the formula
    checked: int = 3  # points for each repair ratio
    monte_carlo: int = 200_000


FULL: Final = Effort()
QUICK: Final = Effort(LENGTHS[2::3], trials=2, block_trials=40, checked=1, monte_carlo=20_000)
TINY: Final = Effort((10, 1_500), (0.10,), trials=1, block_trials=4, checked=1, monte_carlo=1_000)


def measure(effort: Effort) -> dict[str, Any]:
    """Return bursts recovered, residual failure computed and checked, and the parameters that keep to a bound."""
    bursts, checks, computed = [], [], []
    for ratio in effort.ratios:
        profile = profile_for_link(symbol_bytes(_DATAGRAM), LINK_BITS_PER_S / 8 / MTU, ratio, OUTAGE_S)
        bursts.append(_bursts(ratio, profile, effort))
        print(f"  repair {ratio:.0%}: {_recovered(bursts[-1])}", flush=True)
        computed.append(_computed(ratio, profile))
        checks += _checks(ratio, effort)
    return {
        "mtu": MTU,
        "link_gbit": LINK_BITS_PER_S / 1e9,
        "outage_ms": OUTAGE_S * 1_000,
        "bursts": bursts,
        "random": computed,
        "checks": checks,
        "parameters": overhead.measure(effort.monte_carlo),
        "alternating": alternating.measure(effort.monte_carlo),
    }


class Recorded:
    """All datagrams of one pass over one object, in order, and receivers that can open them."""

    def __init__(self, profile: LinkProfile, size: int) -> None:
        content = os.urandom(size)
        self.digest = hashlib.sha256(content).digest()
        self.size = size
        name = "sha256:" + self.digest.hex()
        self.entry = ObjectEntry(1, Kind.BLOB, Coding.IDENTITY, name, size, name, profile.geometry(size))
        encoder, self._make_decoder = session(_DATAGRAM)
        self.bursts = _all(encoder, self.entry, content)
        self.datagrams = [datagram for burst in self.bursts for datagram in burst]

    def receive(self, kept: Callable[[int], bool]) -> tuple[int, bool]:
        """Give a decoder the datagrams that *kept* names; return blocks complete and whether all bytes match."""
        link = _Receiver(self._make_decoder(), self.size)
        at = 0
        for burst in self.bursts:  # as they were sent: what a burst announces is known before the next one comes
            link.take([datagram for number, datagram in enumerate(burst, at) if kept(number)])
            at += len(burst)
        link.end()
        return link.complete, hashlib.sha256(link.out).digest() == self.digest


class _Receiver:
    """The decoder and what its events ask for."""

    def __init__(self, decoder: Decoder, size: int) -> None:
        self._decoder = decoder
        self._buffer = ReceiveBuffer()
        self.out = bytearray(size)
        self.complete = 0

    def take(self, datagrams: Sequence[bytes]) -> None:
        joined = b"".join(datagrams)
        self._buffer.memory[: len(joined)] = joined
        self._handle(self._decoder.receive_burst(self._buffer, len(joined), _DATAGRAM) if joined else [])

    def end(self) -> None:
        self._handle(self._decoder.close())

    def _handle(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case ObjectAnnounced(announced):
                    self._decoder.want(announced, RangeSet())
                case BlockComplete(block):
                    block.restore()
                    for offset, piece in block.finished():
                        self.out[offset : offset + len(piece)] = piece
                    self.complete += 1
                    self._decoder.give_back(block)
                case BlockAbandoned(block):
                    self._decoder.give_back(block)


def _all(encoder: Encoder, entry: ObjectEntry, content: bytes) -> list[list[bytes]]:
    """Return every burst of one pass, as a full link would carry them."""
    geometry, count = entry.geometry, datagrams_per_burst(_DATAGRAM)
    view = BurstView(memoryview(bytearray(count * _DATAGRAM)), _DATAGRAM, count)
    buffer = BlockBuffer(block_symbols(geometry.block(0)), geometry.symbol_bytes)
    encoder.set_upcoming([entry])
    sent: list[list[bytes]] = []
    now, sbn = 0.0, 0
    while sbn < geometry.blocks or not encoder.wants_block:
        if encoder.wants_block and encoder.may_start(entry.toi):
            shape = geometry.block(sbn)
            buffer.memory[: shape.size] = content[shape.offset : shape.offset + shape.size]
            encoder.load(OutgoingBlock(entry, shape, buffer))
            sbn += 1
        filled = encoder.next_burst(view, now)
        sent.append([bytes(datagram) for datagram in view.datagrams[:filled]])
        now += filled * MTU * 8 / LINK_BITS_PER_S if filled else 0.001
    return sent


def _bursts(ratio: float, profile: LinkProfile, effort: Effort) -> dict[str, Any]:
    """Lose one burst of each length at several seeded places of an object of three blocks."""
    recorded = Recorded(profile, 3 * profile.k * profile.depth * profile.symbol_bytes)
    sent = len(recorded.datagrams)
    rows = []
    for length in effort.lengths:
        coin = random.Random(f"{ratio} {length}")
        whole = 0
        for _ in range(effort.trials):
            start = coin.randrange(sent - length)
            whole += recorded.receive(lambda at, start=start, end=start + length: not start <= at < end)[1]  # type: ignore[misc]
        rows.append({"length": length, "whole": whole, "trials": effort.trials})
    return {
        "ratio": ratio,
        "k": profile.k,
        "m": profile.m,
        "depth": profile.depth,
        "block_mib": round((profile.k + profile.m) * profile.depth * profile.symbol_bytes / 2**20, 1),
        "wire_overhead": round(sent * (_DATAGRAM + IP_UDP_BYTES) / recorded.size - 1, 4),
        "rows": rows,
    }


def _recovered(bursts: dict[str, Any]) -> str:
    whole = [row["length"] for row in bursts["rows"] if row["whole"] == row["trials"]]
    return f"bursts up to {max(whole, default=0)} datagrams recovered, wire +{bursts['wire_overhead']:.1%}"


def _computed(ratio: float, profile: LinkProfile) -> dict[str, Any]:
    """Compute what share of blocks is not whole after one pass, with random loss and nothing else."""
    code = overhead.Code(profile.k, profile.m, profile.depth)
    return {
        "ratio": ratio,
        "k": code.k,
        "m": code.m,
        "depth": code.depth,
        "failure": {str(loss): float(f"{code.failure(loss, burst=0):.3g}") for loss in RANDOM},
    }


def _checks(ratio: float, effort: Effort) -> list[dict[str, Any]]:
    """Count blocks that the real decoder could not restore, at losses where the formula expects many."""
    k = min(200, int(255 / (1 + ratio)))
    profile = LinkProfile(symbol_bytes(_DATAGRAM), k, max(1, round(k * ratio)), 4, outage=1)
    recorded = Recorded(profile, 20 * profile.k * profile.depth * profile.symbol_bytes)
    blocks = recorded.entry.geometry.blocks
    symbols = [datagram[3] == Type.SYMBOL for datagram in recorded.datagrams]
    passes = max(1, effort.block_trials // blocks)
    rows = []
    for wanted in (0.3, 0.05, 0.7)[: effort.checked]:
        code = overhead.Code(profile.k, profile.m, profile.depth)
        loss = _loss_for(code, wanted)
        coin = random.Random(f"{ratio} {wanted}")
        failed = sum(
            blocks - recorded.receive(lambda at, loss=loss, coin=coin: not symbols[at] or coin.random() >= loss)[0]  # type: ignore[misc]
            for _ in range(passes)
        )
        count, expected = passes * blocks, code.failure(loss, burst=0)
        rows.append({
            "ratio": ratio, "k": code.k, "m": code.m, "depth": code.depth, "loss": loss, "blocks": count,
            "failed": failed, "expected": round(expected * count, 1),
            "sigmas": round((failed - expected * count) / math.sqrt(count * expected * (1 - expected)), 2),
        })  # fmt: skip
    return rows


def _loss_for(code: overhead.Code, wanted: float) -> float:
    """Return the loss at which a block fails with probability *wanted*, to four digits."""
    low, high = 0.0, 0.5
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if code.failure(middle, burst=0) < wanted else (low, middle)
    return round(low, 4)
