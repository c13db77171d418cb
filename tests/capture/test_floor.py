"""What must never go back: two copies, of which any one is enough, and no damage passes for a number."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.trust import ReleaseMark
from receiver import floor as module
from receiver.floor import COPIES, Floor, Marks

SENDER = bytes(range(32))
DIGEST = "sha256:" + "a" * 64
MARKS = st.builds(
    Marks,
    epochs=st.dictionaries(
        st.sampled_from([SENDER, bytes(32)]), st.tuples(st.integers(1, 50), st.binary(min_size=16, max_size=16))
    ),
    releases=st.dictionaries(
        st.sampled_from(["default", "edge"]), st.builds(ReleaseMark, st.integers(1, 50), st.just(DIGEST))
    ),
)


def numbers(marks: Marks) -> dict[Any, int]:
    return {
        **{sender: epoch for sender, (epoch, _) in marks.epochs.items()},
        **{name: mark.sequence for name, mark in marks.releases.items()},
    }


@settings(max_examples=25, deadline=None)
@given(st.lists(MARKS, max_size=6))
def test_it_only_rises_and_is_what_was_told(told: list[Marks]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, highest = Path(name), {}
        for marks in told:
            Floor(folder).raise_to(marks)  # each a process of its own
            for key, number in numbers(marks).items():
                highest[key] = max(highest.get(key, 0), number)
            assert numbers(Floor(folder).marks) == highest


def test_a_process_that_dies_between_the_copies_leaves_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor = Floor(tmp_path)
    floor.epoch(SENDER, 4, b"old" * 5)
    real, calls = module.write_durably, [0]

    def once(path: Path, data: bytes) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(module, "write_durably", once)
    with pytest.raises(OSError, match="No space"):
        floor.epoch(SENDER, 5, b"new" * 5)
    assert Floor(tmp_path).marks.epochs[SENDER] == (5, b"new" * 5)
    monkeypatch.setattr(module, "write_durably", real)
    floor.epoch(SENDER, 5, b"new" * 5)  # repeated: now both
    (tmp_path / COPIES[0]).unlink()
    assert Floor(tmp_path).marks.epochs[SENDER] == (5, b"new" * 5)


def test_any_flipped_bit_in_one_copy_is_noticed_and_the_other_stands(tmp_path: Path) -> None:
    Floor(tmp_path).epoch(SENDER, 7, b"s" * 16)
    path = tmp_path / COPIES[0]
    good = path.read_bytes()
    for at in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        floor = Floor(tmp_path)
        assert (floor.sound, floor.lost) == (1, False), at
        assert floor.marks.epochs[SENDER][0] == 7
    (tmp_path / COPIES[1]).write_bytes(b"")
    floor = Floor(tmp_path)
    assert (floor.sound, floor.lost, floor.marks.epochs) == (0, True, {})


def test_no_copies_are_not_lost_copies(tmp_path: Path) -> None:
    assert not Floor(tmp_path).lost
    assert list(tmp_path.iterdir()) == []
