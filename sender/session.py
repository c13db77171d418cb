"""Opens a session: the next epoch, fresh randomness, the key wrapped for every receiver, and the object table."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from protocol.announcement import SESSION_KEY_BYTES, SessionParameters, build, wrap_session_key
from protocol.encoder import Cadence, Encoder
from protocol.geometry import LinkProfile
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.trust import key_id
from sender.journal import QueuedObject

TABLE_DATAGRAMS_PER_COPY: Final = 200  # at most one table datagram among so many
LEAD_IN_S: Final = 0.02  # between the copies of what a receiver must know first: an outage swallows one at most
SESSION_DATAGRAMS_MAX: Final = 1 << 27  # half of AES-GCM's confidentiality limit for 2 KiB packets (RFC 9001, B.1)


class Session:
    """One epoch of this sender: its encoder, and the TOIs it has given out."""

    def __init__(
        self,
        epoch: int,
        signer: Ed25519PrivateKey,
        receivers: Sequence[X25519PublicKey],
        profile: LinkProfile,
        *,
        datagram_bytes: int,
        datagrams_per_second: float,
        now: float,
        unix_now: float,
    ) -> None:
        """Draw the session's randomness and open it. *epoch* must be on disk already (DESIGN §5.4)."""
        self.profile = profile
        self.parameters = SessionParameters(epoch, secrets.token_bytes(16), datagram_bytes, int(unix_now * 1000))
        session_key = secrets.token_bytes(SESSION_KEY_BYTES)
        sender = key_id(signer.public_key())
        wrapped = {
            key_id(receiver): wrap_session_key(session_key, receiver, sender, self.parameters)
            for receiver in receivers
        }
        self.encoder = Encoder(
            self.parameters,
            session_key,
            build(self.parameters, wrapped, signer),
            cadence=Cadence(
                table=max(0.02, TABLE_DATAGRAMS_PER_COPY / datagrams_per_second),
                lead_in=max(LEAD_IN_S, 1.5 * profile.outage / datagrams_per_second),
            ),
            clock_ms=lambda at: int((unix_now + at - now) * 1000),
        )
        self._entries: dict[tuple[str, str], ObjectEntry] = {}  # by digest and coded digest
        self._tois: dict[str, int] = {}  # by content digest

    def entry_of(self, queued: QueuedObject) -> ObjectEntry:
        """Return the table entry of an object, giving it the next TOI on first use."""
        key = queued.digest, queued.coded_digest  # the journal gives the id of a forgotten object to another
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = ObjectEntry(
                toi=len(self._entries) + 1,
                kind=Kind(queued.kind),
                coding=Coding(queued.coding),
                digest=queued.digest,
                content_size=queued.content_size,
                coded_digest=queued.coded_digest,
                geometry=self.profile.geometry(queued.coded_size),
            )
            self._tois[entry.digest] = entry.toi
        return entry

    def toi_of(self, digest: str) -> int:
        """Return the TOI of the object with this content digest, 0 if it is not in this session."""
        return self._tois.get(digest, 0)

    @property
    def worn(self) -> bool:
        """Whether so much was sealed under one key that a new session is due."""
        return self.encoder.counters.datagrams >= SESSION_DATAGRAMS_MAX
