"""``python -m tests.crash``: the campaign with kill -9, in a lab of its own. Needs root; see ``make crash``."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.campaign import SETTINGS, Campaign, Scale
from tests.lab.oneway import OneWay, missing
from tests.lab.world import INTERNAL, UPSTREAM, Registries, Sides, docker_registry, missing_programs


def main() -> int:
    """Run one campaign; exit code 1 if anything was lost, wrong or left over."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--seed", type=int, help="what is killed when; a random one if not given")
    parser.add_argument("--kills", type=int, default=200, help="of each role (default: %(default)s)")
    parser.add_argument("--bulk", type=int, default=250_000_000, help="bytes of the largest layer")
    parser.add_argument("--lanes", type=int, default=1, help="of the link (default: %(default)s)")
    given = parser.parse_args()
    if reason := missing() or missing_programs():
        print(f"error: {reason}", file=sys.stderr)
        return 1
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {line}", flush=True)

    say(f"seed {seed}; again with: make crash SEED={seed} KILLS={given.kills}")
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    scale = Scale(given.kills, max(4, given.kills // 4), given.bulk, 12_000_000)
    with OneWay() as lab, docker_registry(lab.in_low, folder / "upstream", UPSTREAM):
        with docker_registry(lab.in_high, folder / "internal", INTERNAL) as data:
            registries = Registries(lab, folder, data)
            sides = Sides(lab, folder, "internal", lanes=given.lanes, **SETTINGS)
            try:
                outcome = Campaign(lab, registries, sides, folder, seed, scale).run(say)
            except AssertionError as error:
                say(f"FAILED, seed {seed}: {error}")
                say(f"what is left to look at: {folder}")
                return 1
    shutil.rmtree(folder)
    say(f"seed {seed}: {outcome.line()}")
    say("every digest matches; journals sound, nothing left over; the high side sent 0 packets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
