"""Who is who: identifiers of keys, the receiver's trust in senders, and the state that makes old things stay old.

Holds public keys and remembered numbers only. Keeping :class:`Remembered` on disk is the caller's task, *before*
acting on the event that changed it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

KEY_ID_BYTES = 32


def key_id(public: Ed25519PublicKey | X25519PublicKey) -> bytes:
    """Return the 32-byte identifier of a key: SHA-256 over its 32 raw public bytes."""
    return hashlib.sha256(public.public_bytes_raw()).digest()


@dataclass(frozen=True)
class TrustedSenders:
    """The sender keys a receiver accepts; several, so that keys can be rotated."""

    keys: dict[bytes, Ed25519PublicKey]

    @staticmethod
    def of(*publics: Ed25519PublicKey) -> TrustedSenders:
        """Return the trust list of these keys."""
        return TrustedSenders({key_id(public): public for public in publics})


@dataclass(frozen=True)
class RequiredApprovals:
    """Whose signatures a release needs besides the sender's: *threshold* of these keys."""

    keys: dict[bytes, Ed25519PublicKey]
    threshold: int

    @staticmethod
    def of(threshold: int, *publics: Ed25519PublicKey) -> RequiredApprovals:
        """Return the requirement that *threshold* of these keys sign."""
        return RequiredApprovals({key_id(public): public for public in publics}, threshold)


@dataclass(frozen=True, slots=True)
class ReleaseMark:
    """The newest release accepted of one collection."""

    sequence: int
    digest: str  # "sha256:<hex>" of the signed payload


@dataclass
class Remembered:
    """The highest numbers seen. Epochs are per sender key; releases per collection, whoever signed."""

    epochs: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)  # key id -> (epoch, session id)
    releases: dict[str, ReleaseMark] = field(default_factory=dict)
