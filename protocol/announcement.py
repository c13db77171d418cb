"""The signed session announcement: who sends, in which epoch, at what datagram size, and the wrapped key.

WIRE_FORMAT.md §3. The session key is wrapped for each receiver by HPKE (RFC 9180, base mode,
DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM); the whole is signed with Ed25519 (RFC 8032). HPKE draws
randomness, so wrapping is a function of its own that the sender's edge calls; everything else here is pure.

    offset size field
    0      4    magic "CVA1"
    4      1    signature suite, 1 = Ed25519
    5      1    key suite, 1 = HPKE X25519 / HKDF-SHA256 / AES-256-GCM
    6      2    datagram size (bytes of UDP payload)
    8      8    epoch
    16     16   session id
    32     8    created, Unix milliseconds; informational
    40     2    lanes
    42     2    number of receivers R
    44     4    reserved, 0
    48     32   sender key id
    80     112R per receiver: key id (32), HPKE enc (32), wrapped key and tag (48)
    ..     64   Ed25519 signature over "checkvalve announcement v1" 00 and all bytes before it
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.drops import Drop
from protocol.errors import ProtocolMisuse, WireError
from protocol.limits import ANNOUNCEMENT_BYTES_MAX, CLOCK_MS_MAX, LANES_MAX, RECEIVERS_MAX
from protocol.reader import Reader
from protocol.trust import KEY_ID_BYTES, TrustedSenders, key_id
from protocol.wire import valid_datagram_bytes

MAGIC: Final = b"CVA1"
SIGNATURE_ED25519: Final = 1
KEYS_X25519: Final = 1
SIGNATURE_BYTES: Final = 64
SESSION_ID_BYTES: Final = 16
SESSION_KEY_BYTES: Final = 32
WRAPPED_BYTES: Final = 32 + SESSION_KEY_BYTES + 16
EPOCH_MAX: Final = (1 << 63) - 1
_SIGN_CONTEXT: Final = b"checkvalve announcement v1\0"
_WRAP_CONTEXT: Final = b"checkvalve session key v1\0"
_TRAFFIC_CONTEXT: Final = b"checkvalve traffic key v1\0"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class SessionParameters:
    """The announced facts of a session, all covered by the signature."""

    epoch: int
    session_id: bytes  # 16 random bytes
    datagram_bytes: int
    created_ms: int
    lanes: int = 1

    @property
    def tag(self) -> bytes:
        """The 4 bytes that stand for the session in each datagram header."""
        return self.session_id[:4]


@dataclass(frozen=True, slots=True)
class Announcement:
    """A parsed and verified announcement."""

    parameters: SessionParameters
    sender: bytes  # key id
    wrapped: dict[bytes, bytes]  # receiver key id -> enc and ciphertext
    signed: bytes  # all bytes before the signature


def wrap_context(sender: bytes, parameters: SessionParameters) -> bytes:
    """Return the HPKE ``info`` that binds a wrapped key to its sender, session and epoch."""
    return _WRAP_CONTEXT + sender + parameters.session_id + parameters.epoch.to_bytes(8, "little")


def wrap_session_key(
    session_key: bytes, receiver: X25519PublicKey, sender: bytes, parameters: SessionParameters
) -> bytes:
    """Wrap the session key for one receiver; draws fresh HPKE randomness, so not pure. Returns enc, ciphertext."""
    return _SUITE.encrypt(session_key, receiver, info=wrap_context(sender, parameters))


def build(parameters: SessionParameters, wrapped: dict[bytes, bytes], signer: Ed25519PrivateKey) -> bytes:
    """Return the announcement's bytes; *wrapped* maps receiver key id to what wrap_session_key returned."""
    if not wrapped or len(wrapped) > RECEIVERS_MAX:
        raise ProtocolMisuse(f"{len(wrapped)} receivers: need 1 to {RECEIVERS_MAX}")
    if not 0 < parameters.epoch <= EPOCH_MAX or len(parameters.session_id) != SESSION_ID_BYTES:
        raise ProtocolMisuse("epoch or session id out of range")
    if not valid_datagram_bytes(parameters.datagram_bytes) or not 1 <= parameters.lanes <= LANES_MAX:
        raise ProtocolMisuse(f"datagrams of {parameters.datagram_bytes} bytes, {parameters.lanes} lanes")
    if not 0 <= parameters.created_ms <= CLOCK_MS_MAX:
        raise ProtocolMisuse(f"created at {parameters.created_ms} ms")
    parts = [
        MAGIC,
        bytes((SIGNATURE_ED25519, KEYS_X25519)),
        parameters.datagram_bytes.to_bytes(2, "little"),
        parameters.epoch.to_bytes(8, "little"),
        parameters.session_id,
        parameters.created_ms.to_bytes(8, "little"),
        parameters.lanes.to_bytes(2, "little"),
        len(wrapped).to_bytes(2, "little"),
        bytes(4),
        key_id(signer.public_key()),
    ]
    for receiver, sealed in sorted(wrapped.items()):
        if len(receiver) != KEY_ID_BYTES or len(sealed) != WRAPPED_BYTES:
            raise ProtocolMisuse("wrapped key of unexpected size")
        parts += [receiver, sealed]
    signed = b"".join(parts)
    return signed + signer.sign(_SIGN_CONTEXT + signed)


