"""Bursts sealed and opened by every implementation: the bytes of OpenSSL, nothing beside them, and no forgery."""

from __future__ import annotations

import ctypes
from array import array
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from protocol import aead
from protocol.aead import ipsecmb
from protocol.aead.cipher import Opener, Sealer
from protocol.aead.openssl import OpensslOpener, OpensslSealer
from protocol.buffers import BlockBuffer
from protocol.errors import ProtocolMisuse
from protocol.order import WireOrder
from protocol.wire import BurstView, symbol_bytes
from tests.vectors.definition import pattern

KEY = bytes(range(100, 132))
SIZES = st.sampled_from([560, 576, 1_472, 1_488, 8_960])
BACKENDS = [
    "openssl",
    pytest.param(
        "ipsecmb", marks=pytest.mark.skipif("ipsecmb" not in aead.BACKENDS, reason=ipsecmb.library.why_not or "-")
    ),
]


def view_of(size: int, count: int, number: int = 7) -> BurstView:
    view = BurstView(memoryview(bytearray(size * count)), size, count)
    view.write_headers(0x1122_3344_0401_5643, number, 5, 6, array("I", range(count)))
    return view


def filled(symbols: int, size: int) -> BlockBuffer:
    buffer = BlockBuffer(symbols, size)
    buffer.memory[:] = pattern(len(buffer.memory))
    return buffer


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, WireOrder, int, int]:
    """Datagram size, the wire order of a block, and a run of up to 64 symbols of it."""
    k, m, depth = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 12))
    order = WireOrder(draw(st.integers(k * depth - min(k, depth) + 1, k * depth)), depth, k, m)
    at = draw(st.integers(0, len(order.words) - 1))
    return draw(SIZES), order, at, draw(st.integers(1, min(64, len(order.words) - at)))


@pytest.mark.parametrize("backend", BACKENDS)
@given(run=runs())
def test_what_is_sealed_is_what_openssl_seals_and_opens_again(
    backend: str, run: tuple[int, WireOrder, int, int]
) -> None:
    size, order, at, count = run
    whole = max(places.stop for places in order.places)
    buffer, back = filled(whole, symbol_bytes(size)), BlockBuffer(whole, symbol_bytes(size))
    symbols = buffer.in_order(order)
    view = view_of(size, count + 1)
    rest = bytes(view.datagrams[count])
    aead.sealer(KEY, backend).seal(view, count, symbols, at)
    for index, symbol in enumerate(symbols.symbols[at : at + count]):
        assert view.sealed[index] == AESGCM(KEY).encrypt(view.nonces[index], symbol, view.headers[index])
    assert view.datagrams[count] == rest, "nothing is written behind the burst"
    assert aead.opener(KEY, backend).open(view, 0, count, back.in_order(order), at)
    taken = [place for places, _, _ in order.rows(at, count) for place in range(whole)[places]]
    assert len(set(taken)) == count
    for place, symbol in enumerate(back.symbols):
        assert symbol == (buffer.symbols[place] if place in taken else bytes(len(symbol)))


