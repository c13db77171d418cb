"""AES-256-GCM over the symbols of a burst (WIRE_FORMAT.md §3), sealed from and opened into block buffers.

Two implementations of the same bytes: ``openssl`` (cryptography), a call for each datagram, is always there;
``ipsecmb`` (Intel's Multi-Buffer Crypto library, where the system has it) takes a burst in one call. What is not a
burst of symbols (control datagrams, the odd symbol) is sealed and opened by cryptography alone.
"""

from __future__ import annotations

from typing import Final

from protocol.aead import ipsecmb
from protocol.aead.cipher import Opener, Sealer
from protocol.aead.openssl import OpensslOpener, OpensslSealer

__all__ = ["BACKENDS", "CHOICE", "FASTEST", "NAME", "PACKAGE", "Opener", "Sealer", "opener", "sealer"]

BACKENDS: Final[dict[str, tuple[type[Sealer], type[Opener]]]] = {"openssl": (OpensslSealer, OpensslOpener)}

if ipsecmb.check():
    BACKENDS["ipsecmb"] = (ipsecmb.IpsecMbSealer, ipsecmb.IpsecMbOpener)

FASTEST: Final = next(reversed(BACKENDS))
NAME: Final = "OpenSSL" if FASTEST == "openssl" else f"ipsec-mb {ipsecmb.library.version}"
CHOICE: Final = NAME + (f", as {ipsecmb.library.why_not}" if ipsecmb.library.why_not else "")  # for people
PACKAGE: Final = ipsecmb.PACKAGE if ipsecmb.library.missing else ""  # Debian's, that would make it faster here


def sealer(key: bytes, backend: str = FASTEST) -> Sealer:
    """Return what seals bursts under *key* (32 bytes)."""
    return BACKENDS[backend][0](key)


def opener(key: bytes, backend: str = FASTEST) -> Opener:
    """Return what opens bursts sealed under *key* (32 bytes)."""
    return BACKENDS[backend][1](key)
