"""One receiver's folder: settings, keys, spool and journal, filled as capture would fill them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.blobs import BlobStore
from protocol.release import Content, Release, ReleaseImage, payload_digest, payload_of, seal_release
from receiver.config import ReceiverSettings
from receiver.image_job import Pace
from receiver.journal import ReceiverJournal
from receiver.publish import publish
from runtime.keys import create_hpke_key, create_signing_key, load_signing_key
from runtime.settings import load_settings
from tests.oci_layout.images import Image

Cli = Callable[..., tuple[int, str, str]]  # of a command line: exit code, standard output and error


FAST = Pace(poll=0.02, retry=0.05, retry_max=0.2, failed=0.1, failed_max=0.2, look=0.1)


def hear(journal: ReceiverJournal, collection: str, sequence: int, digest: str, when: float) -> None:
    """As capture notes what a beacon named."""
    journal.note_capture(None, {}, {collection: (sequence, digest, when)}, when)


def content(descriptor: Any) -> Content:
    return Content(descriptor.media_type, descriptor.digest, descriptor.size)


def release_image(name: str, tags: Iterable[str], image: Image, *referrers: Image, **changes: Any) -> ReleaseImage:
    """The entry of a release for *image*, with the closure that a right sender lists."""
    found: dict[str, Content] = {}
    for part in (image, *referrers):
        for descriptor, _ in part.blobs.values():
            found[descriptor.digest] = content(descriptor)
        for manifest in part.manifests:
            found[manifest.descriptor.digest] = content(manifest.descriptor)
    roots = {part.root.descriptor.digest for part in (image, *referrers)}
    values: dict[str, Any] = {
        "name": name,
        "tags": tuple(tags),
        "root": content(image.root.descriptor),
        "closure": tuple(item for digest, item in found.items() if digest not in roots),
        "referrers": tuple(content(part.root.descriptor) for part in referrers),
    }
    return ReleaseImage(**(values | changes))


class Site:
    """A receiver's state; the sender's key signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        create_hpke_key(folder / "keys/receiver.pem")
        create_signing_key(folder / "keys/sender.pem")
        self.signer: Ed25519PrivateKey = load_signing_key(folder / "keys/sender.pem")
        self.config = folder / "receiver.yaml"
        self.spool = BlobStore(folder / "state/spool")
        self.journal = ReceiverJournal(folder / "state/journal.sqlite")
        self._digests: dict[tuple[str, int], str] = {}

    def configure(self, publish: str, *, listen: str = "127.0.0.1:0", more: str = "") -> ReceiverSettings:
        """Write receiver.yaml with the ``publish`` section in flow style, and load it."""
        self.config.write_text(
            f"state: state\nhpke_key: keys/receiver.pem\nsenders: [keys/sender.pub]\n"
            f"listen: {{on: '{listen}'}}\npublish: {publish}\n{more}"
        )
        return load_settings(self.config, ReceiverSettings)

    def fill(self, *images: Image, without: Iterable[str] = ()) -> None:
        """Put the content of *images* into the spool, except the digests in *without*."""
        left_out = set(without)
        for image in images:
            for digest, data in image.all_files().items():
                if digest not in left_out:
                    self.spool.write(digest, data)

    def release(
        self,
        *images: ReleaseImage,
        sequence: int = 1,
        collection: str = "default",
        heard: bool = True,
        signer: Ed25519PrivateKey | None = None,
    ) -> str:
        """Sign a release, put it into the journal and have a beacon name it; return its digest."""
        previous = None
        if sequence > 1:
            previous = self._digests.get((collection, sequence - 1), "sha256:" + "0" * 64)
        payload = payload_of(Release(collection, sequence, previous, "2025-01-01T00:00:00Z", images))
        digest = self._digests[collection, sequence] = payload_digest(payload)
        envelope = seal_release(payload, signer or self.signer)
        self.journal.save_release(collection, sequence, digest, envelope, time.time())
        if heard:
            hear(self.journal, collection, sequence, digest, time.time())
        return digest

    async def once(self, settings: ReceiverSettings, **options: Any) -> int:
        """``publish --once`` as if everything had been heard in this run."""
        async with asyncio.timeout(20):
            return await publish(settings, once=True, since=0.0, pace=FAST, **options)

    @asynccontextmanager
    async def publishing(self, settings: ReceiverSettings, pace: Pace = FAST) -> Any:
        """The role as a daemon, for as long as the body runs."""
        task = asyncio.create_task(publish(settings, pace=pace))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def images(self) -> dict[str, dict[str, Any]]:
        """Image name -> its row in the journal."""
        return {row["name"]: row for row in self.journal.images()}

    async def until(self, name: str, state: str) -> dict[str, Any]:
        """Wait until the journal says that the image is in *state*."""
        async with asyncio.timeout(15):
            while self.images().get(name, {}).get("state") != state:
                await asyncio.sleep(0.01)
        return self.images()[name]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)