def open_announcement(data: bytes, trusted: TrustedSenders) -> Announcement:
    """Parse and verify; WireError with the reason otherwise. The signature is checked before fields are used."""
    if len(data) > ANNOUNCEMENT_BYTES_MAX:
        raise WireError(Drop.BAD_ANNOUNCEMENT, f"{len(data)} bytes")
    reader = Reader(data, Drop.BAD_ANNOUNCEMENT)
    reader.expect(MAGIC)
    reader.expect(bytes((SIGNATURE_ED25519, KEYS_X25519)))
    datagram_bytes = reader.uint(2)
    epoch = reader.uint(8)
    session_id = reader.take(SESSION_ID_BYTES)
    created_ms = reader.uint(8)
    lanes = reader.uint(2)
    receivers = reader.uint(2)
    reader.expect(bytes(4))
    sender = reader.take(KEY_ID_BYTES)
    public = trusted.keys.get(sender)
    if public is None:
        raise WireError(Drop.UNTRUSTED_SENDER, f"key id {sender.hex()}")
    if not 1 <= receivers <= RECEIVERS_MAX:
        raise WireError(Drop.BAD_ANNOUNCEMENT, f"{receivers} receivers")
    wrapped: dict[bytes, bytes] = {}
    before = b""
    for _ in range(receivers):
        receiver = reader.take(KEY_ID_BYTES)
        if receiver <= before:
            raise WireError(Drop.BAD_ANNOUNCEMENT, "receivers are not in ascending order, each once")
        before = receiver
        wrapped[receiver] = reader.take(WRAPPED_BYTES)
    signature = reader.take(SIGNATURE_BYTES)
    reader.end()
    signed = data[:-SIGNATURE_BYTES]
    try:
        public.verify(signature, _SIGN_CONTEXT + signed)
    except InvalidSignature:
        raise WireError(Drop.BAD_SIGNATURE, f"epoch {epoch} of {sender.hex()}") from None
    if not 1 <= lanes <= LANES_MAX or not 0 < epoch <= EPOCH_MAX or not valid_datagram_bytes(datagram_bytes):
        raise WireError(Drop.BAD_ANNOUNCEMENT, f"lanes {lanes}, epoch {epoch}, datagrams of {datagram_bytes}")
    if created_ms > CLOCK_MS_MAX:
        raise WireError(Drop.BAD_ANNOUNCEMENT, f"created at {created_ms} ms")
    parameters = SessionParameters(epoch, session_id, datagram_bytes, created_ms, lanes)
    return Announcement(parameters, sender, wrapped, signed)


def unwrap_session_key(announcement: Announcement, private: X25519PrivateKey) -> bytes:
    """Return the session key that *announcement* holds for *private*; WireError if there is none for it."""
    sealed = announcement.wrapped.get(key_id(private.public_key()))
    if sealed is None:
        raise WireError(Drop.NOT_FOR_US, f"epoch {announcement.parameters.epoch}")
    info = wrap_context(announcement.sender, announcement.parameters)
    try:
        session_key = _SUITE.decrypt(sealed, private, info=info)
    except (InvalidTag, ValueError):
        raise WireError(Drop.BAD_SESSION_KEY, f"epoch {announcement.parameters.epoch}") from None
    if len(session_key) != SESSION_KEY_BYTES:
        raise WireError(Drop.BAD_SESSION_KEY, f"{len(session_key)} bytes")
    return session_key


def traffic_key(session_key: bytes, signed: bytes) -> bytes:
    """Return the AES-256 key of a session: HKDF-SHA256 (RFC 5869), bound to every signed byte of its announcement."""
    info = _TRAFFIC_CONTEXT + hashlib.sha256(signed).digest()
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(session_key)


def signed_part(announcement: bytes) -> bytes:
    """Return the bytes of a built announcement that its signature covers."""
    return announcement[:-SIGNATURE_BYTES]


def same_session(a: bytes, b: bytes) -> bool:
    """Compare two session ids."""
    return hmac.compare_digest(a, b)
