"""``archive``: one release as an OCI image layout in a tar, with its signed envelope, to be carried by hand.

    oci-layout, checkvalve/images.lock (if there is one), checkvalve/release, index.json, blobs/…

The same release gives the same bytes, wherever it is archived. What is in it is vouched for by the envelope's
signatures and by digests; whoever imports it trusts nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oci.blobs import BlobStore
from oci.bundle import Bundle, Named, index_entries
from oci.descriptor import Descriptor
from oci.volumes import VolumeWriter
from protocol.archive import ENVELOPE, LOCK
from protocol.release import Content, Release
from receiver.closure import absent
from receiver.config import ReceiverSettings
from receiver.desired import activate, find_release, follow_newest, only_collection, release_of
from receiver.journal import ReceiverJournal, ReleaseRow
from receiver.noted import noted
from receiver.retention import Keeping
from runtime.errors import UserError
from runtime.lockfile import locked
from runtime.terminal import Progress

MISSING_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Written:
    """An archive that was made; sizes in bytes."""

    collection: str
    sequence: int
    files: tuple[str, ...]
    size: int
    blobs: int


def archive(
    settings: ReceiverSettings, collection: str | None, sequence: int, out: Path, volume_size: int | None
) -> Written:
    """Write release *sequence* to *out*. UserError with what is missing; OciError of the disk, nothing left."""
    journal = ReceiverJournal(settings.journal, read_only=True)
    try:
        with locked(settings.retention_lock, shared=True, wait=True):
            row = find_release(journal, collection, sequence)
            release = release_of(row)
            spool = BlobStore(settings.spool)
            must_be_here(spool, release)
            lock = journal.connection.execute(
                "SELECT lock FROM locks WHERE collection = ? AND sequence = ?", (row.collection, sequence)
            ).fetchone()
            documents = {ENVELOPE: row.envelope} | ({LOCK: bytes(lock[0])} if lock else {})
            blobs = {content.digest: content.size for content in release.contents().values()}
            bundle = Bundle(documents, index_entries(named(release), spool), blobs)
            with VolumeWriter(out, volume_size) as writer, Progress() as progress:
                bundle.write(writer.write, spool, progress.counter(f"archive {out.name}", bundle.size))
                volumes = writer.commit()
    finally:
        journal.close()
    noted(settings.audit, "release_archived", f"{row.collection} {sequence}", out=str(out))
    return Written(row.collection, sequence, tuple(one.name for one in volumes), bundle.size, len(blobs))


def named(release: Release) -> list[Named]:
    """Return what the index of an archive leads to."""
    return [(name, Descriptor(one.media_type, one.digest, one.size)) for name, one in release.names()]


def activate_release(settings: ReceiverSettings, collection: str | None, sequence: int) -> ReleaseRow:
    """Let the target show release *sequence*, until ``end_activation``. UserError with what is missing of it."""
    journal = ReceiverJournal(settings.journal)
    try:
        with locked(settings.retention_lock, shared=True, wait=True):
            row = find_release(journal, collection, sequence)
            must_be_here(BlobStore(settings.spool), release_of(row))
            Keeping(journal, settings.retention).tick(0.0)
            activate(journal, row, time.time())
    finally:
        journal.close()
    noted(settings.audit, "release_activated", f"{row.collection} {sequence}")
    return row


def end_activation(settings: ReceiverSettings, collection: str | None) -> tuple[str, int]:
    """Let a collection follow its newest release again; return (collection, sequence of that). UserError."""
    journal = ReceiverJournal(settings.journal)
    try:
        name = only_collection(journal, collection)
        if follow_newest(journal, name) is None:
            raise UserError(f"collection {name}: no release is activated; it follows the newest already")
        newest = journal.newest_marks()[name][0]
    finally:
        journal.close()
    noted(settings.audit, "activation_ended", f"{name} {newest}")
    return name, newest


def must_be_here(spool: BlobStore, release: Release) -> None:
    """UserError that lists what of *release* is not in the spool, one line each."""
    missing = absent(spool, release.contents().values())
    if missing:
        raise UserError("\n".join(_lines(release, missing)))


def _lines(release: Release, missing: list[Content]) -> list[str]:
    size = sum(content.size for content in missing)
    head = (
        f"release {release.collection} {release.sequence}: {len(missing)} of its contents, {size:,} bytes, are not "
        "in the spool; import an archive of it, or take a release that is whole"
    )
    needs: dict[str, str] = {}
    for image in release.images:
        for content in (image.root, *image.closure, *image.referrers):
            needs.setdefault(content.digest, f"{image.name}:{image.tags[0]}" if image.tags else image.name)
    lines = [f"missing: {one.digest} ({one.size:,} bytes) of {needs[one.digest]}" for one in missing[:MISSING_SHOWN]]
    more = [f"and {len(missing) - MISSING_SHOWN} more"] if len(missing) > MISSING_SHOWN else []
    return [head, *lines, *more]
