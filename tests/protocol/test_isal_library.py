"""ISA-L called in place and through pyeclib's own interface: the same bytes, whichever the wheel allows."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("pyeclib")

from protocol.errors import ProtocolMisuse
from protocol.fec import isal

SHAPES = [(1, 1), (1, 254), (3, 9), (7, 4), (100, 100), (200, 20), (254, 1)]
SIZE = 48


def writable(symbols: list[bytes]) -> list[memoryview]:
    return [memoryview(bytearray(symbol)) for symbol in symbols]


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the wheel has no library of its own file."""
    monkeypatch.setattr(isal, "_library", None)


@pytest.mark.parametrize(("k", "m"), SHAPES)
def test_both_ways_encode_the_same(k: int, m: int, request: pytest.FixtureRequest) -> None:
    source = random.Random(k * m).randbytes(k * SIZE)
    direct = [bytes(symbol) for symbol in isal.IsalCode(k, m).encode(source)]
    request.getfixturevalue("wrapped")
    assert [bytes(symbol) for symbol in isal.IsalCode(k, m).encode(source)] == direct


@pytest.mark.parametrize(("k", "m"), SHAPES)
@pytest.mark.parametrize("way", ["in place", "wrapped"])
def test_recovery_is_exact(k: int, m: int, way: str, request: pytest.FixtureRequest) -> None:
    if way == "wrapped":
        request.getfixturevalue("wrapped")
    coin = random.Random(f"{k} {m}")
    code = isal.IsalCode(k, m)
    source = coin.randbytes(k * SIZE)
    repair = writable([bytes(symbol) for symbol in code.encode(source)])
    for losses in {1, min(k, m) // 2, min(k, m)} - {0}:
        lost = sorted(coin.sample(range(k), losses))
        kept = {i: repair[i] for i in coin.sample(range(m), losses)}
        damaged = bytearray(source)
        for j in lost:
            damaged[j * SIZE : (j + 1) * SIZE] = coin.randbytes(SIZE)
        code.recover(memoryview(damaged), SIZE, lost, kept)
        assert damaged == source


def test_encoding_in_place_leaves_the_source_and_fills_the_room() -> None:
    code = isal.IsalCode(5, 3)
    source = bytearray(random.Random(1).randbytes(5 * SIZE))
    before = bytes(source)
    into = memoryview(bytearray(b"\xff" * (3 * SIZE)))
    code.encode_into(memoryview(source), into)
    assert source == before
    assert bytes(into) == b"".join(bytes(symbol) for symbol in code.encode(before))


@pytest.mark.parametrize("room", [0, 2 * SIZE, 4 * SIZE])
def test_room_of_another_size_is_refused_before_anything_is_written(room: int) -> None:
    with pytest.raises(ProtocolMisuse, match="room for m=3"):
        isal.IsalCode(5, 3).encode_into(memoryview(bytearray(5 * SIZE)), memoryview(bytearray(room)))


def test_symbols_of_another_size_are_refused() -> None:
    code = isal.IsalCode(5, 3)
    repair = {0: memoryview(bytearray(SIZE - 16))}
    with pytest.raises(ProtocolMisuse, match="symbols are not all of"):
        code.recover(memoryview(bytearray(5 * SIZE)), SIZE, [2], repair)


def test_a_library_that_is_not_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isal.pyeclib, "__path__", ["/nowhere/pyeclib"])
    assert isal._load() is None
