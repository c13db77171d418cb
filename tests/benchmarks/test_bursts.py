"""Bursts by the real decoder, and the calculation that says what loss a block survives."""

from __future__ import annotations

import math
import random

import pytest

from benchmarks import alternating, overhead, report
from benchmarks.__main__ import measured
from benchmarks.overhead import Code, any_of, tail


def test_bursts() -> None:
    document = measured("bursts", "tiny")
    (one,) = document["figures"]["bursts"]
    assert [(row["length"], row["whole"]) for row in one["rows"]] == [(10, 1), (1_500, 0)]
    assert 0.1 < one["wire_overhead"] < 0.3
    assert all(abs(check["sigmas"]) < 5 for check in document["figures"]["checks"])
    assert "| 1,500 | 0 of 1 |" in report.section("bursts", document)


@pytest.mark.parametrize(("n", "p", "spare"), [(220, 0.01, 20), (220, 0.2, 20), (220, 0.09, 19), (10, 0.5, 9)])
def test_the_tail_is_the_exact_binomial(n: int, p: float, spare: int) -> None:
    exact = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(spare + 1, n + 1))
    assert tail(n, p, spare) == pytest.approx(exact, rel=1e-9)


def test_the_ends_of_the_tail() -> None:
    assert tail(10, 0.5, 10) == 0
    assert tail(10, 0.5, -1) == 1
    assert tail(10, 0.0, 0) == 0
    assert any_of(1_000, 1e-15) == pytest.approx(1e-12)


def test_an_outage_costs_each_codeword_its_share() -> None:
    code = Code(200, 20, 44)
    assert code.failure(loss=1e-12, burst=880) == pytest.approx(1 - (1 - 200e-12) ** 44, rel=1e-3)
    assert code.failure(loss=0.01, burst=881) == 1


def test_no_choice_breaks_the_bound_it_was_chosen_for() -> None:
    figures = overhead.measure(1_000)
    within = figures["choices"]["least wire bytes within the block limit"]
    assert within["allowed"]
    assert within["failure"] < overhead.FAILURE_MAX
    assert figures["choices"]["least wire bytes with blocks of any size"]["wire"] > overhead.WIRE_MAX
    for name in ("least memory with an outer code", "least wire bytes with an outer code"):
        code = figures["choices"][name]
        assert code["wire"] <= overhead.WIRE_MAX
        assert code["failure"] < overhead.FAILURE_MAX
        assert not code["allowed"]
    assert all(abs(check["sigmas"]) < 5 for check in figures["checks"])


def test_rows_and_columns_in_turn_restore_more_than_either() -> None:
    found = alternating.measure(1_000)
    assert found["wire"] <= overhead.WIRE_MAX
    assert found["failure"] < overhead.FAILURE_MAX
    assert found["checks"][0]["failed"] == 0
    code = Code(found["k"], found["m"], found["depth"], found["outer"])
    assert alternating.failure(code, 0.001) < alternating.failure(code, 0.01)
    assert alternating.fails(code, 0.3, random.Random(1))
    assert not alternating.fails(code, 0.001, random.Random(1))
