"""The replay window and range sets against models too simple to be wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.ranges import RangeSet
from protocol.replay import ReplayWindow

SIZE = 32


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 5)), max_size=80))
def test_replay_window_is_a_set_with_a_lower_edge(runs: list[tuple[int, int]]) -> None:
    window, accepted, highest = ReplayWindow(SIZE), set(), -1
    for first, count in runs:
        numbers = range(first, first + count)
        fresh = [number for number in numbers if number not in accepted and number > highest - SIZE]
        assert [number for number in numbers if window.fresh(number)] == fresh
        if len(fresh) == count and (first > highest or count == 1):
            window.accept_run(first, count)
            accepted.update(numbers)
            highest = max(highest, numbers[-1])
        assert window.highest == highest
        assert window.accepted == len(accepted)
        lost = highest - min(accepted) + 1 - len(accepted) if accepted else 0
        assert window.lost == lost


def test_replay_window_takes_jumps_of_any_width() -> None:
    window = ReplayWindow()
    for number in (0, 65_535, 65_536, 1 << 40, (1 << 56) - 1):
        assert window.fresh(number)
        window.accept_run(number, 1)
        assert not window.fresh(number)
    assert not window.fresh(0)
    assert window.fresh((1 << 56) - 65_536)
    assert not window.fresh((1 << 56) - 65_537)


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=25)


@given(RANGES, st.tuples(st.integers(0, 70), st.integers(0, 70)))
def test_range_set_is_a_set_of_integers(ranges: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    found, model = RangeSet(), set()
    for start, end in ranges:
        found.add(start, end)
        model.update(range(start, end))
    assert {value for start, end in found for value in range(start, end)} == model
    assert found.total == len(model)
    flat = [edge for start, end in found for edge in (start, end)]
    assert flat == sorted(set(flat)), "ranges are sorted, disjoint and merged"
    assert found.covers(*asked) == (set(range(*asked)) <= model)
    gaps = {value for start, end in found.missing(65) for value in range(start, end)}
    assert gaps == set(range(65)) - model
    assert RangeSet(ranges) == found
    assert RangeSet(list(found)) == found
