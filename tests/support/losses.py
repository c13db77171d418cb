"""Which datagrams a lossy link drops: single ones and bursts, drawn from a seed. Knows no socket."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class LossPattern:
    """Independent single losses and bursts of consecutive ones; the same seed and traffic give the same losses.

    *single* and *burst* are shares of all datagrams (0.01 is 1 %); burst lengths are uniform in *lengths*.
    """

    single: float
    burst: float
    lengths: tuple[int, int] = (5, 100)
    seed: int = 1
    lost_single: int = 0
    lost_burst: int = 0
    bursts: int = 0
    _rng: random.Random = field(init=False)
    _to_single: int = field(init=False)  # datagrams until the next single loss
    _to_burst: int = field(init=False)  # and until the next burst begins
    _in_burst: int = field(init=False, default=0)  # datagrams that the current one still takes
    _burst_start: float = field(init=False)

    def __post_init__(self) -> None:
        if not (0 <= self.single < 1 and 0 <= self.burst < 1 and 1 <= self.lengths[0] <= self.lengths[1]):
            raise ValueError(f"no loss pattern: {self.single}, {self.burst}, {self.lengths}")
        self._rng = random.Random(self.seed)
        mean = sum(self.lengths) / 2
        # A share b of losses in bursts of mean length L: gaps between bursts are L (1 - b) / b long on average.
        self._burst_start = self.burst / (mean * (1 - self.burst) + self.burst)
        self._to_single = self._gap(self.single)
        self._to_burst = self._gap(self._burst_start)

    @property
    def lost(self) -> int:
        """All datagrams dropped so far."""
        return self.lost_single + self.lost_burst

    def kept(self, count: int) -> list[tuple[int, int]]:
        """Return the ranges [start, end) of the next *count* datagrams that get through."""
        if not self._in_burst and self._to_single >= count and self._to_burst >= count:
            self._to_single -= count
            self._to_burst -= count
            return [(0, count)]
        ranges: list[tuple[int, int]] = []
        for at in range(count):
            if self._passes():
                if ranges and ranges[-1][1] == at:
                    ranges[-1] = (ranges[-1][0], at + 1)
                else:
                    ranges.append((at, at + 1))
        return ranges

    def _passes(self) -> bool:
        """Decide one datagram. Single losses that fall into a burst are spared for after it."""
        if not self._in_burst and self._to_burst == 0:
            self._in_burst = self._rng.randint(*self.lengths)
            self._to_burst = self._gap(self._burst_start)
            self.bursts += 1
        if self._in_burst:
            self._in_burst -= 1
            self.lost_burst += 1
            return False
        self._to_burst -= 1
        if self._to_single == 0:
            self._to_single = self._gap(self.single)
            self.lost_single += 1
            return False
        self._to_single -= 1
        return True

    def _gap(self, probability: float) -> int:
        """Draw how many datagrams get by before an event of *probability* (geometric)."""
        if probability == 0:
            return 1 << 62
        return int(math.log(1 - self._rng.random()) / math.log1p(-probability))
