"""What one more codeword in each block, the XOR of all others, would save: rows and columns decoded in turn.

Not part of the protocol: calculated and simulated, to show what a bound on wire bytes asks for. A column (codeword)
is restored when at most m of its symbols are missing, a row when at most one is; each restored one may make another
possible. What stays is a stopping set: at least two columns, each with more than m missing, in rows that lack at
least two. An outage costs each column b symbols, so it takes m - b + 1 more, in the same rows of each. The bound sums
over the small ones (up to two more columns and rows than the least); that larger ones are rarer is what the
simulation, at a multiple of the loss, is for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.overhead import BURST, FAILURE_MAX, LOSS, WIRE_MAX, Code
from protocol.limits import CODEWORD_SYMBOLS_MAX

LOSSES: Final = (0.01, 0.02, 0.03, 0.04, 0.05)


def measure(trials: int) -> dict[str, Any]:
    """Return the parameters that keep both bounds with the least memory, and how many simulated blocks failed."""
    code = min(_within(), key=lambda each: each.block_bytes)
    blocks = max(5, trials // code.columns // 10)
    coin = random.Random(f"{code}")
    return code.as_json() | {
        "failure": float(f"{failure(code):.3g}"),
        "checks": [
            {"loss": loss, "blocks": blocks, "failed": sum(fails(code, loss, coin) for _ in range(blocks))}
            for loss in LOSSES
        ],
    }


def _within() -> Iterator[Code]:
    for m in range(4, 16):
        for depth in range(20, 400, 2):
            code = Code(CODEWORD_SYMBOLS_MAX - m, m, depth, 1)
            if code.wire <= WIRE_MAX and failure(code) < FAILURE_MAX:
                yield code


def failure(code: Code, loss: float = LOSS) -> float:
    """Return the bound on the probability that a block with one outage is not whole."""
    more = code.m - -(-BURST // code.columns) + 1  # symbols that each stuck column lost beyond the outage
    if more <= 0:
        return 1.0
    return math.fsum(
        math.comb(code.columns, columns)
        * math.comb(code.k + code.m, rows)
        * math.comb(columns * rows, cells := max(columns * more, rows * 2))
        * loss**cells
        for columns in range(2, 5)
        for rows in range(more, more + 3)
    )


def fails(code: Code, loss: float, coin: random.Random) -> bool:
    """Lose datagrams of one block one by one, and an outage; return whether decoding in turn gets stuck."""
    width, total = code.columns, (code.k + code.m) * code.columns
    start = coin.randrange(total - BURST + 1)
    lost = set(range(start, start + BURST))
    scale, at = math.log1p(-loss), -1
    while (at := at + 1 + int(math.log(1 - coin.random()) / scale)) < total:
        lost.add(at)
    columns: list[set[int]] = [set() for _ in range(width)]
    rows: list[set[int]] = [set() for _ in range(code.k + code.m)]
    for at in lost:
        columns[at % width].add(at // width)
        rows[at // width].add(at % width)
    while _restore(columns, rows, code.m) | _restore(rows, columns, code.outer):
        pass
    return any(columns)


def _restore(lines: list[set[int]], crossing: list[set[int]], most: int) -> bool:
    """Restore every line that misses at most *most*; return whether there was one."""
    found = False
    for number, missing in enumerate(lines):
        if 0 < len(missing) <= most:
            for other in missing:
                crossing[other].discard(number)
            missing.clear()
            found = True
    return found
