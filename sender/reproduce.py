"""``reproduce``: makes a release again from its archived lock alone, and compares it bit for bit.

What the spool lacks is asked for by digest where the lock says the images came from; nothing is written.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from oci.closure import walk
from oci.errors import OciError
from oci.layout import Layout
from oci.reference import Reference, parse_reference
from protocol.release import Release, ReleaseImage, parse_images, payload_digest, payload_of
from runtime.errors import UserError
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.desired import desired_state, parse_envelope, release_image
from sender.images import Origin, parse_origin
from sender.journal import SenderJournal
from sender.lock import Archived, Lock, LockEntry, lock_text, mismatch, read_lines, read_lock
from sender.sources import Readable, Sources, advice


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What came out, and what the lock says should have."""

    archived: Archived
    digest: str
    images: int
    payload: bytes

    @property
    def identical(self) -> bool:
        """Whether it is the same release, bit for bit."""
        return self.digest == self.archived.release


def archived_lock(settings: SenderSettings, collection: str, sequence: int) -> str:
    """Return the lock of a release, with the header that makes it whole. UserError if there is none."""
    journal = SenderJournal(settings.journal, read_only=True)
    try:
        release = Decisions(journal).release(collection, sequence)
    finally:
        journal.close()
    if release is None:
        raise UserError(f"collection {collection} has no release {sequence}; `history` lists those there are")
    found = parse_envelope(release.envelope)
    archived = Archived(collection, sequence, found.previous, found.created, release.digest)
    return lock_text(read_lines(release.lock).values(), archived)


def reproduce(settings: SenderSettings, path: Path) -> Reproduced:
    """Make the release of the archived lock at *path*. UserError says which line cannot be followed, and why."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    lock, archived = read_lock(raw, str(path))
    if lock.faults:
        raise UserError("\n".join(lock.faults))
    if archived is None:
        raise UserError(f"{path}: is no archived lock; `checkvalve-sender lock COLLECTION NUMBER` prints one")
    images = asyncio.run(_images(settings, lock, str(path)))
    ready = [(entry.slot, image) for entry, image in zip(lock.entries.values(), images, strict=True)]
    state = desired_state(ready, None, collection=archived.collection)
    release = Release(
        archived.collection,
        archived.sequence,
        archived.previous,
        archived.created,
        parse_images(json.loads(state)),
    )
    payload = payload_of(release)
    return Reproduced(archived, payload_digest(payload), len(release.images), payload)


async def _images(settings: SenderSettings, lock: Lock, name: str) -> list[ReleaseImage]:
    spool = Layout(settings.spool)
    async with Sources(settings.fetch, settings.state / "scratch") as sources:
        slots = asyncio.Semaphore(settings.fetch.parallel_total)

        async def one(entry: LockEntry) -> ReleaseImage | str:
            reference = parse_reference(entry.image)
            try:
                async with slots:
                    source = await sources.place(reference, _origin(entry, settings))
                    return await _image(Readable(source, spool), reference, entry)
            except (OciError, UserError, ValueError) as error:
                reason = advice(error, reference.registry)
            except OSError as error:
                reason = f"{error.filename or entry.origin}: {error.strerror or error}"
            return f"{name}:{lock.numbers[entry.slot]}: {entry.image}: {reason}"

        found = await asyncio.gather(*map(one, lock.entries.values()))
    faults = [one for one in found if isinstance(one, str)]
    if faults:
        raise UserError("\n".join(faults))
    return [one for one in found if not isinstance(one, str)]


async def _image(source: Readable, reference: Reference, entry: LockEntry) -> ReleaseImage:
    root = (await source.manifest(entry.digest)).descriptor
    closure = await walk(source, root, referrers=entry.recorded, platforms=frozenset(entry.only) or None)
    image = release_image(entry.target or reference.name, closure, foreign=entry.foreign and bool(closure.foreign))
    wrong = mismatch(entry, image)
    if wrong is not None:
        raise ValueError(wrong)
    return image


def _origin(entry: LockEntry, settings: SenderSettings) -> Origin:
    return Origin() if entry.origin is None else parse_origin(entry.origin, settings.images.parent)
