"""Recovery encodes only the repair symbols it uses; that rests on repair symbol i being the same whatever m is."""

from __future__ import annotations

import random

import pytest

from protocol.fec import BACKENDS, erasure_code

K, M, SYMBOL_BYTES = 40, 20, 64


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("fewer", [1, 2, 3, 8, 19])
def test_a_code_with_fewer_repair_symbols_has_the_same_first_ones(backend: str, fewer: int) -> None:
    source = random.Random(fewer).randbytes(K * SYMBOL_BYTES)
    whole = [bytes(symbol) for symbol in erasure_code(K, M, backend).encode(source)]
    assert [bytes(symbol) for symbol in erasure_code(K, fewer, backend).encode(source)] == whole[:fewer]


@pytest.mark.parametrize("first", [0, 1, 7, 15, 18])
@pytest.mark.parametrize("losses", [1, 2, 5])
def test_recovery_from_the_repair_symbols_that_are_left(backend: str, first: int, losses: int) -> None:
    coin = random.Random(f"{first} {losses}")
    code = erasure_code(K, M, backend)
    source = coin.randbytes(K * SYMBOL_BYTES)
    repair = dict(enumerate(code.encode(source)))
    kept = {i: repair[i] for i in (range(first, M) if M - first >= losses else range(M - losses, M))}
    lost = sorted(coin.sample(range(K), losses))
    damaged = bytearray(source)
    for row in lost:
        damaged[row * SYMBOL_BYTES : (row + 1) * SYMBOL_BYTES] = coin.randbytes(SYMBOL_BYTES)
    code.recover(memoryview(damaged), SYMBOL_BYTES, lost, kept)
    assert damaged == source


def test_recovery_encodes_no_more_than_it_needs(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = BACKENDS[backend](K, M)
    source = bytes(range(256)) * (K * SYMBOL_BYTES // 256)
    repair = {i: bytes(symbol) for i, symbol in enumerate(code.encode(source))}  # read-only: by syndromes
    encoded: list[int] = []
    plain = BACKENDS[backend].encode
    monkeypatch.setattr(BACKENDS[backend], "encode", lambda self, data: encoded.append(self.m) or plain(self, data))
    code.recover(memoryview(bytearray(source)), SYMBOL_BYTES, [3, 9, 11], repair)
    assert encoded == [4]
