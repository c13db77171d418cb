"""``checkvalve-sender fetch --once`` against ``skopeo copy`` to ``dir:``: the same images from one docker-registry.

Both begin with an empty folder on the same disk and go in turn; what is dirty is written out before the clock starts.
skopeo runs once for each image, as it copies one at a time. Layers do not compress. fetch is all of it: starting,
looking for referrers, verifying, fsync, and preparing what goes on the wire, which ends after the last blob is in the
spool. With the default budget of 20 requests a second, as it is shipped, and with one that does not bind. How long
starting takes, which a daemon does once, is what a round of no images takes; it is said beside, not taken off.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import MEGA, Spread, timed
from benchmarks.upstream import DockerRegistry, SenderFolder, download, upload
from benchmarks.usage import Usage
from oci.layout import Layout
from tests.lab.world import missing_programs
from tests.support.images import random_image
from tests.support.processes import Processes

_NAME: Final = "bench/images"
_FETCH_S: Final = 300.0
_UNBOUNDED: Final = "10000/s"


@dataclass(frozen=True, slots=True)
class Effort:
    """Sets of images (number, layers of each, bytes of each layer), and runs."""

    sets: tuple[tuple[int, int, int], ...] = ((4, 4, 12 * MEGA), (4, 4, 120 * MEGA))
    runs: int = 5


FULL: Final = Effort()
QUICK: Final = Effort(((2, 4, 25 * MEGA),), runs=2)
TINY: Final = Effort(((1, 2, MEGA),), runs=1)


def measure(effort: Effort) -> dict[str, Any]:
    """Return a row for each set of images, or ``{"skipped": reason}``."""
    if reason := missing_programs():
        return {"skipped": reason}
    rows = []
    with tempfile.TemporaryDirectory(prefix="fetch-") as scratch:
        for number, shape in enumerate(effort.sets):
            rows.append(_row(Path(scratch) / str(number), shape, effort.runs))
    return {"rows": rows}


def _row(folder: Path, shape: tuple[int, int, int], runs: int) -> dict[str, Any]:
    folder.mkdir()
    with Processes(folder / "logs") as processes:
        registry = DockerRegistry(processes, folder / "upstream")
        pins, size = _push(registry, folder, shape)
        bench = _Bench(folder, registry.host, pins)
        ways = {
            "fetch": bench.fetch,
            "fetch_unbounded": bench.fetch_unbounded,
            "skopeo": bench.skopeo,
            "starting": bench.starting,
        }
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for run in range(runs):
            for way in list(ways) if run % 2 == 0 else reversed(ways):
                found[way].append(ways[way]())
            print("  " + ", ".join(f"{way} {each[-1]['seconds']:.2f} s" for way, each in found.items()), flush=True)
    shutil.rmtree(folder)
    spread = {
        way: {each: Spread.of([one[each] for one in measured]).as_json() for each in measured[0]}
        for way, measured in found.items()
    }
    skopeo = statistics.median(each["seconds"] for each in found["skopeo"])
    ratios = {way: round(spread[way]["seconds"]["median"] / skopeo, 2) for way in ("fetch", "fetch_unbounded")}
    return {"images": len(pins), "layers": shape[1], "bytes": size, **spread, "ratios": ratios}


def _push(registry: DockerRegistry, folder: Path, shape: tuple[int, int, int]) -> tuple[list[str], int]:
    """Make the images and push them; return name:tag@digest of each, and the bytes of all."""
    layout, pins, size = Layout(folder / "images"), [], 0
    number, layers, layer_bytes = shape
    for tag in map(str, range(number)):
        image = asyncio.run(random_image(layout, _NAME, tag, [layer_bytes] * layers, seed=int(tag)))
        upload(layout, _NAME, tag, registry.host, folder)
        pins.append(f"{_NAME}:{tag}@{image.root.digest}")
        size += image.content_bytes
    shutil.rmtree(layout.root)
    return pins, size


class _Bench:
    """Both ways, each into a folder that is removed afterwards."""

    def __init__(self, folder: Path, host: str, pins: list[str]) -> None:
        self._folder = folder
        self._host = host
        self._pins = pins

    def fetch(self) -> dict[str, float]:
        """Fetch with the default budget."""
        return self._fetch({})

    def fetch_unbounded(self) -> dict[str, float]:
        """Fetch with a budget that does not bind."""
        return self._fetch({"requests": _UNBOUNDED})

    def starting(self) -> dict[str, float]:
        """Fetch nothing."""
        return self._round([], {})

    def _fetch(self, more: dict[str, str]) -> dict[str, float]:
        return self._round([f"{self._host}/{pin}" for pin in self._pins], more)

    def _round(self, images: list[str], more: dict[str, str]) -> dict[str, float]:
        sender = SenderFolder(self._folder / "sender")
        sender.configure({"fetch": {"registries": {self._host: {"plain_http": True, **more}}}})
        sender.list_images(*images)
        os.sync()
        with Processes(self._folder / "logs") as processes:
            begun, start = time.time(), time.perf_counter()
            fetch = processes.start("fetch", sender.argv("fetch", "--once"))
            with Usage({"fetch": fetch.pid}) as usage:
                code = fetch.wait(_FETCH_S)
                seconds = time.perf_counter() - start
        if code:
            raise RuntimeError(fetch.describe(f"ended with {code}"))
        blobs = [path.stat().st_mtime for path in (sender.folder / "state/spool/blobs").rglob("*")]
        shutil.rmtree(sender.folder)
        return {"seconds": seconds, "spooled_s": max(blobs, default=begun) - begun, **asdict(usage.used()["fetch"])}

    def skopeo(self) -> dict[str, float]:
        """Copy one image after the other."""
        targets = {pin: self._folder / f"copy-{number}" for number, pin in enumerate(self._pins)}
        os.sync()

        def copy() -> None:
            for pin, target in targets.items():
                name, _, digest = pin.partition("@")
                download(f"{self._host}/{name.partition(':')[0]}@{digest}", target, self._folder)

        seconds = timed(copy)
        for target in targets.values():
            shutil.rmtree(target)
        return {"seconds": seconds}
