"""Whom this receiver trusts, read from the key files that receiver.yaml lists: senders, and approvers of releases."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.release import SignedRelease, open_release
from protocol.trust import RequiredApprovals, TrustedSenders
from receiver.config import ReceiverSettings
from runtime.errors import UserError
from runtime.keys import load_signing_public


@dataclass(frozen=True)
class Trust:
    """The sender keys whose releases are accepted, and the approvals that these need, by collection."""

    senders: TrustedSenders
    approvals: dict[str, RequiredApprovals] = field(default_factory=dict)

    def open(self, envelope: bytes) -> SignedRelease:
        """Verify and parse a release; WireError says what is wrong with it."""
        return open_release(envelope, self.senders, self.approvals)


def trust(settings: ReceiverSettings) -> Trust:
    """Read the keys; UserError names a file that holds none, or one that is a sender's and an approver's."""
    senders = TrustedSenders.of(
        *(load_signing_public(path, created_by="checkvalve-sender init") for path in settings.senders)
    )
    approvals = {}
    for collection, wanted in settings.approvals.items():
        required = RequiredApprovals.of(wanted.threshold, *(load_signing_public(path) for path in wanted.approvers))
        if len(required.keys) < len(wanted.approvers):
            raise UserError(f"approvals.{collection}.approvers: one key is listed twice; keep one")
        if not senders.keys.keys().isdisjoint(required.keys):
            raise UserError(
                f"approvals.{collection}.approvers: one of these keys is a sender's; an approver needs a key of "
                "his own, which the sender does not have"
            )
        approvals[collection] = required
    return Trust(senders, approvals)
