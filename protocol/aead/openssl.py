"""A burst by one call of cryptography's AESGCM for each datagram, in place."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.aead.cipher import Opener, Sealer, Symbols
from protocol.limits import DATAGRAM_BYTES_MAX
from protocol.wire import BurstView, symbol_bytes


class OpensslSealer(Sealer):
    """Seals by OpenSSL."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, view: BurstView, count: int, symbols: Symbols, at: int) -> None:
        """As the base class."""
        encrypt_into = self._aead.encrypt_into
        pieces = zip(view.nonces, symbols.symbols[at : at + count], view.headers, view.sealed, strict=False)
        for nonce, symbol, header, sealed in pieces:
            encrypt_into(nonce, symbol, header, sealed)


class OpensslOpener(Opener):
    """Opens by OpenSSL."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._waste = memoryview(bytearray(DATAGRAM_BYTES_MAX))

    def open(self, view: BurstView, first: int, count: int, symbols: Symbols | None = None, at: int = 0) -> bool:
        """As the base class."""
        decrypt_into, end = self._aead.decrypt_into, first + count
        targets: Iterable[memoryview] = repeat(self._waste[: symbol_bytes(view.datagram_bytes)], count)
        if symbols is not None:
            targets = symbols.symbols[at : at + count]
        pieces = zip(view.nonces[first:end], view.sealed[first:end], view.headers[first:end], targets, strict=True)
        try:
            for nonce, sealed, header, target in pieces:
                decrypt_into(nonce, sealed, header, target)
        except InvalidTag:
            return False
        return True
