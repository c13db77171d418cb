"""HPKE base mode (RFC 9180 §5.1.1, §6.1) with a fixed ephemeral key, from primitives: only for test vectors.

DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. The product uses the library's HPKE; this second
implementation makes reproducible vectors and shows that the library opens what the RFC's text produces.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEM = b"KEM" + (0x0020).to_bytes(2, "big")
HPKE = b"HPKE" + (0x0020).to_bytes(2, "big") + (0x0001).to_bytes(2, "big") + (0x0002).to_bytes(2, "big")


def extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.new(salt or bytes(32), b"HPKE-v1" + suite + label + material, sha256).digest()


def expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(key, block + labeled + bytes((counter,)), sha256).digest()
        out, counter = out + block, counter + 1
    return out[:length]


def seal(plaintext: bytes, receiver: X25519PublicKey, info: bytes, ephemeral: X25519PrivateKey) -> bytes:
    """Return enc and ciphertext, for one message with empty associated data."""
    enc = ephemeral.public_key().public_bytes_raw()
    shared = extract(KEM, b"", b"eae_prk", ephemeral.exchange(receiver))
    shared = expand(KEM, shared, b"shared_secret", enc + receiver.public_bytes_raw(), 32)
    context = b"\0" + extract(HPKE, b"", b"psk_id_hash", b"") + extract(HPKE, b"", b"info_hash", info)
    secret = extract(HPKE, shared, b"secret", b"")
    key = expand(HPKE, secret, b"key", context, 32)
    nonce = expand(HPKE, secret, b"base_nonce", context, 12)
    return enc + AESGCM(key).encrypt(nonce, plaintext, b"")
