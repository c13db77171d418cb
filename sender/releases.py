"""Turns approved candidates into signed releases, and each release into an object of the queue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.coding import compress, pays
from protocol.errors import ProtocolMisuse
from protocol.objects import Coding, Kind
from protocol.release import parse_images, seal_release
from runtime.durable import write_durably
from sender.candidates import Approvals, Candidate, Refused, candidates
from sender.changes import contents
from sender.config import Collection
from sender.decisions import Decisions
from sender.journal import ReleaseRow, SenderJournal

log = structlog.get_logger()


class Signer:
    """Signs what is to be released. What approvers' keys are is read once, at the start."""

    def __init__(
        self, journal: SenderJournal, key: Ed25519PrivateKey, collections: Mapping[str, Collection] | None = None
    ) -> None:
        self._journal = journal
        self._decisions = Decisions(journal)
        self._approvals = Approvals(collections or {}, self._decisions)
        self._key = key

    def sign_approved(self) -> bool:
        """Sign the candidate of every collection that is approved; whether any was signed."""
        signed = False
        for candidate in candidates(self._journal, self._decisions):
            if isinstance(candidate, Refused):
                # fetch faces the Internet; what it writes must not stop the role that signs
                log.error("proposal_refused", collection=candidate.collection, error=candidate.reason)
            else:
                signed |= self._sign(candidate)
        return signed

    def _sign(self, candidate: Candidate) -> bool:
        state = self._approvals.of(candidate)
        if not state.approved:
            return False
        try:
            envelope = seal_release(candidate.payload, self._key, approvals=state.signatures)
        except ProtocolMisuse as error:  # more than a release may hold
            log.error("proposal_refused", collection=candidate.collection, error=f"{error}; split the list")
            return False
        release = candidate.release
        row = ReleaseRow(
            release.collection,
            release.sequence,
            candidate.digest,
            candidate.images,
            envelope,
            candidate.created,
            candidate.lock,
        )
        self._journal.save_release(row)
        self._journal.clear(contents(release.images))
        self._decisions.forget_approvals(release.collection, but=candidate.digest)
        log.info(
            "release_signed",
            collection=release.collection,
            sequence=release.sequence,
            digest=candidate.digest,
            images=len(release.images),
            approvers=len(state.signatures),
        )
        return True


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
