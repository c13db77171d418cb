"""Which k, m and depth keep wire bytes per content byte low and a block's failure below one in 10^9, by calculation.

A block is D codewords of k source and m repair symbols, sent row by row, so that an outage of B datagrams costs each
codeword ceil(B / D) of them; each other datagram is lost with probability p by itself. One outage in every block is
assumed, which is more than any link has. An outer code is not part of the protocol; it is computed to show what a
bound would ask for: P more codewords in each block, whose symbols are parities of their rows, bring back up to P
codewords that failed. Wire bytes are IP packets, control datagrams included.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final

from protocol.encoder import Cadence
from protocol.limits import BLOCK_BYTES_MAX, CODEWORD_SYMBOLS_MAX, INTERLEAVE_MAX
from protocol.wire import datagram_bytes_for_mtu, symbol_bytes

MTU: Final = 1500
LOSS: Final = 0.01
OUTAGE_S: Final = 0.010
LINK_BITS_PER_S: Final = 1e9
FAILURE_MAX: Final = 1e-9
WIRE_MAX: Final = 1.12
SYMBOL: Final = symbol_bytes(datagram_bytes_for_mtu(MTU))
PER_SECOND: Final = LINK_BITS_PER_S / 8 / MTU
BURST: Final = math.ceil(PER_SECOND * OUTAGE_S)
_OUTER_MAX: Final = 12


def tail(n: int, p: float, spare: int) -> float:
    """Return the probability that more than *spare* of *n* are lost, each with probability *p*: exact binomial."""
    if spare < 0 or p >= 1:
        return float(spare < n)
    if p <= 0 or spare >= n:
        return 0.0
    if spare < n * p:  # the shorter way, where nothing cancels
        return 1.0 - _terms(n, p, 0, spare + 1)
    return _terms(n, p, spare + 1, n + 1)


def _terms(n: int, p: float, first: int, end: int) -> float:
    """Sum the binomial's terms from *first* until *end*, each from the one before."""
    log = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1)
    term = math.exp(log + first * math.log(p) + (n - first) * math.log1p(-p))
    total = 0.0
    for lost in range(first, end):
        total += term
        term *= (n - lost) / (lost + 1) * p / (1 - p)
        if lost > n * p and term < total * 1e-17:
            break
    return total


def any_of(count: int, each: float) -> float:
    """Return the probability that at least one of *count* happens."""
    return -math.expm1(count * math.log1p(-each)) if each < 1 else 1.0


