"""``python -m tests.simulator --seed N`` runs one world; ``--worlds W --seed S`` runs worlds S, S + 1, ..."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import traceback

from tests.simulator.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seed", type=int, help="the world to run, or the first of a campaign")
    parser.add_argument("--worlds", type=int, help="run a campaign of so many worlds")
    arguments = parser.parse_args()
    base = secrets.randbelow(1 << 31) if arguments.seed is None else arguments.seed
    if arguments.worlds is None and arguments.seed is not None:
        world = World(base)
        print(world.plan)
        print(world.run())
        return 0
    worlds = arguments.worlds or 100
    print(f"base seed {base}, {worlds} worlds", flush=True)
    begun, failed, datagrams = time.monotonic(), 0, 0
    for seed in range(base, base + worlds):
        try:
            datagrams += World(seed).run().datagrams
        except Exception:  # any failure of a world is what a campaign looks for
            failed += 1
            traceback.print_exc()
            print(f"seed {seed} failed; replay it with: python -m tests.simulator --seed {seed}", flush=True)
    seconds = time.monotonic() - begun
    print(f"{worlds - failed} of {worlds} worlds kept every law; {datagrams} datagrams, {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
