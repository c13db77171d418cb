"""``approve``: a person agrees to a candidate release, with a key where the collection asks for keys.

The key need not be on this machine: ``--export`` writes the payload, ``endorse`` signs it wherever the key is, and
``--signature`` brings the result back.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.errors import WireError
from protocol.release import parse_payload, payload_digest, sign_payload
from runtime.durable import write_durably
from runtime.errors import UserError
from runtime.keys import load_signing_key
from sender.candidates import ID_DIGITS, Approvals, ApprovalState, Candidate, candidates
from sender.changes import Change, changes
from sender.config import SenderSettings
from sender.decisions import Approval, Decisions
from sender.desired import read_state
from sender.journal import SenderJournal

ID_DIGITS_MIN: Final = 8
FILE_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was approved, and where it stands now."""

    candidate: Candidate
    state: ApprovalState
    changes: list[Change]

    def document(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "id": self.candidate.id,
            "digest": self.candidate.digest,
            "collection": self.candidate.collection,
            "sequence": self.candidate.release.sequence,
            "approved": self.state.approved,
            "approved_by": self.state.given,
            "needed": self.state.needed,
            "changes": [one.document() for one in self.changes],
        }


def approve(
    settings: SenderSettings, wanted: str, keys: list[Path], signatures: list[Path], export: Path | None
) -> Outcome:
    """Record agreement to the candidate whose id begins with *wanted*, or only *export* it. UserError otherwise."""
    journal = SenderJournal.existing(settings.journal)
    try:
        decisions = Decisions(journal)
        candidate = _find(journal, decisions, wanted)
        approvals = Approvals(settings.collections, decisions)
        if export is not None:
            _write(export, candidate.payload)
        else:
            _record(settings, decisions, approvals, candidate, keys, signatures)
        before = read_state(candidate.before.images) if candidate.before else ()
        return Outcome(candidate, approvals.of(candidate), changes(before, candidate.release.images))
    finally:
        journal.close()


def endorse(payload: Path, key: Path, out: Path) -> dict[str, Any]:
    """Sign an exported payload; return what it is, for the person who signs. UserError for what is no payload."""
    raw = _read(payload)
    try:
        release = parse_payload(raw)
    except WireError as error:
        raise UserError(f"{payload}: no release ({error}); give a file that `approve --export` wrote") from None
    signature = sign_payload(raw, load_signing_key(key))
    digest = payload_digest(raw)
    document = {"release": digest, "key": signature.key.hex(), "signature": signature.value.hex()}
    _write(out, json.dumps(document).encode() + b"\n")
    return {
        "id": digest.partition(":")[2][:ID_DIGITS],
        "collection": release.collection,
        "sequence": release.sequence,
        "images": len(release.images),
    }


def _find(journal: SenderJournal, decisions: Decisions, wanted: str) -> Candidate:
    wanted = wanted.removeprefix("sha256:")
    if len(wanted) < ID_DIGITS_MIN:
        raise UserError(f"{wanted!r}: give at least {ID_DIGITS_MIN} digits of the id that `plan` shows")
    known = [one for one in candidates(journal, decisions) if isinstance(one, Candidate)]
    for candidate in known:
        if candidate.digest.partition(":")[2].startswith(wanted):
            return candidate
    there = ", ".join(f"{one.id} ({one.collection} {one.release.sequence})" for one in known)
    raise UserError(
        f"{wanted}: no such proposal; "
        + (f"waiting: {there}" if there else "nothing waits, all that was proposed is released")
    )


def _record(
    settings: SenderSettings,
    decisions: Decisions,
    approvals: Approvals,
    candidate: Candidate,
    keys: list[Path],
    signatures: list[Path],
) -> None:
    collection = candidate.collection
    handling = settings.collections.get(collection)
    if handling is None or handling.approval == "auto":
        raise UserError(f"collection {collection} needs no approval; it is released as soon as transmit runs")
    if not handling.approvers and (keys or signatures):
        raise UserError(f"collections.{collection}.approvers names nobody; approve without a key")
    if handling.approvers and not (keys or signatures):
        raise UserError(f"collection {collection} asks for approvers' signatures; give --key or --signature")
    given = [Approval("", b"", time.time())] if not handling.approvers else []
    for path in keys:
        signed = sign_payload(candidate.payload, load_signing_key(path))
        given.append(Approval(signed.key.hex(), signed.value, time.time()))
        _must_count(approvals, candidate, given[-1], path)
    for path in signatures:
        given.append(_read_signature(path, candidate))
        _must_count(approvals, candidate, given[-1], path)
    for approval in given:
        decisions.approve(collection, candidate.digest, approval)


def _must_count(approvals: Approvals, candidate: Candidate, approval: Approval, path: Path) -> None:
    if not approvals.counts(candidate, approval):
        raise UserError(
            f"{path}: is of no approver of {candidate.collection}, or a wrong signature; "
            f"collections.{candidate.collection}.approvers names the keys"
        )


def _read_signature(path: Path, candidate: Candidate) -> Approval:
    try:
        document = json.loads(_read(path))
        release, key, value = (document[name] for name in ("release", "key", "signature"))
        approval = Approval(bytes.fromhex(key).hex(), bytes.fromhex(value), time.time())
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: no signature; give a file that `checkvalve-sender endorse` wrote") from None
    if release != candidate.digest:
        raise UserError(
            f"{path}: signs {str(release)[:19]}, not {candidate.digest[:19]}; export the present proposal and "
            "endorse that"
        )
    return approval


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise UserError(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    return raw


def _write(path: Path, data: bytes) -> None:
    try:
        write_durably(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
