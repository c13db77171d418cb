"""Fixed keys and a session built by hand from WIRE_FORMAT.md, without the product's builders.

All keys derive from names by SHA-256; they are for tests only. Every field can be set wrong.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.vectors import hpke

ANNOUNCEMENT, OBJECTS, BEACON, SYMBOL = 1, 2, 3, 4
DATAGRAM_BYTES = 560  # the smallest: 512-byte symbols
SYMBOL_BYTES = DATAGRAM_BYTES - 48


def seed(name: str) -> bytes:
    """The 32 bytes that stand for *name*: SHA-256 of "checkvalve test vector: <name>"."""
    return sha256(f"checkvalve test vector: {name}".encode()).digest()


def signing_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed(name))


def agreement_key(name: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(seed(name))


def key_id(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    return sha256(key.public_key().public_bytes_raw()).digest()


def header(
    kind: int,
    tag: bytes,
    number: int = 0,
    toi: int = 0,
    sbn: int = 0,
    row: int = 0,
    column: int = 0,
    *,
    magic: bytes = b"CV",
    version: int = 1,
    reserved: int = 0,
) -> bytes:
    return struct.pack("<2sBB4sQIIHHI", magic, version, kind, tag, number, toi, sbn, row, column, reserved)


@dataclass
class Session:
    """One session by hand; *receivers* and *sender* are key names."""

    epoch: int = 7
    name: str = "session 1"
    datagram_bytes: int = DATAGRAM_BYTES
    created_ms: int = 1_700_000_000_000
    lanes: int = 1
    sender: str = "sender"
    receivers: tuple[str, ...] = ("receiver",)
    signer: str | None = None  # another key that signs in the sender's name
    suites: bytes = b"\x01\x01"
    reserved: bytes = bytes(4)
    receiver_count: int | None = None
    ephemeral: str = "ephemeral"
    overrides: dict[str, bytes] = field(default_factory=dict)  # receiver name -> wrapped key as it is to be

    @property
    def session_id(self) -> bytes:
        return seed(self.name)[:16]

    @property
    def tag(self) -> bytes:
        return self.session_id[:4]

    @property
    def session_key(self) -> bytes:
        return seed(f"key of {self.name}")

    @property
    def wrap_info(self) -> bytes:
        sender = key_id(signing_key(self.sender))
        return b"checkvalve session key v1\0" + sender + self.session_id + struct.pack("<Q", self.epoch)

    def wrapped(self, receiver: str) -> bytes:
        if receiver in self.overrides:
            return self.overrides[receiver]
        public = agreement_key(receiver).public_key()
        ephemeral = agreement_key(f"{self.ephemeral} for {receiver}")
        return hpke.seal(self.session_key, public, self.wrap_info, ephemeral)

    @cached_property
    def signed(self) -> bytes:
        blocks = [key_id(agreement_key(name)) + self.wrapped(name) for name in self.receivers]
        count = len(blocks) if self.receiver_count is None else self.receiver_count
        fixed = struct.pack(
            "<4s2sHQ16sQHH4s",
            b"CVA1",
            self.suites,
            self.datagram_bytes,
            self.epoch,
            self.session_id,
            self.created_ms,
            self.lanes,
            count,
            self.reserved,
        )
        return fixed + key_id(signing_key(self.sender)) + b"".join(blocks)

    @cached_property
    def announcement(self) -> bytes:
        key = signing_key(self.signer or self.sender)
        return self.signed + key.sign(b"checkvalve announcement v1\0" + self.signed)

    @cached_property
    def traffic_key(self) -> bytes:
        info = b"checkvalve traffic key v1\0" + sha256(self.signed).digest()
        return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(self.session_key)

    def fragments(self, datagram_bytes: int | None = None, announcement: bytes | None = None) -> list[bytes]:
        size = datagram_bytes or self.datagram_bytes
        whole = self.announcement if announcement is None else announcement
        room = size - 48
        pieces = [whole[at : at + room] for at in range(0, len(whole), room)]
        return [
            fragment(self.tag, index, sha256(whole).digest()[:8], len(pieces), len(piece), len(whole), piece, size)
            for index, piece in enumerate(pieces)
        ]

    def seal(self, head: bytes, payload: bytes) -> bytes:
        """Return the datagram: header as associated data, its bytes 4..16 as nonce."""
        return head + AESGCM(self.traffic_key).encrypt(head[4:16], payload, head)

    def symbol(self, number: int, payload: bytes, toi: int = 1, sbn: int = 0, row: int = 0, column: int = 0) -> bytes:
        return self.seal(header(SYMBOL, self.tag, number, toi, sbn, row, column), payload)

    def control(self, kind: int, number: int, payload: bytes) -> bytes:
        return self.seal(header(kind, self.tag, number), payload.ljust(self.datagram_bytes - 48, b"\0"))


def fragment(
    tag: bytes, index: int, identifier: bytes, count: int, size: int, total: int, piece: bytes, datagram_bytes: int
) -> bytes:
    prologue = identifier + struct.pack("<HHI", count, size, total)
    return (header(ANNOUNCEMENT, tag, toi=index) + prologue + piece).ljust(datagram_bytes, b"\0")


def entry(
    content: bytes,
    toi: int = 1,
    kind: int = 1,
    coding: int = 0,
    algorithm: int = 0,
    k: int = 4,
    m: int = 2,
    depth: int = 2,
    *,
    coded: bytes | None = None,
    content_size: int | None = None,
    coded_size: int | None = None,
    coded_digest: bytes | None = None,
    digest: bytes | None = None,
    reserved: bytes = bytes(5),
) -> bytes:
    """An object table entry (WIRE_FORMAT.md §4.1)."""
    wire = content if coded is None else coded
    size = len(wire) if coded_size is None else coded_size
    return (
        struct.pack("<IBBBBB", toi, kind, coding, algorithm, k, m)
        + reserved[:1]
        + struct.pack("<H", depth)
        + reserved[1:]
        + struct.pack("<QQ", len(content) if content_size is None else content_size, size)
        + (coded_digest or sha256(wire).digest())
        + (digest or sha256(content).digest()).ljust(64, b"\0")
    )


def beacon(
    sequence: int = 1,
    clock_ms: int = 1_700_000_000_000,
    toi: int = 0,
    sbn: int = 0,
    queued: int = 0,
    flags: int = 0,
    count: int | None = None,
    collections: int | None = None,
    newest: tuple[bytes, ...] = (),
) -> bytes:
    """A beacon's payload before padding (WIRE_FORMAT.md §6)."""
    count = len(newest) if count is None else count
    collections = len(newest) if collections is None else collections
    return struct.pack("<QQIIQBBH", sequence, clock_ms, toi, sbn, queued, flags, count, collections) + b"".join(
        newest
    )


def newest(name: bytes, sequence: int, digest: bytes, toi: int) -> bytes:
    return bytes((len(name),)) + name + struct.pack("<Q32sI", sequence, digest, toi)
