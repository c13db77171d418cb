"""``archive``: a signed release with its lock and all its contents as one tar, for the way across by hand.

What the receiver's ``import`` takes, and any tool that reads OCI layouts. The contents come from the spool; what was
sent and evicted since has to be fetched first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oci.blobs import BlobStore
from oci.bundle import Bundle, index_entries
from oci.descriptor import Descriptor
from oci.volumes import VolumeWriter
from protocol.archive import DOCUMENTS, ENVELOPE, LOCK
from protocol.release import Release, parse_envelope
from runtime.errors import UserError
from runtime.terminal import Progress
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.journal import SenderJournal
from sender.reproduce import archived_lock

MISSING_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Written:
    """An archive that was made; sizes in bytes."""

    collection: str
    sequence: int
    files: tuple[str, ...]
    size: int
    blobs: int


def archive(settings: SenderSettings, collection: str, sequence: int, out: Path, volume_size: int | None) -> Written:
    """Write release *sequence* to *out*. UserError with what the spool lacks; OciError of the disk, nothing left."""
    journal = SenderJournal(settings.journal, read_only=True)
    try:
        row = Decisions(journal).release(collection, sequence)
    finally:
        journal.close()
    if row is None:
        raise UserError(f"collection {collection} has no release {sequence}; `history` lists those there are")
    release, spool = parse_envelope(row.envelope), BlobStore(settings.spool)
    blobs = {content.digest: content.size for content in release.contents().values()}
    _must_be_here(release, spool, blobs)
    lock = archived_lock(settings, collection, sequence).encode() if row.lock else None
    documents = {ENVELOPE: row.envelope}
    if lock is not None and len(lock) <= DOCUMENTS[LOCK]:
        documents[LOCK] = lock
    named = [(name, Descriptor(one.media_type, one.digest, one.size)) for name, one in release.names()]
    bundle = Bundle(documents, index_entries(named, spool), blobs)
    with VolumeWriter(out, volume_size) as writer, Progress() as progress:
        bundle.write(writer.write, spool, progress.counter(f"archive {out.name}", bundle.size))
        volumes = writer.commit()
    return Written(collection, sequence, tuple(one.name for one in volumes), bundle.size, len(blobs))


def _must_be_here(release: Release, spool: BlobStore, blobs: dict[str, int]) -> None:
    missing = [(digest, size) for digest, size in blobs.items() if spool.size(digest) != size]
    if not missing:
        return
    lines = [
        f"release {release.collection} {release.sequence}: {len(missing)} of its contents, "
        f"{sum(size for _, size in missing):,} bytes, are not in the spool; have them fetched again, or take another"
    ]
    lines += [f"missing: {digest} ({size:,} bytes)" for digest, size in missing[:MISSING_SHOWN]]
    if len(missing) > MISSING_SHOWN:
        lines.append(f"and {len(missing) - MISSING_SHOWN} more")
    raise UserError("\n".join(lines))
