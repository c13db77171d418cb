"""Laws of decisions: what counts for an image after any sequence of them, and what woke up whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.border_journal import KEPT_S, BorderJournal, Decision, Verdict
from receiver.journal import ReceiverJournal

NAMES, DIGESTS = ("a/x", "a/y", "b/x"), ("sha256:1", "sha256:2")
STEP = st.tuples(st.sampled_from(NAMES), st.sampled_from(DIGESTS), st.sampled_from(["released", "rejected"]))


@settings(max_examples=40)  # each makes a journal
@given(st.lists(STEP, max_size=12))
def test_rejected_is_content_and_released_is_a_name(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, Any]]
) -> None:
    journal = ReceiverJournal(tmp_path_factory.mktemp("journal") / "journal.sqlite")
    rows = BorderJournal(journal)
    released: set[tuple[str, str]] = set()
    rejected: set[str] = set()
    recorded = 0

    def record() -> None:
        nonlocal recorded
        recorded += 1

    try:
        for number, (name, digest, choice) in enumerate(steps):
            before = rows.newest()
            rows.decide(Decision(name, digest, choice, f"reason {number}", "alice", 1.0), record)
            if choice == "released":
                released.add((name, digest))
                rejected.discard(digest)
            else:
                released = {one for one in released if one[1] != digest}
                rejected.add(digest)
            assert rows.newest() > before
            assert rows.decided_since(before) == [digest]
            made = rows.decision(name, digest)
            assert made is not None
            assert made.reason == f"reason {number}"  # the newest word counts
        for name in NAMES:
            for digest in DIGESTS:
                found = rows.decision(name, digest)
                expected = "rejected" if digest in rejected else "released" if (name, digest) in released else None
                assert (found.choice if found is not None else None) == expected
        assert set(rows.rejected()) == rejected
        assert recorded == len(steps)
    finally:
        journal.close()


def test_a_decision_that_cannot_be_recorded_leaves_the_one_before(tmp_path: Path) -> None:
    journal = ReceiverJournal(tmp_path / "journal.sqlite")
    rows = BorderJournal(journal)
    first = Decision("a/x", "sha256:1", "rejected", "bad", "alice", 1.0)
    rows.decide(first, lambda: None)

    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        rows.decide(Decision("a/x", "sha256:1", "released", "good", "bob", 2.0), full)
    assert rows.decision("a/x", "sha256:1") == first
    assert rows.decision("a/y", "sha256:1") == first
    journal.close()


def test_verdicts_that_nobody_asks_for_are_forgotten_in_the_end(tmp_path: Path) -> None:
    journal = ReceiverJournal(tmp_path / "journal.sqlite")
    rows = BorderJournal(journal)
    old = Verdict("by", ("fault",), ("held", "too"), ("signer",), 10.0, ("told",))
    rows.save_verdict("default", "a/x", "sha256:1", old)
    rows.save_verdict("default", "a/x", "sha256:2", Verdict("by", updated=10.0 + KEPT_S))
    assert rows.verdict("default", "a/x", "sha256:1") == old
    assert rows.verdict("other", "a/x", "sha256:1") is None
    rows.save_verdict("default", "a/x", "sha256:2", Verdict("by", updated=11.0 + KEPT_S))
    assert rows.verdict("default", "a/x", "sha256:1") is None
    assert not rows.was_published("a/x", "sha256:1")
    for _ in range(2):
        rows.note_published("a/x", "sha256:1")
    assert rows.was_published("a/x", "sha256:1")
    journal.close()
