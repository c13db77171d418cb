"""Closures of wanted images: how one is walked, what the journal knows it by, which line of the lock is its own."""

from __future__ import annotations

from collections.abc import Sequence

from oci.closure import Closure, walk
from oci.reference import parse_reference
from oci.store import Source
from protocol.release import ReleaseImage
from sender.config import Fetch
from sender.desired import read_image
from sender.images import ANY, PinnedImage, wanted_type
from sender.journal import SenderJournal
from sender.lock import Lock, LockEntry, closure_digest


async def walk_pin(source: Source, fetch: Fetch, pin: PinnedImage, line: LockEntry | None = None) -> Closure:
    """Return the closure of *pin* with what travels along; with its *line* of the lock what referred to it then.

    OciError as ``oci.closure.walk`` raises it.
    """
    types = artifact_types(fetch, pin)
    root = (await source.manifest(pin.digest)).descriptor
    return await walk(
        source,
        root,
        referrers=line.recorded if line is not None else bool(types),
        artifact_types=lambda artifact_type: wanted_type(artifact_type, types),
        platforms=frozenset(pin.options.platforms) or None,
    )


def line_of(lock: Lock, fetch: Fetch, pin: PinnedImage) -> LockEntry | None:
    """Return the line of *lock* that resolved *pin* as it is asked for now, None if there is none."""
    entry = lock.entries.get(pin.slot)
    if entry is None or entry.image != pin.label or entry.digest != pin.digest:
        return None
    asked = (entry.only, ANY if entry.types is None else entry.types, entry.foreign)
    same = asked == (pin.options.platforms, artifact_types(fetch, pin), fetch.foreign_layers == "fetch")
    return entry if same else None


def key_of(fetch: Fetch, pin: PinnedImage) -> str:
    """Return what the journal knows the closure of *pin* by."""
    return closure_key(
        pin.reference.name,
        pin.digest,
        only=pin.options.platforms,
        types=artifact_types(fetch, pin),
        foreign=fetch.foreign_layers == "fetch",
    )


def closure_key(
    name: str, digest: str, *, only: Sequence[str] = (), types: Sequence[str] = ANY, foreign: bool = False
) -> str:
    """Return what the journal knows a closure by: repositories differ in referrers, options in what comes along."""
    return f"{name}@{digest} {'fetch' if foreign else 'leave'} only={','.join(only)} types={','.join(types)}"


def closure_of(journal: SenderJournal, entry: LockEntry) -> ReleaseImage | None:
    """Return the image that a line of the lock stands for, without tags; None if the journal does not know it."""
    reference = parse_reference(entry.image)
    types = ANY if entry.types is None else entry.types
    known = journal.closure(
        closure_key(reference.name, entry.digest, only=entry.only, types=types, foreign=entry.foreign)
    )
    if known is None:
        return None
    image = read_image({**known[0], "name": entry.target or reference.name})
    return image if closure_digest(image) == entry.closure else None


def artifact_types(fetch: Fetch, pin: PinnedImage) -> tuple[str, ...]:
    """Return the artifact types of the referrers that travel with *pin*, as patterns."""
    if pin.options.referrers is not None:
        return pin.options.referrers
    return ANY if fetch.referrers else ()
