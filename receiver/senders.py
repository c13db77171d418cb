"""Whom this receiver trusts, read from the key files that receiver.yaml lists: senders, and approvers of releases.

Capture takes, publish reads and status shows a release by :meth:`Trust.open`, so what it refuses counts nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from protocol.drops import Drop
from protocol.errors import WireError
from protocol.release import ANY_COLLECTION, SignedRelease, open_release
from protocol.trust import RequiredApprovals, TrustedSenders
from receiver.config import ReceiverSettings
from runtime.errors import UserError
from runtime.keys import fingerprint, load_signing_public


@dataclass(frozen=True)
class Allowed:
    """Which releases of trusted senders are taken: by collection (globs), and by collection and key id."""

    collections: tuple[str, ...] = ("*",)
    senders: Mapping[str, frozenset[bytes]] = field(default_factory=dict)

    def check(self, signed: SignedRelease) -> None:
        """WireError COLLECTION_NOT_ALLOWED or SENDER_NOT_ALLOWED if this release is not to be taken."""
        name = signed.release.collection
        if not any(fnmatchcase(name, glob) for glob in self.collections):
            raise WireError(
                Drop.COLLECTION_NOT_ALLOWED,
                f"collection {name}: border.collections allows {', '.join(self.collections)}",
            )
        keys = self.senders.get(name, self.senders.get(ANY_COLLECTION))
        if keys is not None and keys.isdisjoint(signed.signers):
            raise WireError(
                Drop.SENDER_NOT_ALLOWED, f"collection {name}: signed by no sender that border.senders allows for it"
            )


@dataclass(frozen=True)
class Trust:
    """The sender keys whose releases are accepted, and the approvals that these need, by collection."""

    senders: TrustedSenders
    approvals: dict[str, RequiredApprovals] = field(default_factory=dict)
    allowed: Allowed = Allowed()

    def open(self, envelope: bytes) -> SignedRelease:
        """Verify and parse a release; WireError says what is wrong with it, or that it is not allowed here."""
        signed = open_release(envelope, self.senders, self.approvals)
        self.allowed.check(signed)
        return signed


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
    return Trust(senders, approvals, _allowed(settings, senders))


def _allowed(settings: ReceiverSettings, trusted: TrustedSenders) -> Allowed:
    by_print = {fingerprint(public): key for key, public in trusted.keys.items()}
    allowed = {}
    for collection, senders in settings.border.senders.items():
        prints = [fingerprint(load_signing_public(one)) if isinstance(one, Path) else one for one in senders]
        for given, found in zip(senders, prints, strict=True):
            if found not in by_print:
                raise UserError(f"border.senders.{collection}: {given} is no key of `senders`; add it there first")
        allowed[collection] = frozenset(by_print[found] for found in prints)
    return Allowed(settings.border.collections, allowed)
