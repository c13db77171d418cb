"""What is beneath an image, as fetch found it, and what the journal knows that by."""

from __future__ import annotations

from collections.abc import Sequence

from oci.reference import parse_reference
from protocol.release import ReleaseImage
from sender.desired import read_image
from sender.images import ANY
from sender.journal import SenderJournal
from sender.lock import LockEntry, closure_digest


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
