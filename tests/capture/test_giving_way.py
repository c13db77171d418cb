"""Which partial objects give way: the rule by its laws, and real files under each bound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.objects import Kind
from protocol.release import Content, Release, ReleaseImage, payload_digest, payload_of, seal_release
from receiver.digests import RunningDigests
from receiver.journal import Partial, ReceiverJournal
from receiver.partial_files import Bounds, NoRoom, PartialFiles
from receiver.room import RESERVE_SHARE, Reserve, Standing, give_way, needed_by_releases
from receiver.senders import Trust
from tests.capture.rig import Cargo, Side
from tests.support.content import digest_of, some_bytes

SIZES = st.integers(1, 1_000)
STANDINGS = st.builds(
    lambda number, size, idle, needed, done: Standing(
        Partial(f"{number}", Kind.BLOB, 0, f"{number}", size, size), min(done, size), idle, 0.0, needed
    ),
    st.integers(0, 10**9),
    SIZES,
    st.floats(0, 1e6),
    st.booleans(),
    st.integers(0, 1_000),
)


@given(st.lists(STANDINGS), STANDINGS, st.integers(-100, 5_000), st.booleans())
def test_the_rule(others: list[Standing], newcomer: Standing, short: int, on_disk: bool) -> None:
    def gain(each: Standing) -> int:
        return each.done if on_disk else each.partial.coded_size

    leaving = give_way(others, newcomer, short, on_disk=on_disk)
    lower = [each for each in others if each.rank < newcomer.rank]
    if leaving is None:
        assert sum(gain(each) for each in lower) < short, "there was enough to give up"
        return
    assert sum(gain(each) for each in leaving) >= short
    assert all(each.rank < newcomer.rank for each in leaving)
    assert sum(gain(each) for each in leaving[:-1]) < short or not leaving, "the last one was not needed"
    staying = [each for each in others if each not in leaving and gain(each)]
    if leaving and staying:
        assert max(each.rank for each in leaving) <= min(each.rank for each in staying)
    for each in leaving:
        if each.needed:
            assert newcomer.needed, "nothing needed goes for what nobody needs"
            assert each.partial.coded_size >= newcomer.partial.coded_size, "nothing smaller goes for the larger"


def test_the_reserve_is_a_share_of_a_small_file_system_and_as_told_elsewhere(tmp_path: Path) -> None:
    by_size, told = Reserve(tmp_path, None), Reserve(tmp_path, 10**18)
    assert by_size.short(0) <= 0 < by_size.short(10**18)
    assert told.short(0) > 0
    assert RESERVE_SHARE > 1


class Files:
    """A partial folder with its journal."""

    def __init__(self, side: Side, bounds: Bounds) -> None:
        side.state.mkdir(exist_ok=True)
        self.trust = Trust(side.trusted)
        self.signer = side.signer
        self.journal = ReceiverJournal(side.state / "journal.sqlite")
        self.gone: list[tuple[str, str]] = []
        self.files = PartialFiles(
            side.state / "partial",
            bounds,
            self.trust,
            RunningDigests(),
            set(),
            lambda partial, reason: self.gone.append((partial.digest, reason)),
        )

    def add(self, data: bytes) -> None:
        entry = Cargo(data).entry()
        self.files.room(entry, 1_000, self.journal, as_partial=True)
        self.files.write(entry, 0, memoryview(data)[:1_000], self.journal)
        opened = self.files.get(entry.coded_digest)
        assert opened is not None
        opened.have.add(0, 1_000)
        self.files.sync(opened)
        self.journal.save_ranges([(entry.coded_digest, [(0, 1_000)])], 1.0)

    def need(self, *datas: bytes, sequence: int = 1) -> None:
        contents = [Content("application/octet-stream", digest_of(data), len(data)) for data in datas]
        image = ReleaseImage("docker.io/library/x", ("1",), contents[0], tuple(contents[1:]))
        payload = payload_of(Release("default", sequence, None, "2025-01-01T00:00:00Z", (image,)))
        envelope = seal_release(payload, self.signer)
        self.journal.save_release("default", sequence, payload_digest(payload), envelope, 1.0)

    def here(self) -> set[str]:
        return {partial.digest for partial, _, _ in self.journal.partials()}


@pytest.fixture
def files(side: Side) -> Iterator[Files]:
    made = Files(side, Bounds(3_000_000, age=100.0))
    yield made
    made.files.close_all()
    made.journal.close()


def test_what_no_release_needs_goes_before_what_one_needs(files: Files) -> None:
    needed, other, newer = some_bytes(2_000_000, 1), some_bytes(900_000, 2), some_bytes(800_000, 3)
    files.need(needed, newer)
    files.add(needed)
    files.add(other)
    files.add(newer)
    assert files.here() == {digest_of(needed), digest_of(newer)}
    [(digest, reason)] = files.gone
    assert digest == digest_of(other)
    assert reason == "limits.partial_space, and no release needs it"
    assert not files.files.path(digest_of(other)).exists()


def test_the_larger_newcomer_stands_back_and_the_smaller_is_let_in(files: Files) -> None:
    small, large, smaller = some_bytes(1_200_000, 1), some_bytes(2_500_000, 2), some_bytes(1_000_000, 3)
    files.need(small, large, smaller)
    files.add(small)
    with pytest.raises(NoRoom, match=r"limits.partial_space"):
        files.add(large)
    files.add(smaller)
    assert files.here() == {digest_of(small), digest_of(smaller)}
    assert files.gone == []


def test_while_a_release_is_heard_of_and_not_here_nothing_counts_as_not_needed(files: Files) -> None:
    data = some_bytes(1_000)
    files.need(data)
    digests = {digest_of(data), digest_of(b"other")}
    assert needed_by_releases(files.journal, files.trust, digests) == {digest_of(data)}
    files.journal.note_capture(None, {}, {"default": (2, digest_of(b"2"), 1.0)}, 1.0)
    assert needed_by_releases(files.journal, files.trust, digests) is None


def test_age_is_time_of_a_live_link_that_brought_nothing(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock leaps thirty years ahead and nothing is older; a block that comes makes it young again."""
    old, fed = some_bytes(500_000, 1), some_bytes(600_000, 2)
    files.add(old)
    files.add(fed)
    for leap in (0.0, 30 * 365 * 86_400.0, -60 * 365 * 86_400.0):
        monkeypatch.setattr("time.time", lambda leap=leap: 1_800_000_000.0 + leap)
        files.files.grow_old(30.0, files.journal)
        assert len(files.here()) == 2
    files.journal.save_ranges([(digest_of(fed), [(0, 2_000)])], 1.0)
    files.files.grow_old(30.0, files.journal)
    assert files.here() == {digest_of(fed)}
    assert files.gone == [(digest_of(old), "limits.partial_age")]
    assert [path.name for path in files.files.path(digest_of(old)).parent.iterdir()] == [digest_of(fed)[7:]]
