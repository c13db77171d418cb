"""Looks at wanted images as they are upstream, without fetching their layers: what they need, who signed, how old.

Writes nothing. Manifests and signatures are read into memory, in bounds; what the spool has is read there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from judging.policy import Subject, admissible, admissible_source, judge, load_keys, signers_of
from oci.blobs import BlobStore
from oci.closure import Closure
from oci.descriptor import Descriptor
from oci.documents import children
from oci.errors import NotFound, OciError
from oci.limits import MANIFEST_BYTES_MAX
from oci.store import Source
from protocol.release import ReleaseImage
from runtime.errors import UserError
from sender.closures import key_of, line_of, walk_pin
from sender.config import SenderSettings
from sender.created import created_in, created_of
from sender.desired import read_image, release_image
from sender.images import PinnedImage
from sender.journal import SenderJournal
from sender.lock import Lock, closure_digest
from sender.sources import Sources, advice

SIGNATURE_BYTES_MAX = 1 << 20  # of one part of a signature
SIGNATURES_BYTES_MAX = 16 << 20  # of one image


@dataclass(frozen=True, slots=True)
class Seen:
    """One image as it would be released. *held*: why it would not be; *created* in Unix seconds."""

    image: ReleaseImage | None
    held: str | None = None
    signers: tuple[str, ...] = ()
    created: float | None = None


class Preview:
    """*journal* is None where nothing has run yet."""

    def __init__(self, settings: SenderSettings, journal: SenderJournal | None, sources: Sources, lock: Lock) -> None:
        self._settings = settings
        self._journal = journal
        self._sources = sources
        self._lock = lock
        self._spool = BlobStore(settings.spool)

    async def look(self, pin: PinnedImage) -> Seen:
        """Return what *pin* comes to; whatever goes wrong holds it."""
        try:
            known = self._known(pin)
            if known is not None:
                parts = Parts(self._spool)
                source = None
            else:
                source = await self._sources.of(pin)
                known, parts = await self._walk(pin, source)
            return await self._judged(pin, known, parts, source)
        except (OciError, UserError, ValueError) as error:
            return Seen(None, advice(error, pin.reference.registry))
        except OSError as error:
            return Seen(None, f"{error.filename or pin.origin}: {error.strerror or error}")

    def _known(self, pin: PinnedImage) -> ReleaseImage | None:
        """Return the image if it was fetched and not held, and the lock has nothing against it."""
        if self._journal is None:
            return None
        known = self._journal.closure(key_of(self._settings.fetch, pin))
        entry = self._lock.entries.get(pin.slot)
        if known is None or (entry is not None and entry.digest != pin.digest):
            return None
        image = read_image({**known[0], "name": pin.target})
        return image if entry is None or entry.closure == closure_digest(image) else None

    async def _walk(self, pin: PinnedImage, source: Source) -> tuple[ReleaseImage, Parts]:
        fetch = self._settings.fetch
        closure = await walk_pin(source, fetch, pin, line_of(self._lock, fetch, pin))
        image = release_image(pin.target, closure, foreign=fetch.foreign_layers == "fetch")
        parts = Parts(self._spool)
        parts.held |= {manifest.descriptor.digest: manifest.raw for manifest in closure.manifests}
        await parts.fetch(source, _signature_parts(closure))
        return image, parts

    async def _judged(self, pin: PinnedImage, image: ReleaseImage, parts: Parts, source: Source | None) -> Seen:
        created = await _created(image, parts, source)
        policy = pin.options.verify
        if policy is None:
            return Seen(image, None, signers_of(image, parts), created)
        subject = Subject(pin.reference, image, {})
        reasons = admissible_source(policy, pin.reference) or admissible(policy, subject)
        if reasons:
            return Seen(image, "; ".join(reasons), (), created)
        trust = await asyncio.to_thread(load_keys, policy)
        plain = policy.model_copy(update={"hook": None})  # which wants all of the image
        verdict = await judge(plain, trust, subject, parts, self._settings.state)
        return Seen(image, "; ".join(verdict.held) or None, verdict.signers, created)


class Parts(BlobStore):
    """The spool, and in front of it what was read into memory."""

    def __init__(self, spool: BlobStore) -> None:
        super().__init__(spool.root)
        self.held: dict[str, bytes] = {}

    def read(self, digest: str, size_max: int) -> bytes:
        """Return a content, verified; NotFound if it is in neither place."""
        held = self.held.get(digest)
        return held if held is not None else super().read(digest, size_max)

    async def fetch(self, source: Source, parts: Iterable[Descriptor]) -> None:
        """Read small blobs that the spool lacks; those that do not come are missing then."""
        total = 0
        for part in parts:
            if part.digest in self.held or self.size(part.digest) == part.size or part.size > SIGNATURE_BYTES_MAX:
                continue
            total += part.size
            if total > SIGNATURES_BYTES_MAX:
                return
            try:
                self.held[part.digest] = b"".join([chunk async for chunk in source.blob(part)])
            except NotFound:
                continue


def _signature_parts(closure: Closure) -> list[Descriptor]:
    """Return the blobs of what refers to the image or hangs on it by cosign's tags."""
    roots = {manifest.descriptor.digest for manifest in closure.referrers}
    roots |= {root.digest for root in closure.tagged.values()}
    found = []
    for manifest in closure.manifests:
        if manifest.descriptor.digest in roots:
            found += children(manifest).layers
    return found


async def _created(image: ReleaseImage, parts: Parts, source: Source | None) -> float | None:
    try:
        found = await asyncio.to_thread(created_in, lambda digest: parts.read(digest, MANIFEST_BYTES_MAX), image)
        if found is None and source is not None:
            found = await created_of(source, image.root.digest)
    except OciError:
        return None
    return found
