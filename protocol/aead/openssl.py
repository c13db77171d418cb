"""A burst by one call of cryptography's AESGCM for each datagram, in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, repeat

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.aead.cipher import Opener, Sealer
from protocol.buffers import BlockBuffer
from protocol.limits import DATAGRAM_BYTES_MAX
from protocol.wire import BurstView, symbol_bytes


class OpensslSealer(Sealer):
    """Seals by OpenSSL."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, view: BurstView, buffer: BlockBuffer, places: Sequence[slice]) -> None:
        """As the base class."""
        encrypt_into = self._aead.encrypt_into
        symbols = _symbols(buffer, places)
        for nonce, symbol, header, sealed in zip(view.nonces, symbols, view.headers, view.sealed, strict=False):
            encrypt_into(nonce, symbol, header, sealed)


class OpensslOpener(Opener):
    """Opens by OpenSSL."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._waste = memoryview(bytearray(DATAGRAM_BYTES_MAX))

    def open(
        self, view: BurstView, first: int, count: int, buffer: BlockBuffer | None, places: Sequence[slice]
    ) -> bool:
        """As the base class."""
        decrypt_into, end = self._aead.decrypt_into, first + count
        targets: Iterable[memoryview] = repeat(self._waste[: symbol_bytes(view.datagram_bytes)], count)
        if buffer is not None:
            targets = _symbols(buffer, places)
        pieces = zip(view.nonces[first:end], view.sealed[first:end], view.headers[first:end], targets, strict=True)
        try:
            for nonce, sealed, header, target in pieces:
                decrypt_into(nonce, sealed, header, target)
        except InvalidTag:
            return False
        return True


def _symbols(buffer: BlockBuffer, places: Sequence[slice]) -> Iterable[memoryview]:
    return chain.from_iterable(buffer.symbols[each] for each in places)
