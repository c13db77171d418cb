"""Partial objects as the last process left them: what is sound is kept, what is whole named, the rest removed."""

from __future__ import annotations

from pathlib import Path

import structlog

from oci.blobs import BlobStore
from protocol.geometry import Geometry
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.ranges import RangeSet
from receiver.journal import Partial, ReceiverJournal

log = structlog.get_logger()


def recover(spool: BlobStore, folder: Path, journal: ReceiverJournal) -> tuple[dict[str, RangeSet], list[Partial]]:
    """Return (finished bytes of unfinished objects by coded digest, objects that are whole but not taken in yet).

    Call before anything is received. Removes files that the journal does not know, objects that have arrived by
    now, and those whose file is gone or has another size: their bytes are not what the journal speaks of.
    """
    have: dict[str, RangeSet] = {}
    whole: list[Partial] = []
    known: set[Path] = set()
    for partial, finished, _ in journal.partials():
        path = folder / partial.coded_digest.removeprefix("sha256:")
        size = path.stat().st_size if path.is_file() else None
        if size != partial.coded_size or _is_here(partial, spool, journal):
            if finished and size != partial.coded_size:
                log.warning("partial_lost", digest=partial.digest, path=str(path), bytes=size)
            journal.close_partial(partial.coded_digest)
            continue
        known.add(path)
        ranges = RangeSet(journal.ranges(partial.coded_digest))
        if ranges.covers(0, partial.coded_size):
            whole.append(partial)
        have[partial.coded_digest] = ranges
    for path in folder.iterdir():
        if path not in known and path.is_file():
            path.unlink()
    return have, whole


def partial_of(entry: ObjectEntry) -> Partial:
    """Return the journal's row for an object."""
    return Partial(
        coded_digest=entry.coded_digest,
        kind=entry.kind,
        coding=entry.coding,
        digest=entry.digest,
        content_size=entry.content_size,
        coded_size=entry.geometry.size,
    )


def entry_of(partial: Partial) -> ObjectEntry:
    """Return an entry for the intake, which looks at everything but TOI and geometry."""
    return ObjectEntry(
        toi=0,
        kind=Kind(partial.kind),
        coding=Coding(partial.coding),
        digest=partial.digest,
        content_size=partial.content_size,
        coded_digest=partial.coded_digest,
        geometry=Geometry(partial.coded_size, 16, 1, 1, 1),
    )


def _is_here(partial: Partial, spool: BlobStore, journal: ReceiverJournal) -> bool:
    if partial.kind == Kind.BLOB:
        return spool.size(partial.digest) is not None
    return journal.is_unpacked(partial.digest)
