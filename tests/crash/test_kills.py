"""A short campaign in every test run; the long one is ``make crash``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.campaign import SETTINGS, Campaign, Scale
from tests.crash.roles import ROLES, Chaos
from tests.lab.oneway import OneWay
from tests.lab.world import Registries, Sides

pytestmark = [pytest.mark.lab, pytest.mark.registry]

KILLS = 5
SEED = 5


@pytest.mark.timeout(600)
def test_roles_that_are_killed_at_any_moment_lose_nothing(
    lab: OneWay, registries: Registries, make_sides: Callable[..., Sides], tmp_path: Path
) -> None:
    sides = make_sides("killed", **SETTINGS)
    scale = Scale(KILLS, arrivals=3, bulk_bytes=20_000_000, late_bytes=3_000_000)
    outcome = Campaign(lab, registries, sides, tmp_path, SEED, scale).run()
    assert min(outcome.kills.values()) >= KILLS
    assert outcome.in_the_middle > 0


def test_a_seed_is_a_campaign() -> None:
    for role in ROLES:
        first, second, other = [Chaos(seed, role) for seed in (1, 1, 2)]
        drawn = [first.next() for _ in range(500)]
        assert drawn == [second.next() for _ in range(500)] != [other.next() for _ in range(500)]
        assert set(Counter(moment.what for moment in drawn)) == {"kill", "reboot", "stop"}
