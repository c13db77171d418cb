"""Turns what fetch proposed into signed releases, and each release into an object of the queue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.coding import compress, pays
from protocol.errors import ProtocolMisuse
from protocol.objects import Coding, Kind
from protocol.release import Release, parse_images, payload_digest, payload_of, seal_release
from runtime.durable import write_durably
from sender.journal import ReleaseRow, SenderJournal

log = structlog.get_logger()


def sign_proposals(journal: SenderJournal, signer: Ed25519PrivateKey, now: Callable[[], float]) -> bool:
    """Sign a new release for every collection whose proposal differs from its newest release; whether any did."""
    newest = {row.collection: row for row in journal.newest_releases()}
    signed = False
    for collection, images in journal.proposals():
        before = newest.get(collection)
        if before is not None and before.images == images:
            continue
        try:
            wanted = parse_images(json.loads(images))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # fetch faces the Internet; what it writes must not stop the role that signs
            log.error("proposal_refused", collection=collection, error=f"{type(error).__name__}: {error}")
            continue
        created = now()
        release = Release(
            collection=collection,
            sequence=before.sequence + 1 if before else 1,
            previous=before.digest if before else None,
            created=datetime.fromtimestamp(created, UTC).isoformat(timespec="seconds"),
            images=wanted,
        )
        payload = payload_of(release)
        digest = payload_digest(payload)
        try:
            envelope = seal_release(payload, signer)
        except ProtocolMisuse as error:  # more than a release may hold
            log.error("proposal_refused", collection=collection, error=f"{error}; split the list into collections")
            continue
        journal.save_release(ReleaseRow(collection, release.sequence, digest, images, envelope, created))
        log.info(
            "release_signed",
            collection=collection,
            sequence=release.sequence,
            digest=digest,
            images=len(release.images),
        )
        signed = True
    return signed


def queue_release(journal: SenderJournal, row: ReleaseRow, coded_folder: Path, passes: int, now: float) -> str:
    """Put the envelope of a release into the queue as an object; return the object's content digest."""
    digest = "sha256:" + hashlib.sha256(row.envelope).hexdigest()
    coded, coding = row.envelope, Coding.IDENTITY
    if pays([row.envelope]):
        coded, coding = b"".join(compress([row.envelope], len(row.envelope))), Coding.ZSTD
    coded_digest = hashlib.sha256(coded).hexdigest()
    path = coded_folder / coded_digest
    write_durably(path, coded)
    journal.queue_object(
        kind=Kind.RELEASE,
        coding=coding,
        digest=digest,
        content_size=len(row.envelope),
        coded_digest="sha256:" + coded_digest,
        coded_size=len(coded),
        path=path,
        label=f"release {row.collection} {row.sequence}",
        passes=passes,
        contents=(),
        now=now,
    )
    return digest


def desired_contents(rows: Iterable[ReleaseRow]) -> set[str]:
    """Return the digests of everything that these releases need."""
    found: set[str] = set()
    for row in rows:
        for image in parse_images(json.loads(row.images)):
            found.update(content.digest for content in (image.root, *image.closure, *image.referrers))
    return found
