"""Order, spacing and completeness of passes, without clock or journal."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.geometry import BlockShape, LinkProfile
from protocol.objects import Kind
from sender.journal import QueuedObject
from sender.schedule import Rank, Schedule, rotated
from tests.transmit.rig import queued

PROFILE = LinkProfile(1424, k=20, m=2, depth=2, outage=0)
BLOCK = 20 * 2 * 1424
BIG = 3 * BLOCK


def is_last(step: tuple[QueuedObject, BlockShape, Rank] | None) -> bool:
    assert step is not None
    return step[1].offset + step[1].size == step[0].coded_size


def schedule(spacing: float = 1.0) -> Schedule:
    return Schedule(PROFILE.geometry, spacing)


def drain(plan: Schedule, now: float = 0.0) -> list[int]:
    ids = []
    while (step := plan.next_block(now)) is not None:
        ids.append(step[0].id)
        if is_last(step):
            plan.pass_ended(step[0], now)
    return ids


def test_releases_come_first_then_the_order_of_queueing() -> None:
    plan = schedule()
    plan.refresh([queued(3), queued(1), queued(9, kind=Kind.RELEASE), queued(2)])
    assert drain(plan) == [9, 1, 2, 3]


def test_a_repeated_release_does_not_wait_for_content_with_fewer_passes() -> None:
    plan = schedule()
    plan.refresh([queued(1), queued(2), queued(9, kind=Kind.RELEASE, passes_done=40)])
    assert drain(plan) == [9, 1, 2]


def test_a_release_goes_between_two_blocks_of_a_large_object() -> None:
    plan = schedule()
    plan.refresh([queued(1, BIG)])
    first = plan.next_block(0)
    plan.refresh([queued(1, BIG), queued(9, kind=Kind.RELEASE)])
    assert first is not None
    steps = [plan.next_block(0) for _ in range(3)]
    assert [(step[0].id, step[1].sbn) for step in steps if step] == [(9, 0), (1, 1), (1, 2)]
    assert steps[2] is not None
    assert is_last(steps[2])
    assert plan.next_block(0) is None


def test_what_a_start_finds_in_the_queue_begins_elsewhere_each_time_and_what_is_new_in_order() -> None:
    starts = []
    for turn in range(4):
        plan = Schedule(PROFILE.geometry, 0.0, turn)
        plan.refresh([queued(1, BIG)])
        plan.refresh([queued(1, BIG), queued(2, BIG)])
        begun: dict[int, int] = {}
        while (step := plan.next_block(0)) is not None:
            begun.setdefault(step[0].id, step[1].sbn)
        assert begun[2] == 0
        starts.append(begun[1])
    assert starts == [rotated(3, turn) for turn in range(4)]
    assert set(starts) == {0, 1, 2}


def test_objects_with_fewer_passes_come_first() -> None:
    plan = schedule()
    plan.refresh([queued(1, passes_done=2), queued(2, passes_done=1), queued(3)])
    assert drain(plan) == [3, 2, 1]


def test_passes_of_one_object_are_spaced_from_the_end_of_the_one_before() -> None:
    plan = schedule(spacing=1.0)
    one = queued(1, BIG, passes_left=2)
    plan.refresh([one])
    assert [is_last(plan.next_block(0)) for _ in range(3)] == [False, False, True]
    assert plan.next_block(100) is None, "its first pass is still on the wire"
    plan.pass_ended(one, 100)
    plan.refresh([replace(one, passes_left=1, passes_done=1)])
    assert plan.next_block(100.9) is None
    assert plan.next_block(101.0) is not None


def test_refreshing_again_and_again_changes_nothing() -> None:
    rows = [queued(1, BIG, passes_left=2), queued(2), queued(3, kind=Kind.RELEASE)]
    once, often = schedule(), schedule()
    once.refresh(rows)
    steps = []
    for _ in range(20):
        often.refresh(rows)
        step = often.next_block(0)
        if step is not None:
            steps.append((step[0].id, step[1].sbn))
    assert steps == [(3, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert drain(once) == [3, 1, 1, 1, 2]


def test_a_restart_goes_on_where_the_passes_stopped() -> None:
    plan = schedule(0)
    plan.refresh([queued(1, passes_left=1, passes_done=2), queued(2, passes_left=3)])
    assert Counter(drain(plan)) == {1: 1, 2: 1}
    plan.refresh([queued(2, passes_left=2, passes_done=1)])
    assert drain(plan) == [2]


def test_an_abandoned_object_is_not_handed_out_and_its_id_may_be_used_again() -> None:
    plan = schedule()
    plan.refresh([queued(1, BIG), queued(2)])
    assert plan.next_block(0) is not None
    plan.abandon(queued(1, BIG))
    assert drain(plan) == [2]
    assert plan.empty
    plan.refresh([queued(1, 500)])  # another object: the journal gave the id away again
    assert drain(plan) == [1]


def test_what_left_the_queue_is_forgotten() -> None:
    plan = schedule()
    for object_id in range(1, 500):
        plan.refresh([queued(object_id)])
        drain(plan)
    assert len(plan._begun) == len(plan._ready_at) == 1


def test_upcoming_names_what_goes_then_what_waits() -> None:
    plan = schedule()
    plan.refresh([queued(1, BIG), queued(2), queued(3)])
    plan.next_block(0)
    assert [row.id for row in plan.upcoming(2)] == [1, 2]
    assert [row.id for row in plan.upcoming(9)] == [1, 2, 3]


def test_urgent_objects_interrupt_bulk_and_releases_interrupt_both() -> None:
    plan = schedule()
    rows = [queued(1, BIG)]
    plan.refresh(rows)
    order = [plan.next_block(0)]
    rows.append(queued(2, BIG, urgent=True))
    plan.hurry(rows[1:])
    order.append(plan.next_block(0))
    plan.refresh([*rows, queued(3, kind=Kind.RELEASE)])
    order += [plan.next_block(0) for _ in range(5)]
    assert [(step[0].id, step[1].sbn) for step in order if step] == [
        *[(1, 0), (2, 0), (3, 0)],
        *[(2, 1), (2, 2), (1, 1), (1, 2)],
    ]


def test_an_object_that_becomes_urgent_in_the_middle_overtakes_the_one_that_came_before() -> None:
    plan = schedule()
    rows = [queued(1, BIG), queued(2)]
    plan.refresh(rows)
    assert plan.next_block(0) is not None
    plan.hurry([replace(rows[1], urgent=True)])
    assert drain(plan) == [2, 1, 1]
    assert plan.empty


def test_what_is_below_the_floor_waits_also_in_the_middle_and_is_not_announced() -> None:
    plan = schedule()
    plan.refresh([queued(1, BIG), queued(2, urgent=True), queued(9, kind=Kind.RELEASE)])
    plan.next_block(0)
    plan.floor = Rank.RELEASE
    assert (plan.next_block(0), plan.upcoming(9)) == (None, [])
    plan.floor = Rank.URGENT
    assert [row.id for row in plan.upcoming(9)] == [2]
    assert drain(plan) == [2]
    plan.floor = Rank.BULK
    assert drain(plan) == [1, 1, 1]


def test_blocks_that_come_back_go_again_in_order() -> None:
    plan = schedule()
    plan.refresh([queued(1, BIG), queued(2)])
    steps = [plan.next_block(0) for _ in range(4)]
    assert plan.next_block(0) is None
    for step in steps[:0:-1]:
        assert step is not None
        plan.take_back(step[0], step[1].sbn)
    assert not plan.empty
    assert [(step[0].id, step[1].sbn) for step in (plan.next_block(0) for _ in range(3)) if step] == [
        (1, 1),
        (1, 2),
        (2, 0),
    ]


def sbns(plan: Schedule, count: int, now: float = 0.0) -> list[int]:
    return [step[1].sbn for step in (plan.next_block(now) for _ in range(count)) if step]


def test_each_pass_begins_at_another_block_also_after_a_restart() -> None:
    orders = []
    for done in range(4):
        plan = schedule()
        plan.refresh([queued(1, 8 * BLOCK, passes_done=done)])
        orders.append(sbns(plan, 9))
    assert orders[0] == list(range(8)), "the first from the beginning: what is read in order is hashed on the way"
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert all((b - a) % 8 == 1 for order in orders for a, b in itertools.pairwise(order))
    assert len({order[0] for order in orders}) == 4


@given(st.integers(1, 3_000), st.integers(0, 10_000))
def test_the_beginnings_of_passes_in_a_row_are_spread_evenly(blocks: int, first: int) -> None:
    """Between the beginnings of n passes in a row no gap is much more than an nth: the golden ratio's law."""
    passes = 13
    starts = sorted(rotated(blocks, number) for number in range(first, first + passes))
    gaps = [b - a for a, b in itertools.pairwise([*starts, starts[0] + blocks])]
    assert max(gaps) <= 2.4 * blocks / passes + 1


