"""The internal registry is away for the middle of a run, frozen or stopped: publishing waits, then all is there."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oci.layout import Layout
from tests.lab.oneway import OneWay
from tests.lab.world import UPSTREAM, Registries, Sides, start_registry, until
from tests.support.images import random_image

pytestmark = [pytest.mark.lab, pytest.mark.registry]

IMAGES = 6
LAYERS = [1_500_000, 40_000, 500_000]
ADDRESS = "127.0.0.1:5001"


@pytest.mark.parametrize("how", ["frozen", "stopped"])
async def test_a_registry_that_is_away_for_the_middle_half_is_waited_for(
    lab: OneWay, registries: Registries, make_sides: Callable[..., Sides], tmp_path: Path, how: str
) -> None:
    names = [f"{how}-{number}" for number in range(IMAGES)]
    layout = Layout(tmp_path / "layout")
    roots = {}
    for number, name in enumerate(names):
        await random_image(layout, f"library/{name}", "1", LAYERS, seed=number)
        roots[name] = registries.upload(layout.root, f"library/{name}", "1")
    folder = tmp_path / "registry"
    server = start_registry(lab.in_high, folder, ADDRESS)
    internal = Registries(lab, registries.folder, folder / "data")

    def published() -> int:
        return sum(internal.tagged(f"internal/docker.io/library/{name}", "1") == roots[name] for name in names)

    lab.set_loss(100)
    sides = make_sides("internal", rate="60Mbit", repeats={"carousel": "2s"}, internal=ADDRESS)
    spool = sides.high / "state/spool/blobs/sha256"
    try:
        sides.list_images(*(f"{name}:1@{root}" for name, root in roots.items()))
        receiver = sides.start_receiver()
        sides.start_sender()
        until(lambda: published() >= IMAGES // 4, 60, "a quarter of the images is there", every=0.01)
        if how == "frozen":
            server.signal(signal.SIGSTOP)
        else:
            server.stop()
        begun, before = time.monotonic(), published()
        until(lambda: all((spool / root.partition(":")[2]).exists() for root in roots.values()), 60, "all came")
        until(lambda: sides.partial_bytes() == 0, 30, "nothing is half received")
        time.sleep(max(1.0, time.monotonic() - begun))  # and on, until it was away for half of the whole
        assert before <= published() < IMAGES
        assert receiver.code is None
        status = sides.status("receiver")
        assert not status["ok"], "an image that waits for the registry is no state that is well"
        if how == "frozen":
            server.signal(signal.SIGCONT)
        else:
            server = start_registry(lab.in_high, folder, ADDRESS)
        until(lambda: published() == IMAGES, 90, "all images are there, without anybody's help")
        until(lambda: sides.status("receiver")["ok"], 20, "status says that all is well", every=0.3)
        for number, name in enumerate(names[-2:]):
            target = f"{ADDRESS}/internal/docker.io/library/{name}:1"
            here = internal.download(lab.in_high, target, tmp_path / f"here-{number}")
            there = registries.download(lab.in_low, f"{UPSTREAM}/library/{name}:1", tmp_path / f"there-{number}")
            assert here == there
        assert receiver.code is None
        assert lab.counts().high_sent == 0
    finally:
        server.signal(signal.SIGCONT)
        server.stop()
