"""The senders this receiver trusts, read from the key files that receiver.yaml lists."""

from __future__ import annotations

from protocol.trust import TrustedSenders
from receiver.config import ReceiverSettings
from runtime.keys import load_signing_public


def trusted_senders(settings: ReceiverSettings) -> TrustedSenders:
    """Return the keys whose releases are accepted; UserError names a file that holds none."""
    return TrustedSenders.of(*(load_signing_public(path) for path in settings.senders))
