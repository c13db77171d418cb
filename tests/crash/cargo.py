"""What crosses during a campaign: images of mixed sizes, some of which compress, and tags that arrive or move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from oci.descriptor import OCI_MANIFEST, sha256_digest
from oci.layout import Layout
from tests.lab.test_system import two_platforms
from tests.lab.world import Registries
from tests.oci_layout.images import CONFIG, LAYER, Image, as_json, layer_tar
from tests.support.images import random_image

MOVING = "moving"  # the repository whose tag is followed
WORDS_BYTES = 4_000_000


@dataclass
class Cargo:
    """Images by (name, tag). ``wanted`` is what images.yaml asks for now, with the digest that each must have."""

    registries: Registries
    folder: Path
    random: Random
    bulk_bytes: int
    late_bytes: int
    wanted: dict[tuple[str, str], str] = field(default_factory=dict)
    _made: int = 0

    def first(self) -> None:
        """What is there from the start: an index, words that are compressed on the way, a few small layers."""
        self._add("platforms", "1", lambda layout: _push(two_platforms(), layout, "platforms"))
        self._add("words", "1", lambda layout: _push(_words(self.random), layout, "words"))
        sizes = [self.random.randrange(2_048, 5_000), self.random.randrange(60_000, 70_000), 3_000_000]
        self._add("mixed", "1", lambda layout: random_image(layout, "library/mixed", "1", sizes, self._seed()))
        self.move()

    def heavy(self) -> None:
        """The image that takes long."""
        bulk = [self.bulk_bytes, 400_000]
        self._add("bulk", "1", lambda layout: random_image(layout, "library/bulk", "1", bulk, self._seed()))

    def arrive(self) -> None:
        """A new image."""
        name = f"late-{self._made}"
        sizes = [self.random.randrange(2_048, self.late_bytes) for _ in range(self.random.randrange(1, 4))]
        self._add(name, "1", lambda layout: random_image(layout, f"library/{name}", "1", sizes, self._seed()))

    def move(self) -> None:
        """A tag that is followed moves to another image."""
        size = self.random.randrange(100_000, 2_000_000)
        made = lambda layout: random_image(layout, f"library/{MOVING}", "now", [size], self._seed())  # noqa: E731
        self._add(MOVING, "now", made)

    def lines(self) -> Iterator[str]:
        """Yield the entries of images.yaml."""
        for (name, tag), digest in self.wanted.items():
            if name == MOVING:
                yield f"{{image: docker.io/library/{name}, tags: [{tag}], follow: digest}}"
            else:
                yield f"docker.io/library/{name}:{tag}@{digest}"

    def _seed(self) -> int:
        return self.random.randrange(1 << 30)

    def _add(self, name: str, tag: str, make: Callable[[Layout], object]) -> None:
        self._made += 1
        layout = Layout(self.folder / f"layout-{self._made}")
        asyncio.run(make(layout))  # type: ignore[arg-type]
        digest = self.registries.upload(layout.root, f"library/{name}", tag)
        self.wanted = {**self.wanted, (name, tag): digest}  # others may be reading it


async def _push(image: Image, layout: Layout, name: str) -> None:
    await image.push(layout.repository(f"library/{name}"), "1")


def _words(random: Random) -> Image:
    """An image whose layer is plain text: the sender compresses it, so its coded bytes are not its content."""
    words = [random.randbytes(4).hex() for _ in range(500)]
    layer = layer_tar("words", " ".join(random.choices(words, k=WORDS_BYTES // 9)).encode())
    image = Image()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [sha256_digest(layer)]},
    }
    image.add_manifest(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": as_json(image.add_blob(CONFIG, json.dumps(config).encode())),
            "layers": [as_json(image.add_blob(LAYER, layer))],
        }
    )
    return image
