"""Opens a session: the next epoch, fresh randomness, the key wrapped for every receiver, and the object table."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Opening:
    """What each lane has to know to seal datagrams of a session."""

    parameters: SessionParameters
    session_key: bytes = field(repr=False)
    announcement: bytes
    cadence: Cadence

    def encoder(self, lane: int, clock_ms: Callable[[float], int] = lambda now: 0) -> Encoder:
        """Return the encoder of one lane; only lane 0's needs the clock (Unix milliseconds at a monotonic time)."""
        return Encoder(
            self.parameters,
            self.session_key,
            self.announcement,
            lane=lane,
            cadence=self.cadence,
            clock_ms=clock_ms,
        )


class Session:
    """One epoch of this sender: lane 0's encoder, and the TOIs it has given out.

    *datagrams_per_second* and *profile* are those of a lane.
    """

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
        lanes: int = 1,
    ) -> None:
        """Draw the session's randomness and open it. *epoch* must be on disk already (DESIGN §5.4)."""
        self.profile = profile
        session_id, created_ms = secrets.token_bytes(16), int(unix_now * 1000)
        self.parameters = SessionParameters(epoch, session_id, datagram_bytes, created_ms, lanes)
        session_key = secrets.token_bytes(SESSION_KEY_BYTES)
        sender = key_id(signer.public_key())
        wrapped = {
            key_id(receiver): wrap_session_key(session_key, receiver, sender, self.parameters)
            for receiver in receivers
        }
        self.opening = Opening(
            self.parameters,
            session_key,
            build(self.parameters, wrapped, signer),
            Cadence(
                table=max(0.02, TABLE_DATAGRAMS_PER_COPY / datagrams_per_second),
                lead_in=max(LEAD_IN_S, 1.5 * profile.outage / datagrams_per_second),
            ),
        )
        self.encoder = self.opening.encoder(0, lambda at: int((unix_now + at - now) * 1000))
        self.sealed_elsewhere = 0  # datagrams of further lanes, under the same key
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
        return self.encoder.counters.datagrams + self.sealed_elsewhere >= SESSION_DATAGRAMS_MAX
