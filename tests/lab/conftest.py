"""The lab and what stands in it as fixtures, one for all tests of a module; skipped with the reason where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.lab.oneway import OneWay, missing
from tests.lab.world import INTERNAL, UPSTREAM, Registries, Sides, docker_registry, missing_programs


@pytest.fixture(scope="module")
def lab() -> Iterator[OneWay]:
    """Two sides, low and high, and a diode between them that drops nothing until it is told to."""
    if reason := missing():
        pytest.skip(reason)
    with OneWay() as built:
        yield built


@pytest.fixture(scope="module")
def registries(lab: OneWay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registries]:
    """An upstream registry on the low side and an internal one on the high side, both empty."""
    if reason := missing_programs():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("registries")
    with docker_registry(lab.in_low, folder / "upstream", UPSTREAM):
        with docker_registry(lab.in_high, folder / "internal", INTERNAL) as data:
            yield Registries(lab, folder, data)


@pytest.fixture
def make_sides(lab: OneWay, tmp_path: Path) -> Iterator[Callable[..., Sides]]:
    """``make_sides(prefix, **more)``: a sender and a receiver, stopped at the end of the test."""
    made: list[Sides] = []
    numbers = count()

    def make(prefix: str, **more: Any) -> Sides:
        folder = tmp_path / f"sides-{next(numbers)}"
        folder.mkdir()
        made.append(Sides(lab, folder, prefix, **more))
        return made[-1]

    yield make
    for sides in made:
        print(sides.stop())