def test_blocks_that_come_back_keep_their_turn_in_a_pass_that_goes_round_the_end() -> None:
    plan = schedule()
    row = queued(1, 5 * BLOCK, passes_done=1)
    plan.refresh([row])
    order = sbns(plan, 4)
    assert 0 in order
    for sbn in reversed(order[1:]):
        plan.take_back(row, sbn)
    assert sbns(plan, 9)[:3] == order[1:]
    assert plan.next_block(0) is None


def test_a_repair_sends_its_blocks_before_urgent_objects_and_beside_the_objects_own_pass() -> None:
    plan = schedule()
    rows = [queued(1, 6 * BLOCK), queued(2, 2 * BLOCK, urgent=True)]
    plan.refresh(rows)
    assert sbns(plan, 1) == [0]
    repair = queued(1, 6 * BLOCK, spans=((BLOCK, BLOCK + 1), (4 * BLOCK - 1, 5 * BLOCK)))
    repair = replace(repair, id=-7)
    plan.hurry([repair, rows[1]])
    assert plan.pressing
    steps = [plan.next_block(0) for _ in range(4)]
    assert [(step[0].id, step[1].sbn, step[2]) for step in steps if step] == [
        *[(-7, sbn, Rank.REPAIR) for sbn in (1, 3, 4)],
        (2, 1, Rank.URGENT),
    ]
    assert plan.blocks_of(repair) == 3
    plan.take_back(repair, 3)
    assert sbns(plan, 1) == [3]
    plan.pass_ended(repair, 0)
    assert sbns(plan, 9) == [0, 1, 2, 3, 4, 5]


