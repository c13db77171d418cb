"""``python -m tests.simulator --seed N`` runs the worlds of one seed; ``--worlds W --seed S`` those of S, S + 1, ...

A seed is two worlds: one of the protocol alone, in memory (world.py), and one with power cuts, where the real capture
role and the real queue run on simulated disks (powerworld.py). ``--kind`` runs one of them. ``--jobs`` shares a
campaign among processes.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

from tests.simulator.disk import PowerCut
from tests.simulator.powerworld import PowerWorld
from tests.simulator.world import World

KINDS: Final = {"memory": World, "power": PowerWorld}
TELL_S: Final = 15.0


def run(kinds: tuple[str, ...], seed: int) -> tuple[int, Counter[str], list[str]]:
    """Run the worlds of a seed; return it, what they came to, and what went wrong."""
    came, wrong = Counter[str](), []
    for kind in kinds:
        try:
            outcome = KINDS[kind](seed).run()
        except (Exception, PowerCut):  # any failure of a world is what a campaign looks for
            again = f"replay it with: python -m tests.simulator --seed {seed} --kind {kind}"
            wrong.append(f"{traceback.format_exc()}seed {seed} failed, {kind}; {again}")
        else:
            came.update({kind: 1, "datagrams": outcome.datagrams})
            for name in ("receiver_cuts", "sender_cuts", "blobs_checked", "ranges_checked", "lost", "repaired"):
                came[name] += getattr(outcome, name, 0)
    return seed, came, wrong


def main() -> int:
    """Run what the command line asks for; exit code 1 if a world broke a law."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seed", type=int, help="the world to run, or the first of a campaign")
    parser.add_argument("--worlds", type=int, help="run a campaign of so many seeds")
    parser.add_argument("--kind", choices=sorted(KINDS), help="only these worlds")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    given = parser.parse_args()
    base = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    kinds = (given.kind,) if given.kind else tuple(KINDS)
    if given.worlds is None and given.seed is not None:
        for kind in kinds:
            world = KINDS[kind](base)
            print(world.plan)
            print(world.run())
        return 0
    worlds = given.worlds or 100
    print(f"base seed {base}, {worlds} seeds, {' and '.join(kinds)}", flush=True)
    begun, said = time.monotonic(), time.monotonic()
    came, failed = Counter[str](), 0
    with ProcessPoolExecutor(given.jobs) as pool:
        for done, (_, outcome, wrong) in enumerate(pool.map(partial(run, kinds), range(base, base + worlds)), 1):
            came += outcome
            failed += len(wrong)
            print(*wrong, sep="\n", end="\n" if wrong else "", flush=True)
            if time.monotonic() - said > TELL_S:
                said = time.monotonic()
                print(f"{said - begun:5.0f} s  {done} of {worlds} seeds, {failed} worlds failed", flush=True)
    figures = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in came.items())
    print(f"{worlds} seeds: {failed} worlds failed; kept every law: {figures}; {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