@dataclass(frozen=True, slots=True)
class Code:
    """What a block is made of; *outer* parity codewords are not part of the protocol today."""

    k: int
    m: int
    depth: int  # codewords of content
    outer: int = 0

    @property
    def columns(self) -> int:
        """All codewords."""
        return self.depth + self.outer

    @property
    def block_bytes(self) -> int:
        """Memory of a whole block, repair included."""
        return (self.k + self.m) * self.columns * SYMBOL

    @property
    def wire(self) -> float:
        """IP bytes for each content byte, control datagrams at a full link included."""
        repair = (self.k + self.m) / self.k * self.columns / self.depth
        return repair * MTU / SYMBOL * (1 + control_share())

    def failure(self, loss: float = LOSS, burst: int = BURST) -> float:
        """Return the probability that a block with one outage is not whole."""
        taken = -(-burst // self.columns)
        each = _codeword(self.k + self.m, self.m, taken, loss)
        return tail(self.columns, each, self.outer) if self.outer else any_of(self.columns, each)

    def as_json(self, loss: float = LOSS) -> dict[str, Any]:
        """Everything about it."""
        return asdict(self) | {
            "block_mib": round(self.block_bytes / 2**20, 1),
            "allowed": not self.outer and self.block_bytes <= BLOCK_BYTES_MAX,
            "wire": round(self.wire, 4),
            "failure": float(f"{self.failure(loss):.3g}"),
        }


@cache
def _codeword(n: int, m: int, taken: int, loss: float) -> float:
    return tail(n - taken, loss, m - taken)


def control_share() -> float:
    """Return how many control datagrams a full link carries for each symbol: tables, announcements, beacons."""
    cadence = Cadence()
    return (1 / cadence.table + 1 / cadence.announcement + 1 / cadence.beacon) / PER_SECOND


def measure(trials: int) -> dict[str, Any]:
    """Return the best parameters of each kind, the least memory any code can do with, and the formula's check."""
    inside = [code for code in _codes(0) if code.block_bytes <= BLOCK_BYTES_MAX and code.failure() < FAILURE_MAX]
    present = [code for code in _codes(0) if code.failure() < FAILURE_MAX]
    within = [c for outer in range(1, _OUTER_MAX + 1) for c in _codes(outer) if c.wire <= WIRE_MAX]
    outer = [code for code in within if code.failure() < FAILURE_MAX]
    choices = {
        "least wire bytes within the block limit": min(inside, key=lambda code: code.wire, default=None),
        "least wire bytes with blocks of any size": min(present, key=lambda code: code.wire, default=None),
        "least memory with an outer code": min(outer, key=lambda c: c.block_bytes, default=None),
        "least wire bytes with an outer code": min(outer, key=lambda code: code.wire, default=None),
    }
    chosen = [code for code in choices.values() if code is not None]
    return {
        "loss": LOSS,
        "burst_datagrams": BURST,
        "wire_max": WIRE_MAX,
        "failure_max": FAILURE_MAX,
        "block_limit_mib": BLOCK_BYTES_MAX / 2**20,
        "control_share": round(control_share(), 5),
        "choices": {name: code and code.as_json() for name, code in choices.items()},
        "least_random_failure_within_wire_max": _random_alone(),
        "any_code_block_mib": round(_ideal_symbols() * SYMBOL / 2**20, 1),
        "checks": [_check(code, trials) for code in dict.fromkeys(chosen)],
    }


def _codes(outer: int) -> Iterator[Code]:
    for m in range(1, 64):
        k = min(CODEWORD_SYMBOLS_MAX - m, 254)
        for depth in range(8, INTERLEAVE_MAX + 1, 2):
            yield Code(k, m, depth, outer)


def _random_alone() -> dict[str, Any]:
    """Return the code without outer parity that keeps to the wire bound and fails least by random loss alone."""
    within = [Code(CODEWORD_SYMBOLS_MAX - m, m, 1) for m in range(1, 64)]
    best = min((code for code in within if code.wire <= WIRE_MAX), key=lambda code: code.failure(burst=0))
    return {"k": best.k, "m": best.m, "wire": round(best.wire, 4), "codeword_failure": best.failure(burst=0)}


def _ideal_symbols() -> int:
    """Return the symbols of the smallest block in which an ideal erasure code over all of it keeps both bounds."""
    share = 1 - MTU / SYMBOL * (1 + control_share()) / WIRE_MAX  # of all symbols that can be repair
    low, high = BURST, 1 << 20
    while low < high:
        n = (low + high) // 2
        spare = int(n * share)
        mean = (n - BURST) * LOSS
        sigma = math.sqrt(mean * (1 - LOSS))
        # six standard deviations: the normal tail is 1e-9
        low, high = (low, n) if spare >= BURST + mean + 6 * sigma else (n + 1, high)
    return low


def _check(code: Code, trials: int) -> dict[str, Any]:
    """Lose datagrams of whole blocks one by one, at a loss where blocks fail often; compare with the formula."""
    low, high = LOSS, 0.5
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if code.failure(middle) < 0.3 else (low, middle)
    loss = round(low, 4)
    coin = random.Random(f"{code}")
    expected = code.failure(loss)
    blocks = max(20, trials // code.columns)
    failed = sum(_fails(code, loss, coin) for _ in range(blocks))
    sigma = math.sqrt(expected * (1 - expected) / blocks)
    return asdict(code) | {
        "loss": loss,
        "blocks": blocks,
        "failed": failed,
        "expected": round(expected * blocks, 1),
        "sigmas": round((failed / blocks - expected) / sigma, 2),
    }


def _fails(code: Code, loss: float, coin: random.Random) -> bool:
    columns = code.columns
    total = (code.k + code.m) * columns
    start = coin.randrange(total - BURST + 1) if total > BURST else 0
    lost = [0] * columns
    for at in range(start, min(start + BURST, total)):
        lost[at % columns] += 1
    scale, at = math.log1p(-loss), -1
    while (at := at + 1 + int(math.log(1 - coin.random()) / scale)) < total:
        if not start <= at < start + BURST:
            lost[at % columns] += 1
    return sum(count > code.m for count in lost) > code.outer
