"""WIRE_FORMAT.md §5: two implementations, one mathematics."""

from __future__ import annotations

import itertools
import tracemalloc
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import fec
from protocol.errors import ProtocolMisuse
from protocol.fec import BACKENDS, erasure_code, field
from protocol.fec.code import InverseCache
from protocol.limits import CODES_MAX
from tests.vectors import definition

BYTE = st.integers(0, 255)
NAMES = sorted(BACKENDS)


def test_both_implementations_are_here() -> None:
    assert NAMES == ["isal", "portable"]


@given(BYTE, BYTE, BYTE)
def test_field_laws(a: int, b: int, c: int) -> None:
    times = field.multiply
    assert times(a, b) == times(b, a) == definition.multiply(a, b)
    assert times(a, times(b, c)) == times(times(a, b), c)
    assert times(a, b ^ c) == times(a, b) ^ times(a, c)
    assert times(a, 1) == a
    if a:
        assert times(a, field.inverse(a)) == 1
    assert field.TABLES[a][b] == times(a, b)


def test_zero_has_no_inverse() -> None:
    with pytest.raises(ZeroDivisionError):
        field.inverse(0)


@given(st.data())
def test_cauchy_inverse_times_matrix_is_one(data: st.DataObject) -> None:
    e = data.draw(st.integers(1, 12))
    points = data.draw(st.permutations(range(256)))[: 2 * e]
    x, y = points[:e], points[e:]
    matrix = [[definition.RECIPROCALS[a ^ b] for b in y] for a in x]
    inverse = field.cauchy_inverse(x, y)
    for i, j in itertools.product(range(e), repeat=2):
        total = 0
        for t in range(e):
            total ^= definition.multiply(inverse[i][t], matrix[t][j])
        assert total == (i == j)


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize(("k", "m"), [(1, 1), (2, 3), (4, 2), (17, 5), (31, 31), (127, 128), (200, 20), (254, 1)])
def test_encoding_is_the_definition(backend: str, k: int, m: int) -> None:
    source = Random(k).randbytes(k * 16)
    encoded = [bytes(symbol) for symbol in BACKENDS[backend](k, m).encode(source)]
    assert encoded == definition.repair_symbols(k, m, source)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 120), st.integers(1, 60), st.sampled_from((16, 48, 512)), st.randoms(use_true_random=False))
def test_implementations_agree_and_repair_each_other(k: int, m: int, size: int, random: Random) -> None:
    source = random.randbytes(k * size)
    encoded = {name: [bytes(symbol) for symbol in erasure_code(k, m, name).encode(source)] for name in NAMES}
    assert encoded["isal"] == encoded["portable"]
    for encoder, decoder in itertools.product(NAMES, NAMES):
        losses = random.randint(0, min(k, m))
        lost = sorted(random.sample(range(k), losses))
        repair = {i: encoded[encoder][i] for i in random.sample(range(m), random.randint(losses, m))}
        damaged = bytearray(source)
        for row in lost:
            damaged[row * size : (row + 1) * size] = random.randbytes(size)
        erasure_code(k, m, decoder).recover(memoryview(damaged), size, lost, repair)
        assert bytes(damaged) == source


@pytest.mark.parametrize("backend", NAMES)
def test_every_pattern_of_a_small_code(backend: str) -> None:
    source = definition.pattern(4 * 16)
    code = BACKENDS[backend](4, 3)
    encoded = [bytes(symbol) for symbol in code.encode(source)]
    for count in range(4):
        for lost in itertools.combinations(range(4), count):
            for used in itertools.combinations(range(3), count):
                damaged = bytearray(source)
                for row in lost:
                    damaged[row * 16 : row * 16 + 16] = b"\xee" * 16
                code.recover(memoryview(damaged), 16, lost, {i: encoded[i] for i in used})
                assert bytes(damaged) == source


@pytest.mark.parametrize("backend", NAMES)
def test_misuse_is_refused(backend: str) -> None:
    for k, m in ((0, 1), (1, 0), (200, 56), (-1, 5)):
        with pytest.raises(ProtocolMisuse):
            BACKENDS[backend](k, m)
    code = BACKENDS[backend](4, 2)
    for source in (b"", bytes(65), bytes(3)):
        with pytest.raises(ProtocolMisuse):
            code.encode(source)
    with pytest.raises(ProtocolMisuse):
        code.recover(memoryview(bytearray(64)), 16, [0, 1], {0: bytes(16)})


def test_prepared_codes_are_bounded() -> None:
    for k in range(1, 2 * CODES_MAX):
        erasure_code(k, 1)
    assert len(fec._cache) <= CODES_MAX
    assert erasure_code(2 * CODES_MAX - 1, 1) is erasure_code(2 * CODES_MAX - 1, 1)


def test_inverses_of_chosen_loss_patterns_are_bounded() -> None:
    """Whoever chooses which datagrams are lost chooses the matrices; they must not fill the memory."""
    random, cache = Random(1), InverseCache(50_000)
    tracemalloc.start()
    for _ in range(120):
        lost = tuple(sorted(random.sample(range(127), 60)))
        used = tuple(sorted(random.sample(range(128), 60)))
        assert len(cache.get(127, used, lost)) == 60
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 500_000
    assert cache.get(127, used, lost) is cache.get(127, used, lost)