def test_a_repair_waits_for_a_window_as_urgent_objects_do() -> None:
    plan = schedule()
    plan.refresh([queued(-3, BLOCK, spans=((0, BLOCK),))])
    plan.floor = Rank.RELEASE
    assert plan.next_block(0) is None
    plan.floor = Rank.URGENT
    assert sbns(plan, 1) == [0]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_every_pass_of_every_object_is_handed_out_exactly_once_whatever_the_refresh_timing(seed: int) -> None:
    random = Random(seed)
    rows = {
        object_id: queued(
            object_id,
            random.choice([10, 5_000, BIG]),
            kind=random.choice([Kind.BLOB, Kind.BLOB, Kind.RELEASE]),
            urgent=random.random() < 0.3,
            passes_left=random.randint(1, 4),
            passes_done=random.randint(0, 3),
        )
        for object_id in range(1, random.randint(2, 7))
    }
    passes = {each: row.passes_left for each, row in rows.items()}
    late = {each for each in rows if random.random() < 0.3}  # queued by fetch only after a while
    plan = schedule(random.choice([0.0, 0.5]))
    blocks: dict[int, list[int]] = defaultdict(list)
    ahead: list[tuple[QueuedObject, BlockShape, Rank]] = []  # what a lane has
    finished: list[QueuedObject] = []
    now = 0.0
    while any(row.passes_left for row in rows.values()):
        now += 0.1
        assert now < 1_000, "stuck"
        if finished and random.random() < 0.5:  # the journal hears of it some time later
            row = rows[finished.pop(0).id]
            rows[row.id] = replace(row, passes_left=row.passes_left - 1, passes_done=row.passes_done + 1)
        if random.random() < 0.3:
            late = late if now < 2 else set()
            plan.refresh([row for row in rows.values() if row.passes_left and row.id not in late])
        if random.random() < 0.2:
            plan.hurry([row for row in rows.values() if row.passes_left and row.urgent and row.id not in late])
        if random.random() < 0.1:
            plan.floor = random.choice(list(Rank)) if now < 50 else Rank.BULK
        if random.random() < 0.1:  # a lane gives back what it has read ahead
            for step in ahead[1:]:
                plan.take_back(step[0], step[1].sbn)
            del ahead[1:]
        if len(ahead) < 3:
            better = [rank for rank in Rank if plan.ready(rank, now)]
            step = plan.next_block(now)
            assert (step[2] if step else None) == max(better, default=None)
            ahead += [step] if step is not None else []
        if ahead and random.random() < 0.7:
            left = ahead.pop(0)
            blocks[left[0].id].append(left[1].sbn)
            count = PROFILE.geometry(left[0].coded_size).blocks
            if len(blocks[left[0].id]) % count == 0:
                plan.pass_ended(left[0], now)
                finished.append(left[0])
    for object_id, wanted in passes.items():
        count = PROFILE.geometry(rows[object_id].coded_size).blocks
        whole = list(range(count))
        assert len(blocks[object_id]) == count * wanted
        for at in range(0, count * wanted, count):
            assert sorted(blocks[object_id][at : at + count]) == whole
