"""From registry to registry: across the diode, and beside it ``skopeo copy`` between registries on one side.

Both registries are Debian's docker-registry, and every one of the images is one layer that does not compress. Across
the diode everything is on and both daemons are waiting when the image is listed; the time runs until the internal
registry has the tag. For skopeo there is no diode: the registry that it copies to is a third one, empty as the
internal one, on the side where the upstream is. Rounds alternate, in one run.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import MEGA, Spread, timed
from benchmarks.usage import Usage
from oci.layout import Layout
from tests.lab.oneway import OneWay, missing
from tests.lab.world import INTERNAL, UPSTREAM, Registries, Sides, docker_registry, missing_programs
from tests.support.images import random_image

DIRECT: Final = "127.0.0.1:5001"  # on the low side
NAME: Final = "library/bench"
POLL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Effort:
    """Size of the layer (bytes), rounds, and the link's rate."""

    size: int = 600 * MEGA
    rounds: int = 3
    rate: str = "4000Mbit"
    timeout_s: float = 60.0


FULL: Final = Effort()
QUICK: Final = Effort(60 * MEGA, 1)
TINY: Final = Effort(MEGA, 1, "200Mbit")


def measure(effort: Effort) -> dict[str, Any]:
    """Return both times and their ratio, or ``{"skipped": reason}``."""
    if reason := missing() or missing_programs():
        return {"skipped": reason}
    with (
        tempfile.TemporaryDirectory(prefix="registry-") as scratch,
        OneWay() as lab,
        _world(lab, Path(scratch)) as world,
    ):
        sides = Sides(lab, world.folder / "sides", "internal", rate=effort.rate, repeats={"carousel": "10s"})
        try:
            receiver, sender = sides.start_receiver(), sides.start_sender()
            sender.wait_line("session_opened")
            with Usage({"sender": sender.pid, "receiver": receiver.pid}) as usage:
                rounds = [_round(world, sides, number, effort) for number in range(effort.rounds)]
        finally:
            said = sides.stop()
    if any(each["diode"] is None for each in rounds):
        return {"skipped": f"an image did not cross within {effort.timeout_s:g} s at {effort.rate}: {said[-300:]}"}
    stages = {name: Spread.of([each[name] for each in rounds]).as_json() for name in ("fetch", "cross", "publish")}
    diode, direct = ([each[way] for each in rounds] for way in ("diode", "skopeo"))
    return {
        "layer_bytes": effort.size,
        "rate": effort.rate,
        "diode_s": Spread.of(diode).as_json(),
        "skopeo_s": Spread.of(direct).as_json(),
        "stages_s": stages,
        "ratio": round(statistics.median(diode) / statistics.median(direct), 2),
        "used": {side: asdict(used) for side, used in usage.used().items()},
    }


@contextmanager
def _world(lab: OneWay, folder: Path) -> Iterator[Registries]:
    with (
        docker_registry(lab.in_low, folder / "upstream", UPSTREAM),
        docker_registry(lab.in_low, folder / "direct", DIRECT),
        docker_registry(lab.in_high, folder / "internal", INTERNAL) as data,
    ):
        (folder / "sides").mkdir()
        yield Registries(lab, folder, data)


def _round(world: Registries, sides: Sides, number: int, effort: Effort) -> dict[str, Any]:
    """Bring a new image upstream, then both ways; which goes first alternates."""
    layout, tag = Layout(world.folder / "layout"), str(number)
    asyncio.run(random_image(layout, NAME, tag, [effort.size], seed=number))
    digest = world.upload(layout.root, NAME, tag)
    shutil.rmtree(layout.root)

    def skopeo() -> float:
        options = ["--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
        source, target = f"docker://{UPSTREAM}/{NAME}:{tag}", f"docker://{DIRECT}/{NAME}:{tag}"
        return timed(lambda: world.skopeo(world.lab.in_low, "copy", *options, source, target))

    def diode() -> float | None:
        start, listed = time.monotonic(), time.time()
        sides.list_images(f"docker.io/{NAME}:{tag}@{digest}")
        while world.tagged(f"internal/docker.io/{NAME}", tag) != digest:
            if time.monotonic() > start + effort.timeout_s:
                return None
            time.sleep(POLL_S)
        stages.update(_stages(sides, listed, time.time()))
        return time.monotonic() - start

    stages: dict[str, float] = {}
    ways = {"skopeo": skopeo, "diode": diode}
    order = list(ways) if number % 2 == 0 else list(reversed(ways))
    taken = {way: ways[way]() for way in order}
    print("  " + ", ".join(f"{way} {seconds or 0:.1f} s" for way, seconds in taken.items()), flush=True)
    return taken | stages


def _stages(sides: Sides, listed: float, tagged: float) -> dict[str, float]:
    """Return what of the time between listing and tag (Unix times) went where, by the last events of the logs."""
    lines = [line for process in sides.processes for line in process.lines()]
    fetched, received = _last(lines, '"round_finished"'), _last(lines, '"kind": "blob"')
    return {"fetch": fetched - listed, "cross": received - fetched, "publish": tagged - received}


def _last(lines: list[str], what: str) -> float:
    found = [json.loads(line)["timestamp"] for line in lines if what in line]
    return max((datetime.fromisoformat(each).timestamp() for each in found), default=0.0)
