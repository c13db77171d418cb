"""The next release of each collection, before anybody has signed it, and who has to agree to it.

A candidate is the exact payload: its digest names it, approvers sign it, and transmit signs the same bytes. Whatever
changes (contents, or the release before it) makes another candidate, to be approved anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from protocol.release import Release, ReleaseImage, Signature, has_signed, parse_images, payload_digest, payload_of
from protocol.trust import key_id
from runtime.keys import load_signing_public
from sender.config import Collection
from sender.decisions import Approval, Decisions, Proposal, Rollback
from sender.journal import ReleaseRow, SenderJournal

ID_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Candidate:
    """What would be released next; *images* and *lock* as proposed, *created* in Unix seconds."""

    release: Release
    payload: bytes
    digest: str
    images: str
    lock: str
    created: float
    before: ReleaseRow | None
    rollback: int | None = None  # the sequence whose contents these are

    @property
    def collection(self) -> str:
        """Whose release."""
        return self.release.collection

    @property
    def id(self) -> str:
        """What people call it: the beginning of the payload's digest."""
        return self.digest.partition(":")[2][:ID_DIGITS]


@dataclass(frozen=True, slots=True)
class Refused:
    """A proposal that cannot become a release, and why."""

    collection: str
    reason: str


def candidates(journal: SenderJournal, decisions: Decisions) -> Iterator[Candidate | Refused]:
    """Yield what differs from the newest release of its collection; a rollback takes the place of the proposal."""
    newest = {row.collection: row for row in journal.newest_releases()}
    rollbacks = decisions.rollbacks()
    for proposal in decisions.proposals():
        rollback = rollbacks.get(proposal.collection)
        before = newest.get(proposal.collection)
        if (rollback.proposal if rollback else proposal).images != (before.images if before else None):
            yield candidate_of(proposal, before, rollback)


def candidate_of(
    proposal: Proposal, before: ReleaseRow | None, rollback: Rollback | None = None
) -> Candidate | Refused:
    """Return the release that follows *before*."""
    if rollback is not None:
        proposal = rollback.proposal
    try:
        wanted = parse_images(json.loads(proposal.images))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Refused(proposal.collection, f"{type(error).__name__}: {error}")
    release = next_release(proposal.collection, wanted, proposal.updated, before)
    payload = payload_of(release)
    return Candidate(
        release,
        payload,
        payload_digest(payload),
        proposal.images,
        proposal.lock,
        proposal.updated,
        before,
        rollback.sequence if rollback is not None else None,
    )


def next_release(
    collection: str, images: tuple[ReleaseImage, ...], created: float, before: ReleaseRow | None
) -> Release:
    """Return the release of *images* that follows *before*; *created* is when it was proposed (Unix seconds)."""
    return Release(
        collection=collection,
        sequence=before.sequence + 1 if before else 1,
        previous=before.digest if before else None,
        created=datetime.fromtimestamp(created, UTC).isoformat(timespec="seconds"),
        images=images,
    )


@dataclass(frozen=True, slots=True)
class ApprovalState:
    """Where a candidate stands: *given* of *needed* have agreed, and with which keys."""

    approved: bool
    manual: bool
    given: int
    needed: int
    signatures: tuple[Signature, ...] = ()
    unknown: int = 0  # signatures that are of no approver, or wrong


class Approvals:
    """Judges candidates by the settings; approvers' key files are read at once (UserError)."""

    def __init__(self, collections: Mapping[str, Collection], decisions: Decisions) -> None:
        self._collections = collections
        self._decisions = decisions
        self._keys = {
            name: {key_id(public): public for public in map(load_signing_public, collection.approvers)}
            for name, collection in collections.items()
        }

    def counts(self, candidate: Candidate, approval: Approval) -> bool:
        """Whether *approval* is the right signature of one of the collection's approvers."""
        public = self._keys.get(candidate.collection, {}).get(bytes.fromhex(approval.key))
        return public is not None and has_signed(public, candidate.payload, approval.signature)

    def of(self, candidate: Candidate) -> ApprovalState:
        """Return whether *candidate* may be signed, and by whose agreement."""
        handling = self._collections.get(candidate.collection, Collection())
        if handling.approval == "auto":
            return ApprovalState(True, False, 0, 0)
        given = self._decisions.approvals(candidate.collection, candidate.digest)
        keys = self._keys.get(candidate.collection, {})
        if not keys:
            return ApprovalState(bool(given), True, min(len(given), 1), 1)
        good = [
            Signature(bytes.fromhex(approval.key), approval.signature)
            for approval in given
            if self.counts(candidate, approval)
        ]
        bad = sum(bool(approval.key) for approval in given) - len(good)
        needed = handling.threshold
        return ApprovalState(len(good) >= needed, True, len(good), needed, tuple(good[:15]), bad)


def pending(collections: Mapping[str, Collection], journal: SenderJournal) -> list[dict[str, Any]]:
    """Return the candidates that wait for somebody to approve them."""
    decisions = Decisions(journal)
    approvals = Approvals(collections, decisions)
    found = []
    for candidate in candidates(journal, decisions):
        if not isinstance(candidate, Candidate):
            continue
        state = approvals.of(candidate)
        if not state.approved:
            found.append(
                {
                    "id": candidate.id,
                    "collection": candidate.collection,
                    "sequence": candidate.release.sequence,
                    "approved_by": state.given,
                    "needed": state.needed,
                    "unusable_signatures": state.unknown,
                    "rollback_to": candidate.rollback,
                }
            )
    return found


def waiting_line(one: Mapping[str, Any]) -> str:
    """Return the line for people about one that :func:`pending` has found."""
    again = f" (the contents of {one['rollback_to']} again)" if one["rollback_to"] else ""
    return (
        f"release {one['collection']} {one['sequence']}{again} waits for approval, {one['approved_by']} of "
        f"{one['needed']}: checkvalve-sender approve {one['id']}"
    )
