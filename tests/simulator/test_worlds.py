"""A modest number of worlds in every test run, and the simulator's own honesty."""

from __future__ import annotations

import inspect
from collections import Counter
from random import Random

import pytest

from tests.simulator import link
from tests.simulator.__main__ import run
from tests.simulator.link import Faults, one_way_link
from tests.simulator.world import World

WORLDS = 200
POWER_WORLDS = 60
GROUP = 50
POWER_GROUP = 30
BASE = 20_261_123


@pytest.mark.parametrize("base", range(BASE, BASE + WORLDS, GROUP))
def test_worlds_keep_every_law(base: int) -> None:
    for seed in range(base, base + GROUP):
        try:
            World(seed).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}; replay it with: python -m tests.simulator --seed {seed}") from error


@pytest.mark.parametrize("base", range(BASE, BASE + POWER_WORLDS, POWER_GROUP))
def test_worlds_with_power_cuts_keep_every_law(base: int) -> None:
    came = Counter[str]()
    for seed in range(base, base + POWER_GROUP):
        _, outcome, wrong = run(("power",), seed)
        assert not wrong, wrong[0]
        came += outcome
    assert min(came["receiver_cuts"], came["sender_cuts"], came["blobs_checked"]) > POWER_GROUP, came
    assert came["ranges_checked"] > 0, came  # how many are left by a cut depends on the role's threads


def test_a_seed_is_a_run() -> None:
    first, second = World(BASE + 3).run(), World(BASE + 3).run()
    assert first == second


def test_worlds_meet_what_they_are_for() -> None:
    """Over some worlds there is loss, repair, restarts, and each way of spoiling a datagram is noticed."""
    outcomes = [World(seed).run() for seed in range(BASE, BASE + 60)]
    assert sum(outcome.lost for outcome in outcomes) > 100
    assert sum(outcome.repaired for outcome in outcomes) > 100
    assert sum(outcome.damaged for outcome in outcomes) > 0
    assert any(outcome.passes > 3 for outcome in outcomes)
    assert any(outcome.sessions > 3 for outcome in outcomes)
    seen = {reason for outcome in outcomes for reason in outcome.drops}
    assert seen >= {"replayed", "not_authentic", "unknown_session", "bad_magic", "truncated", "stale_epoch"}, seen


def test_the_link_has_no_way_back() -> None:
    inlet, outlet = one_way_link(Faults(), Random(1))
    assert {name for name, _ in inspect.getmembers(inlet) if not name.startswith("_")} == {
        "send",
        "counters",
        "black_out",
    }
    assert {name for name, _ in inspect.getmembers(outlet) if not name.startswith("_")} == {"receive", "recorded"}


def test_a_clean_link_delivers_in_order_and_unchanged() -> None:
    inlet, outlet = one_way_link(Faults(), Random(1))
    sent = [bytes((number,)) * 100 for number in range(50)]
    inlet.send(b"".join(sent), 100, 1.0)
    assert outlet.receive(1.0) == []
    bursts = outlet.receive(2.0)
    assert b"".join(burst for burst, _ in bursts) == b"".join(sent)
    assert all(size == 100 for _, size in bursts)


def test_corruption_always_changes_the_datagram() -> None:
    random = Random(1)
    for _ in range(200):
        original = random.randbytes(600)
        assert link.corrupted(original, random) != original
