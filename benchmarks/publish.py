"""``checkvalve-receiver publish`` against ``skopeo copy`` from a layout: the same images, to docker-registry.

Both read the same image layout, which is the receiver's spool, and each round pushes into an empty registry of its
own on the same disk; what is dirty is written out before the clock starts. skopeo runs once for each image, as it
copies one at a time. Layers do not compress. publish is all of it: noticing and opening the release, walking each
closure, pushing, looking that all is there, then the tags; with ``--once`` starting and ending too, as for skopeo.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import MEGA, Spread, timed
from benchmarks.upstream import DockerRegistry, upload
from benchmarks.usage import Usage
from oci.layout import Layout
from protocol.release import Content, ReleaseImage
from tests.lab.world import missing_programs
from tests.receiver.site import Site
from tests.support.images import MadeImage, random_image
from tests.support.processes import Processes, command

_NAME: Final = "bench/images"
_PUBLISH_S: Final = 300.0
_LOOK_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Effort:
    """Sets of images (number, layers of each, bytes of each layer), and runs."""

    sets: tuple[tuple[int, int, int], ...] = ((4, 4, 12 * MEGA), (4, 4, 120 * MEGA), (40, 3, MEGA // 2))
    runs: int = 5


FULL: Final = Effort()
QUICK: Final = Effort(((2, 4, 25 * MEGA), (10, 3, MEGA // 2)), runs=2)
TINY: Final = Effort(((1, 2, MEGA),), runs=1)


def measure(effort: Effort) -> dict[str, Any]:
    """Return a row for each set of images, or ``{"skipped": reason}``."""
    if reason := missing_programs():
        return {"skipped": reason}
    with tempfile.TemporaryDirectory(prefix="publish-") as scratch:
        return {
            "rows": [
                _row(Path(scratch) / str(number), shape, effort.runs) for number, shape in enumerate(effort.sets)
            ]
        }


def _row(folder: Path, shape: tuple[int, int, int], runs: int) -> dict[str, Any]:
    folder.mkdir()
    number, layers, layer_bytes = shape
    bench = _Bench(folder)
    size = sum(bench.add(str(tag), [layer_bytes] * layers) for tag in range(number))
    ways = {"daemon": bench.daemon, "once": bench.once, "skopeo": bench.skopeo}
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
    ratios = {way: round(spread[way]["seconds"]["median"] / skopeo, 2) for way in ("daemon", "once")}
    return {"images": number, "layers": layers, "bytes": size, **spread, "ratios": ratios}


class _Bench:
    """All ways, each into a registry that is removed afterwards; the receiver's journal begins anew each time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._layout = Layout(folder / "spool")
        self._images: list[ReleaseImage] = []

    def add(self, tag: str, layers: list[int]) -> int:
        """Make an image; return its bytes."""
        made = asyncio.run(random_image(self._layout, _NAME, tag, layers, seed=int(tag)))
        self._images.append(_entry(self._layout, tag, made))
        return made.content_bytes

    def once(self) -> dict[str, float]:
        """Publish them as one release by a process that starts for it and ends after it."""
        with self._receiver() as (processes, site):
            argv = [*command("checkvalve-receiver"), "publish", "--once", "--since", "0"]
            site.release(*self._images)
            os.sync()
            start = time.perf_counter()
            process = processes.start("publish", [*argv, "--config", str(site.config)])
            with Usage({"publish": process.pid}) as usage:
                code = process.wait(_PUBLISH_S)
                seconds = time.perf_counter() - start
            if code:
                raise RuntimeError(process.describe(f"ended with {code}"))
        return {"seconds": seconds, **asdict(usage.used()["publish"])}

    def daemon(self) -> dict[str, float]:
        """Publish them as one release that comes to a process that is waiting for it."""
        with self._receiver() as (processes, site):
            argv = [*command("checkvalve-receiver"), "publish", "--config", str(site.config)]
            process = processes.start("publish", argv)
            deadline = time.monotonic() + _PUBLISH_S
            while "publish" not in site.journal.live():
                time.sleep(_LOOK_S)
            os.sync()
            with Usage({"publish": process.pid}) as usage:
                start = time.perf_counter()
                site.release(*self._images)
                while site.journal.newest_releases()[0].published is None:
                    if process.code is not None or time.monotonic() > deadline:
                        raise RuntimeError(process.describe("did not publish"))
                    time.sleep(_LOOK_S)
                seconds = time.perf_counter() - start
        return {"seconds": seconds, **asdict(usage.used()["publish"])}

    @contextmanager
    def _receiver(self) -> Iterator[tuple[Processes, Site]]:
        """An empty registry and a receiver that publishes there; both are gone afterwards."""
        with Processes(self._folder / "logs") as processes:
            registry = DockerRegistry(processes, self._folder / "internal")
            site = Site(self._folder / "receiver")
            (self._folder / "receiver/state/spool").symlink_to(self._layout.root)
            site.configure(f"{{registry: {{url: 'http://{registry.host}'}}}}")
            try:
                yield processes, site
            finally:
                site.journal.close()
        shutil.rmtree(self._folder / "receiver")
        shutil.rmtree(self._folder / "internal")

    def skopeo(self) -> dict[str, float]:
        """Copy one image after the other."""
        with Processes(self._folder / "logs") as processes:
            registry = DockerRegistry(processes, self._folder / "internal")
            os.sync()

            def copy() -> None:
                for image in self._images:
                    upload(self._layout, _NAME, image.tags[0], registry.host, self._folder)

            seconds = timed(copy)
        shutil.rmtree(self._folder / "internal")
        return {"seconds": seconds}


def _entry(layout: Layout, tag: str, made: MadeImage) -> ReleaseImage:
    document = json.loads(layout.blobs.path(made.root.digest).read_bytes())
    parts = [document["config"], *document["layers"]]
    closure = tuple(Content(part["mediaType"], part["digest"], part["size"]) for part in parts)
    root = Content(made.root.media_type, made.root.digest, made.root.size)
    return ReleaseImage(f"docker.io/{_NAME}", (tag,), root, closure)
