"""The power goes before each single call with which publish changes the disk: its journal, and the layout it fills.

Whatever is left, no tag leads to an image of which a byte is absent or wrong; the next start makes it whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from random import Random

import pytest

from oci.descriptor import Descriptor, Manifest
from oci.documents import children
from oci.errors import NotFound
from oci.layout import Layout
from receiver.config import ReceiverSettings
from tests.oci_layout.images import Image, multi_image, referrer_to, single_image
from tests.receiver.site import Site, release_image
from tests.simulator.disk import Disk, Loss, PowerCut, watched
from tests.simulator.powerworld import points, quiet_folder

NAMES = ("docker.io/library/whole", "docker.io/library/moved")


class Story:
    """Two images, one with platforms and a signature; then the tag of the other one moves."""

    def __init__(self, folder: Path) -> None:
        self.site = site = Site(folder)
        self.whole, self.old, self.new = multi_image(), single_image("old"), single_image("new")
        signature = referrer_to(self.whole.root.descriptor, "application/vnd.example.signature")
        site.fill(self.whole, signature, self.old, self.new)
        self.settings: ReceiverSettings = site.configure("{layout: published}")
        site.release(release_image(NAMES[0], ["1"], self.whole, signature), release_image(NAMES[1], ["1"], self.old))
        asyncio.run(site.once(self.settings))
        site.release(
            release_image(NAMES[0], ["1", "2"], self.whole, signature),
            release_image(NAMES[1], ["1"], self.new),
            release_image("docker.io/library/more", ["1"], single_image("more")),
            sequence=2,
        )
        site.fill(single_image("more"))
        site.journal.close()

    def publish(self) -> int:
        """Run the role until all is published; its exit code."""
        return asyncio.run(self.site.once(self.settings))

    def tags(self) -> dict[str, str]:
        """Return what leads where, having seen that every byte beneath is there and right."""
        root = self.site.folder / "published"
        layout = Layout(root)
        found = {}
        for entry in json.loads((root / "index.json").read_bytes())["manifests"]:
            descriptor = Descriptor(entry["mediaType"], entry["digest"], entry["size"])
            self._whole(layout, descriptor)
            name = entry.get("annotations", {}).get("org.opencontainers.image.ref.name")
            if name:
                found[name] = descriptor.digest
        return found

    def _whole(self, layout: Layout, descriptor: Descriptor) -> None:
        below = children(Manifest(descriptor, layout.blobs.read(descriptor.digest, 1 << 20)))
        for child in (*below.layers, *([below.config] if below.config else [])):
            layout.blobs.verify(child.digest)
        for child in below.manifests:
            with contextlib.suppress(NotFound):  # an index may be sparse, not half
                self._whole(layout, child)

    def expected(self, image: Image) -> dict[str, str]:
        """Return the tags when *image* is what has moved."""
        return {f"internal/{NAMES[0]}:1": self.whole.root.descriptor.digest, f"internal/{NAMES[1]}:1": digest(image)}


def digest(image: Image) -> str:
    return image.root.descriptor.digest


def run(cut_at: int | None, loss: Loss) -> int:
    """One run; returns how many calls it was."""
    with quiet_folder() as folder:
        story = Story(folder / "high")
        disk = Disk(folder / "high", Random(cut_at))
        disk.settle()
        with watched(disk):
            disk.cut_at, disk.loss = cut_at, loss
            begun = disk.calls
            code = None
            with contextlib.suppress(PowerCut):
                code = story.publish()
            calls = disk.calls - begun
            assert (code == 0) == (not disk.dead)
            if disk.dead:
                disk.restart()
                seen = story.tags()
                for name, before in story.expected(story.old).items():
                    assert seen[name] in (before, story.expected(story.new)[name]), "a tag that was there is not"
                assert story.publish() == 0
            seen = story.tags()
        assert seen.items() >= story.expected(story.new).items()
        assert len(seen) == 4
        left = [
            path
            for path in (folder / "high/published").rglob("*")
            if path.suffix == ".tmp" or ".ingest" in str(path.parent)
        ]
        assert not left, left
        return calls


@pytest.fixture(scope="module")
def calls() -> int:
    return run(None, Loss.NOTHING)


@pytest.mark.parametrize(("loss", "first", "step"), points((Loss.EVERYTHING, 0, 3), (Loss.SOMETHING, 1, 3)))
def test_no_tag_leads_to_half_an_image_whenever_the_power_goes(calls: int, loss: Loss, first: int, step: int) -> None:
    assert calls > 40
    for cut_at in range(first, calls - 10, step):
        try:
            run(cut_at, loss)
        except Exception as error:
            raise AssertionError(f"cut before call {cut_at} of {calls}, {loss.value} lost") from error
