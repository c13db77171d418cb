"""The whole path in the one-way lab: upstream registry, both daemons, a lossy diode, internal registry."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, sha256_digest
from oci.layout import Layout
from tests.lab.oneway import OneWay
from tests.lab.world import INTERNAL, UPSTREAM, Registries, Sides, until
from tests.oci_layout.images import CONFIG, LAYER, Image, as_json, layer_tar
from tests.support.images import random_image

pytestmark = [pytest.mark.lab, pytest.mark.registry]

NAME = "library/nginx"
MakeSides = Callable[..., Sides]


def platform(image: Image, architecture: str, layers: list[Descriptor], contents: list[bytes]) -> Descriptor:
    """Add the manifest of one platform; *contents* are the layers' uncompressed tars."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [sha256_digest(content) for content in contents]},
    }
    return image.add_manifest(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": as_json(image.add_blob(CONFIG, json.dumps(config).encode())),
            "layers": [as_json(layer) for layer in layers],
        }
    ).descriptor


def two_platforms() -> Image:
    """An index of two platforms that share a gzip layer; each has one of its own, zstd and gzip."""
    image = Image()
    shared = layer_tar("shared", os.urandom(3_000_000) + bytes(2_000_000))
    own = {name: layer_tar(name, os.urandom(1_500_000)) for name in ("amd64", "arm64")}
    base = image.add_blob(f"{LAYER}+gzip", gzip.compress(shared, 1, mtime=0))
    zstd = image.add_blob(f"{LAYER}+zstd", zstandard.ZstdCompressor(level=3).compress(own["amd64"]))
    gzipped = image.add_blob(f"{LAYER}+gzip", gzip.compress(own["arm64"], 1, mtime=0))
    children = {
        "amd64": platform(image, "amd64", [base, zstd], [shared, own["amd64"]]),
        "arm64": platform(image, "arm64", [base, gzipped], [shared, own["arm64"]]),
    }
    entries = [as_json(each, platform={"os": "linux", "architecture": name}) for name, each in children.items()]
    image.add_manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    return image


@pytest.mark.parametrize("lanes", [1, 2])
async def test_images_cross_from_registry_to_registry_and_nothing_comes_back(
    lab: OneWay, registries: Registries, make_sides: MakeSides, tmp_path: Path, lanes: int
) -> None:
    layout = Layout(tmp_path / "layout")
    image = two_platforms()
    await image.push(layout.repository(NAME), "1.27")
    root = registries.upload(layout.root, NAME, "1.27")
    assert root == image.root.descriptor.digest  # skopeo kept index and zstd layer as they are
    await random_image(layout, "library/redis", "7", [2_000_000, 300_000], seed=1)
    later = registries.upload(layout.root, "library/redis", "7")

    lab.set_loss(100)
    sides = make_sides(f"internal{lanes}", lanes=lanes)
    sides.list_images(f"docker.io/{NAME}:1.27@{root}")
    receiver = sides.start_receiver()
    sender = sides.start_sender()
    target = f"internal{lanes}/docker.io/{NAME}"
    until(lambda: registries.tagged(target, "1.27") == root, 25, f"{target}:1.27 is in the internal registry")

    up, down = f"{UPSTREAM}/{NAME}:1.27", f"{INTERNAL}/{target}:1.27"
    assert registries.raw(lab.in_high, down) == registries.raw(lab.in_low, up) == image.root.raw
    before = registries.download(lab.in_low, up, tmp_path / "before")
    after = registries.download(lab.in_high, down, tmp_path / "after")
    assert after == before
    assert {name for name in after if len(name) == 64} >= {d.partition(":")[2] for d in image.blobs}

    sides.list_images(f"docker.io/{NAME}:1.27@{root}", f"redis:7@{later}")  # both keep running
    until(
        lambda: registries.tagged(f"internal{lanes}/docker.io/library/redis", "7") == later,
        20,
        "the added image has arrived",
    )

    counts = lab.counts()
    assert counts.dropped > 20
    assert counts.high_sent == 0
    assert (sender.code, receiver.code) == (None, None)
    until(lambda: sides.status("receiver")["ok"], 10, "status says that all is well")
    seen = sides.status("receiver")
    assert seen["link"]["received"]["repaired"] > 0
    assert len(seen["link"]["lanes"]) == (lanes if lanes > 1 else 0)
    assert (sender.stop(), receiver.stop()) == (0, 0)


async def test_a_sender_that_is_not_trusted_is_counted_and_harmless(
    lab: OneWay, registries: Registries, make_sides: MakeSides, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    await random_image(layout, "library/mine", "1", [3_000_000], seed=2)
    await random_image(layout, "library/theirs", "1", [3_000_000], seed=3)
    mine = registries.upload(layout.root, "library/mine", "1")
    theirs = registries.upload(layout.root, "library/theirs", "1")
    lab.set_loss(100)
    sides = make_sides("trusted", rate="200Mbit")
    stranger = make_sides(
        "strange", rate="200Mbit", repeats={"passes": 5}, receiver_pub=sides.high / "keys/receiver.pub"
    )
    sides.list_images(f"mine:1@{mine}")
    stranger.list_images(f"theirs:1@{theirs}")
    sides.start_receiver()
    stranger.start_sender()
    until(lambda: sides.counters().get("drop.untrusted_sender", 0) > 0, 15, "the stranger is noticed")
    sides.start_sender()
    until(lambda: registries.tagged("trusted/docker.io/library/mine", "1") == mine, 20, "the trusted image is there")
    until(lambda: sides.counters().get("drop.unknown_session", 0) > 500, 10, "the stranger's datagrams are counted")
    for prefix in ("trusted", "strange"):
        assert registries.tagged(f"{prefix}/docker.io/library/theirs", "1") is None
    status = sides.status("receiver")
    assert len(status["releases"]) == 1
    assert not status["partial_objects"]
    assert lab.counts().high_sent == 0