@pytest.mark.parametrize("backend", BACKENDS)
@given(data=st.data(), size=SIZES, count=st.integers(1, 44))
def test_one_changed_bit_anywhere_opens_nothing(backend: str, data: st.DataObject, size: int, count: int) -> None:
    view, buffer = view_of(size, count), filled(count, symbol_bytes(size))
    aead.sealer(KEY, backend).seal(view, count, buffer, 0)
    opening = aead.opener(KEY, backend)
    first = data.draw(st.integers(0, count - 1))
    forged = data.draw(st.integers(0, count - 1))
    view.datagrams[forged][data.draw(st.integers(0, size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for into in (None, BlockBuffer(count, symbol_bytes(size))):
        assert opening.open(view, first, count - first, into, first) == (forged < first)
    assert not aead.opener(bytes(32), backend).open(view, 0, count)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cipher_serves_views_and_buffers_of_several_sizes_in_turn(backend: str) -> None:
    sealing, opening = aead.sealer(KEY, backend), aead.opener(KEY, backend)
    for turn, size in enumerate((1_472, 560, 8_960, 560, 1_472)):
        count = 1 + 6 * turn
        view, buffer = view_of(size, count, number=100 * turn), filled(count, symbol_bytes(size))
        back = BlockBuffer(count, symbol_bytes(size))
        sealing.seal(view, count, buffer, 0)
        assert opening.open(view, 0, count, back)
        assert back.memory == buffer.memory


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_what_would_reach_beside_a_buffer_is_refused(backend: str) -> None:
    sealing, opening = aead.sealer(KEY, backend), aead.opener(KEY, backend)
    view, other = view_of(1_472, 4), filled(4, 512)
    with pytest.raises(ProtocolMisuse):
        sealing.seal(view, 4, other, 0)
    with pytest.raises(ProtocolMisuse):
        opening.open(view, 0, 4, other)
    fitting = filled(4, symbol_bytes(1_472))
    with pytest.raises(ProtocolMisuse):
        opening.open(view, 0, 4, fitting, 2)
    with pytest.raises(ProtocolMisuse):
        opening.open(view, 2, 3)
    with pytest.raises(ProtocolMisuse):
        sealing.seal(view_of(1_472, 2), 4, fitting, 0)


def test_views_and_buffers_have_the_room_they_speak_of() -> None:
    with pytest.raises(ProtocolMisuse):
        BlockBuffer(2, 512, memoryview(bytearray(600)))
    with pytest.raises(ProtocolMisuse):
        BurstView(memoryview(bytearray(3 * 560)), 560, 5)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_key_of_another_size_is_refused(backend: str) -> None:
    with pytest.raises(ProtocolMisuse):
        aead.sealer(bytes(16), backend)


# --- whether the library is used at all ---------------------------------------------------------------------------


def test_a_system_without_the_library_says_so() -> None:
    library = ipsecmb.Library("libIPSec_MB.so.none")
    assert not library.works
    assert library.why_not == "this system has no libIPSec_MB.so.none"


def test_another_library_by_that_name_is_not_used() -> None:
    libc = next(Path("/lib").glob("*/libc.so.6"))
    assert ipsecmb.Library(str(libc)).why_not == f"this system has no {libc}"


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_another_version_is_not_used(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later:
        @staticmethod
        def imb_get_version() -> int:
            return 0x020001

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Later)
    library = ipsecmb.Library()
    assert not library.works
    assert library.why_not == "libIPSec_MB.so.1 is of version 2.0.1"


def test_a_processor_without_aes_instructions_is_left_to_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = ctypes.create_string_buffer(4_096)

    def initialise(address: int, _: None) -> None:
        ctypes.c_int.from_address(address + 56).value = 1  # IMB_ARCH_NOAESNI: used_arch

    class Emulating:
        imb_get_version = staticmethod(lambda: 0x010300)
        alloc_mb_mgr = staticmethod(lambda flags: ctypes.addressof(manager))
        init_mb_mgr_auto = staticmethod(initialise)
        free_mb_mgr = staticmethod(lambda address: None)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Emulating)
    library = ipsecmb.Library()
    assert not library.works
    assert library.why_not == "this processor has no AES instructions"


class _Miscalculating(OpensslSealer):
    def seal(self, view: BurstView, *rest: Any) -> None:
        super().seal(view, *rest)
        view.sealed[-1][0] ^= 1


class _Trusting(OpensslOpener):
    def open(self, *arguments: Any) -> bool:
        super().open(*arguments)
        return True


class _Misplacing(OpensslOpener):
    def open(self, view: BurstView, first: int, count: int, symbols: Any = None, at: int = 0) -> bool:
        authentic = super().open(view, first, count, symbols, at)
        if symbols is not None:
            symbols.symbols[at][0] ^= 1
        return authentic


@pytest.mark.parametrize(
    ("sealing", "opening"),
    [(_Miscalculating, OpensslOpener), (OpensslSealer, _Trusting), (OpensslSealer, _Misplacing)],
)
def test_a_library_that_disagrees_with_openssl_is_not_used(
    monkeypatch: pytest.MonkeyPatch, sealing: type[Sealer], opening: type[Opener]
) -> None:
    library = ipsecmb.Library("none")
    library.works, library.version = True, "1.3.0"
    monkeypatch.setattr(ipsecmb, "library", library)
    assert ipsecmb.check(OpensslSealer, OpensslOpener)
    assert not ipsecmb.check(sealing, opening)
    assert library.why_not == "libIPSec_MB.so.1 1.3.0 does not agree with OpenSSL"
