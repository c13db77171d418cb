"""How close the link came to losing blocks, and what to do about it: pure arithmetic on counts.

A block's *need* is the most repair symbols that one of its codewords took, of the *m* that it had. Loss is measured
by gaps in packet numbers. Random loss needs repair symbols by the binomial distribution; what goes beyond that came
in bursts, against which interleaving (`link.outage`) helps. Loss in this host's kernel no code should have to repair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

_MARGIN: Final = "margin."
CODEWORD_FAILS_MAX: Final = 1e-7  # chance that a codeword of a well-chosen code is lost
ENOUGH: Final = 0.6  # of the repair symbols: what the worst block may take with the code that is advised
STEP: Final = 5  # percent, of the ratios that are advised
KERNEL_SHARE: Final = 0.02  # of the loss: with GRO the kernel counts a burst of some 50 datagrams once


@dataclass(frozen=True, slots=True)
class Meter:
    """What came and what was lost in some time; datagrams unless named otherwise."""

    datagrams: int = 0
    bytes: int = 0
    lost: int = 0
    kernel_drops: int = 0  # of this host; with GRO bursts of up to 64 datagrams, each counted once
    repaired: int = 0  # source symbols
    blocks: int = 0  # completed
    blocks_lost: int = 0  # too little of them came
    worst: int = 0  # need of the block that came closest, of worst_of repair symbols to worst_k source symbols
    worst_of: int = 0
    worst_k: int = 0

    @property
    def loss(self) -> float:
        """The share of datagrams that was lost, 0 to 1."""
        sent = self.datagrams + self.lost
        return self.lost / sent if sent > 0 else 0.0

    @property
    def used(self) -> float:
        """The share of its repair symbols that the worst block needed, 0 to 1."""
        return self.worst / self.worst_of if self.worst_of else 0.0

    def plus(self, other: Meter) -> Meter:
        """Return both together."""
        closer = other if other.used > self.used else self
        return replace(
            closer,
            datagrams=self.datagrams + other.datagrams,
            bytes=self.bytes + other.bytes,
            lost=max(0, self.lost + other.lost),  # what was late is no longer lost, perhaps in another minute
            kernel_drops=self.kernel_drops + other.kernel_drops,
            repaired=self.repaired + other.repaired,
            blocks=self.blocks + other.blocks,
            blocks_lost=self.blocks_lost + other.blocks_lost,
        )

    def document(self) -> dict[str, Any]:
        """Return it for JSON; loss in ppm."""
        return {
            "datagrams": self.datagrams,
            "bytes": self.bytes,
            "lost": self.lost,
            "loss_ppm": round(self.loss * 1e6),
            "kernel_drops": self.kernel_drops,
            "repaired": self.repaired,
            "blocks": self.blocks,
            "blocks_lost": self.blocks_lost,
            "worst_used": self.worst,
            "worst_of": self.worst_of,
        }


def margin_name(need: int, m: int, k: int) -> str:
    """Return the name of the counter of blocks with this need."""
    return f"{_MARGIN}{need}.{m}.{k}"


def is_margin(name: str) -> bool:
    """Whether a counter is one of those."""
    return name.startswith(_MARGIN)


def meter_of(counts: dict[str, int]) -> Meter:
    """Return what counters (or their differences) by the names of lane.py say."""
    worst = (0, 0, 0)
    for name, count in counts.items():
        if is_margin(name) and count > 0:
            need, m, k = (int(part) for part in name.removeprefix(_MARGIN).split("."))
            if need * max(1, worst[1]) > worst[0] * m:
                worst = need, m, k
    return Meter(
        datagrams=counts.get("datagrams", 0),
        bytes=counts.get("bytes", 0),
        lost=counts.get("lost", 0),
        kernel_drops=counts.get("kernel_drops", 0),
        repaired=counts.get("repaired", 0),
        blocks=counts.get("blocks", 0),
        blocks_lost=counts.get("drop.block_abandoned", 0),
        worst=worst[0],
        worst_of=worst[1],
        worst_k=worst[2],
    )


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about the repair ratio: *verdict* is enough, raise, kernel, bursts or unknown."""

    verdict: str
    text: str
    repair: float | None = None  # the ratio to set, of source symbols


def summary(meter: Meter) -> str:
    """``1.2 % lost, worst block used 11 of 20 repair symbols``."""
    if not meter.datagrams:
        return "nothing received"
    parts = [f"{percent(meter.loss)} lost"]
    if meter.worst_of:
        parts.append(f"worst block used {meter.worst} of {meter.worst_of} repair symbols")
    elif meter.blocks:
        parts.append("no block needed a repair symbol")
    if meter.blocks_lost:
        parts.append(f"{meter.blocks_lost:,} block{'' if meter.blocks_lost == 1 else 's'} lost")
    return ", ".join(parts)


def percent(share: float) -> str:
    """``0 %``, ``0.004 %``, ``1.2 %``, ``13 %``: two digits that mean something."""
    value = 100 * share
    if value == 0 or value >= 9.95:
        return f"{value:.0f} %"
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f} %" if value >= 0.0001 else "below 0.0001 %"


def advise(meter: Meter) -> Advice:
    """Say whether the repair ratio is enough for what *meter* saw."""
    if meter.kernel_drops and meter.kernel_drops >= KERNEL_SHARE * meter.lost:
        return Advice(
            "kernel",
            f"this host's kernel dropped {meter.kernel_drops:,}: raise listen.receive_buffer, and run "
            "`checkvalve-receiver doctor`; judge the repair ratio when that has ended",
        )
    if not meter.blocks and not meter.blocks_lost:
        return Advice("unknown", "no block has come, so the repair ratio was not tried")
    losing = bool(meter.blocks_lost and meter.lost)
    if not losing and meter.used <= ENOUGH:
        return Advice("enough", "the repair ratio is enough")
    if not meter.worst_of:
        return Advice("bursts", "blocks were lost and none was repaired: the link breaks off; raise link.outage")
    k, m = meter.worst_k, meter.worst_of
    by_chance = symbols_needed(meter.loss, k)
    if losing and by_chance <= m:
        return Advice(
            "bursts",
            f"{percent(meter.loss)} random loss would not lose blocks at {percent(m / k)} repair: loss comes in "
            "bursts; raise link.outage above the longest of them",
        )
    wanted = max(by_chance, math.ceil(meter.worst / ENOUGH), math.ceil(1.5 * m) if losing else 0)
    ratio = math.ceil(100 * wanted / k / STEP) * STEP / 100
    why = "blocks are lost" if losing else "the margin is small"
    return Advice("raise", f"{why}: raise link.repair on the sender to {percent(ratio)}", ratio)


def symbols_needed(loss: float, k: int) -> int:
    """Return how many repair symbols a codeword of *k* source symbols needs against independent *loss* (0 to 1)."""
    if loss <= 0:
        return 0
    if loss >= 1:
        return 255 - k
    m = 0
    while m < 255 - k and _more_lost_than(m, k + m, loss) > CODEWORD_FAILS_MAX:
        m += 1
    return m


def _more_lost_than(most: int, symbols: int, loss: float) -> float:
    """Return the chance that more than *most* of so many symbols are lost."""
    chance = 0.0
    for lost in range(most + 1, symbols + 1):
        chance += math.exp(
            math.lgamma(symbols + 1)
            - math.lgamma(lost + 1)
            - math.lgamma(symbols - lost + 1)
            + lost * math.log(loss)
            + (symbols - lost) * math.log1p(-loss)
        )
    return chance
