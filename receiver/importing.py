"""``import``: takes an archive of a release into spool and journal, from a disk or from removable media.

Trusts what intake trusts: the envelope's signatures by this receiver's ``senders`` and ``approvals``, its place in
the order of releases, and digests. Everything is read once, front to back, and written nowhere but into the spool,
blob by blob, each verified. The release is recorded when all of it is here; an older one becomes history, and is
shown only if a person activates it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from oci.blobs import BlobStore
from oci.bundle import BundleReader, Taken, same_entries
from oci.descriptor import short_digest
from oci.errors import ContentMismatch, NotFound, OciError
from oci.volumes import Ask, VolumeSet, VolumeStream
from protocol.archive import DOCUMENTS, ENVELOPE, LOCK
from protocol.errors import WireError
from protocol.release import SignedRelease, check_order
from protocol.trust import ReleaseMark
from receiver.archive import named
from receiver.config import ReceiverSettings
from receiver.desired import desired_marks, release_of
from receiver.journal import ReceiverJournal
from receiver.noted import noted
from receiver.retention import Keeping
from receiver.senders import trust
from runtime.database import transaction
from runtime.errors import UserError
from runtime.lockfile import locked
from runtime.terminal import Progress

FAULTS_SHOWN: Final = 50


@dataclass(slots=True)
class Imported:
    """What came of an archive; sizes in bytes."""

    archive: str
    collection: str = ""
    sequence: int = 0
    digest: str = ""
    images: int = 0
    blobs: int = 0
    new: int = 0  # blobs that were not here
    new_bytes: int = 0
    known: bool = False  # the release was here already
    desired: bool = False  # it is what the target is to show
    recorded: bool = False
    faults: list[str] = field(default_factory=list)  # why it was not taken, one line each

    @property
    def good(self) -> bool:
        """Whether all of it is what was archived."""
        return not self.faults


def take(
    settings: ReceiverSettings, paths: Iterable[Path], *, verify_only: bool = False, ask: Ask | None = None
) -> Imported:
    """Import the one archive that *paths* mean, or with *verify_only* read all of it and write nothing.

    *ask* is told the name of a volume that is missing. UserError for what is refused outright: a sender or approvals
    that are not trusted, a release that contradicts those here. Damage is in the result, named by volume and blob.
    """
    trusted = trust(settings)
    volumes = VolumeSet.find(paths)
    if ask is not None:
        volumes.ask_for_list(ask)
    lacking = volumes.missing()
    if lacking and ask is None:
        raise NotFound(f"{volumes.name}: {_several(lacking)} missing; name the folder with it as well")
    stream = VolumeStream(volumes, ask)
    result = Imported(volumes.name)
    with ExitStack() as stack:
        stack.callback(stream.close)
        reader = BundleReader(stream)
        try:
            reader.open(DOCUMENTS)
            envelope = reader.documents.get(ENVELOPE)
            if envelope is None:
                raise ContentMismatch(f"{stream.where}: no {ENVELOPE} in it; this is no archive of a release")
        except OciError as error:
            _read_on(stream)
            return _broken(result, stream, str(error))
        try:
            signed = trusted.open(envelope)
        except WireError as error:
            if _read_on(stream):
                return _broken(result, stream, f"{ENVELOPE}: {error}")
            raise UserError(f"{volumes.name}: its release is refused: {error}") from None
        release = signed.release
        result.collection, result.sequence, result.digest = release.collection, release.sequence, signed.digest
        result.images = len(release.images)
        if not same_entries(reader.entries, named(release)):
            result.faults.append(f"{volumes.name}: index.json does not lead to what its release names")
        journal = None
        if not verify_only:
            stack.enter_context(locked(settings.retention_lock, shared=True, wait=True))
            journal = ReceiverJournal(settings.journal)
            stack.callback(journal.close)
            _check_order(journal, signed)
        taken = _take_blobs(settings, reader, signed, write=not verify_only)
        _judge(result, signed, taken, stream)
        if journal is not None and result.good:
            _record(settings, journal, signed, envelope, reader.documents.get(LOCK), result)
    return result


def _take_blobs(settings: ReceiverSettings, reader: BundleReader, signed: SignedRelease, *, write: bool) -> Taken:
    wanted = {content.digest: content.size for content in signed.release.contents().values()}
    with Progress() as progress:
        name = f"{signed.release.collection} {signed.release.sequence}"
        count = progress.counter(f"{'import' if write else 'verify'} {name}", sum(wanted.values()))
        return reader.take(wanted, BlobStore(settings.spool) if write else None, count)


def _judge(result: Imported, signed: SignedRelease, taken: Taken, stream: VolumeStream) -> None:
    """Say what is wrong with the archive, volumes first."""
    contents = signed.release.contents()
    result.blobs, result.new, result.new_bytes = len(contents), taken.new, taken.new_bytes
    _read_on(stream)
    absent = sorted(contents.keys() - taken.seen)
    result.faults = [
        *stream.faults,
        *result.faults,
        *taken.damaged,
        *([taken.broken] if taken.broken else []),
        *(f"{result.archive}: blob {digest} is not in it" for digest in absent),
    ]
    if len(result.faults) > FAULTS_SHOWN:
        more = len(result.faults) - FAULTS_SHOWN
        result.faults = [*result.faults[:FAULTS_SHOWN], f"and {more} more"]


def _broken(result: Imported, stream: VolumeStream, why: str) -> Imported:
    result.faults = [*stream.faults, why]
    return result


def _read_on(stream: VolumeStream) -> bool:
    """Read what is left, to know which volumes are damaged; return whether any is."""
    with suppress(NotFound):
        stream.rest()
    return bool(stream.faults)


def _check_order(journal: ReceiverJournal, signed: SignedRelease) -> None:
    """UserError if the release contradicts one that is here: as intake, and with those after an old one too."""
    release = signed.release
    here = journal.release(release.collection, release.sequence)
    where = f"release {release.collection} {release.sequence}"
    if here is not None and here.digest != signed.digest:
        raise UserError(f"{where}: another one with this number is here ({short_digest(here.digest)}); refused")
    newest = journal.newest_marks().get(release.collection)
    if newest is not None and release.sequence > newest[0]:
        try:
            check_order(signed, ReleaseMark(*newest))
        except WireError as error:
            raise UserError(f"{where}: refused: {error}") from None
    before = journal.release(release.collection, release.sequence - 1)
    if before is not None and release.previous != before.digest:
        raise UserError(f"{where}: follows another release {before.sequence} than the one here; refused")
    after = journal.release(release.collection, release.sequence + 1)
    if after is not None and release_of(after).previous != signed.digest:
        raise UserError(f"{where}: release {after.sequence}, which is here, follows another one; refused")


def _record(
    settings: ReceiverSettings,
    journal: ReceiverJournal,
    signed: SignedRelease,
    envelope: bytes,
    lock: bytes | None,
    result: Imported,
) -> None:
    release = signed.release
    result.known = journal.release(release.collection, release.sequence) is not None
    journal.save_release(release.collection, release.sequence, signed.digest, envelope, time.time())
    Keeping(journal, settings.retention).came_again(release.collection, release.sequence)
    if lock is not None:
        with transaction(journal.connection) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO locks VALUES (?, ?, ?)", (release.collection, release.sequence, lock)
            )
    result.desired = desired_marks(journal)[release.collection] == (release.sequence, signed.digest)
    result.recorded = True
    noted(
        settings.audit,
        "release_imported",
        f"{release.collection} {release.sequence}",
        digest=signed.digest,
        desired=result.desired,
        archive=result.archive,
    )


def _several(names: list[str]) -> str:
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"
