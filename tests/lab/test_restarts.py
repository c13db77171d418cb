"""Either side is ended in the middle of a transfer, politely and by SIGKILL: what has arrived is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oci.layout import Layout
from tests.lab.oneway import OneWay
from tests.lab.world import Registries, Sides, kill, until
from tests.support.images import random_image
from tests.support.processes import Process

pytestmark = [pytest.mark.lab, pytest.mark.registry]

MakeSides = Callable[..., Sides]
END: dict[str, Callable[[Process], object]] = {"stop": Process.stop, "kill": kill}
SIZE = 24_000_000
RATE = "120Mbit"  # 13 MB/s of content: the layer takes about two seconds


async def upload(registries: Registries, tmp_path: Path, name: str, seed: int) -> str:
    layout = Layout(tmp_path / "layout")
    await random_image(layout, f"library/{name}", "1", [SIZE], seed=seed)
    return registries.upload(layout.root, f"library/{name}", "1")


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_the_receiver_ends_in_the_middle_and_the_repeat_completes_it(
    lab: OneWay, registries: Registries, make_sides: MakeSides, tmp_path: Path, end: str
) -> None:
    name = f"receiver-{end}"
    root = await upload(registries, tmp_path, name, seed=10)
    lab.set_loss(100)
    sides = make_sides(name, rate=RATE, repeats={"passes": 8})
    sides.list_images(f"{name}:1@{root}")
    receiver = sides.start_receiver()
    sides.start_sender()
    until(lambda: sides.partial_bytes() > SIZE // 4, 20, "a quarter of the layer is here", every=0.02)
    END[end](receiver)
    kept = sides.partial_bytes()
    assert SIZE // 4 < kept < SIZE

    sides.start_receiver()
    target = f"{name}/docker.io/library/{name}"
    until(lambda: registries.tagged(target, "1") == root, 25, "the image is complete after the repeat")
    assert sides.partial_bytes() == 0
    assert lab.counts().high_sent == 0


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_the_sender_ends_in_the_middle_and_what_had_arrived_is_not_needed_again(
    lab: OneWay, registries: Registries, make_sides: MakeSides, tmp_path: Path, end: str
) -> None:
    name = f"sender-{end}"
    root = await upload(registries, tmp_path, name, seed=11)
    lab.set_loss(0)
    sides = make_sides(name, rate=RATE)
    sides.list_images(f"{name}:1@{root}")
    sides.start_receiver()
    sender = sides.start_sender()
    until(lambda: sides.partial_bytes() > SIZE * 7 // 10, 20, "most of the layer is here", every=0.02)
    END[end](sender)
    kept = sides.partial_bytes()

    # The second session begins 0.62 into the layer: it is complete long before what is here already comes by again.
    before = sides.sent_bytes()
    sides.start_sender()
    until(lambda: before != sides.sent_bytes() and sides.partial_bytes() == 0, 15, "the layer is complete")
    assert sides.sent_bytes() < kept
    target = f"{name}/docker.io/library/{name}"
    until(lambda: registries.tagged(target, "1") == root, 20, "the image is complete")
    assert lab.counts().high_sent == 0
