"""Every reason for which received bytes are dropped is reached, and asserted, by bytes on the wire."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.drops import Drop
from protocol.events import BeaconReceived, BlockAbandoned, BlockComplete, ObjectAnnounced, SessionOpened
from protocol.limits import (
    ACTIVE_BLOCKS_MAX,
    ANNOUNCEMENTS_PENDING_MAX,
    DATAGRAMS_PER_VERIFICATION,
    REFUSED_ANNOUNCEMENTS_MAX,
    TRACKED_OBJECTS_MAX,
    VERIFICATIONS_MAX,
)
from tests.protocol.harness import Receiver
from tests.vectors import catalogue_session as cs
from tests.vectors import definition
from tests.vectors import session as s
from tests.vectors.catalogue import catalogue

SESSION = s.Session()
CONTENT = definition.pattern(512 * 40)
# forty blocks of one symbol and one repair symbol each
ENTRY = s.entry(CONTENT, k=1, m=1, depth=1)


def opened(**options: object) -> Receiver:
    receiver = Receiver(**options)  # type: ignore[arg-type]
    receiver.feed_each([*SESSION.fragments(), SESSION.control(s.OBJECTS, 0, ENTRY)])
    return receiver


def symbol(sbn: int, number: int | None = None) -> bytes:
    payload = CONTENT[512 * sbn : 512 * (sbn + 1)]
    return SESSION.symbol(number or 100 + sbn, payload, sbn=sbn)


def test_no_buffer_while_all_are_being_written() -> None:
    receiver = opened(buffers=2)
    receiver.keep_blocks = True
    for sbn in range(4):
        receiver.feed(symbol(sbn))
    assert receiver.drops == {Drop.NO_BUFFER.value: 2}
    for block in receiver.kept:
        receiver.decoder.give_back(block)
    receiver.keep_blocks = False
    receiver.feed(symbol(2, 50))
    receiver.feed(symbol(3, 51))
    assert receiver.drops == {Drop.NO_BUFFER.value: 2}
    assert bytes(receiver.contents["sha256:" + s.sha256(CONTENT).hexdigest()][: 512 * 4]) == CONTENT[: 512 * 4]


def test_the_oldest_block_is_abandoned_for_newer_ones_and_its_codewords_are_kept() -> None:
    receiver = Receiver()
    entry = s.entry(CONTENT, k=1, m=1, depth=2)  # twenty blocks of two codewords
    receiver.feed_each([*SESSION.fragments(), SESSION.control(s.OBJECTS, 0, entry)])
    for sbn in range(ACTIVE_BLOCKS_MAX + 1):
        payload = CONTENT[1_024 * sbn : 1_024 * sbn + 512]
        receiver.feed(SESSION.symbol(10 + sbn, payload, sbn=sbn))
    assert receiver.drops == {Drop.BLOCK_ABANDONED.value: 1}
    abandoned = [event.block for event in receiver.events if isinstance(event, BlockAbandoned)]
    assert [block.shape.sbn for block in abandoned] == [0]
    assert bytes(receiver.contents[abandoned[0].owner.entry.coded_digest][:512]) == CONTENT[:512]
    assert not abandoned[0].complete


def test_more_objects_than_are_tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    import protocol.receive_session as module

    assert TRACKED_OBJECTS_MAX <= 1 << 14
    monkeypatch.setattr(module, "TRACKED_OBJECTS_MAX", 2)
    receiver = Receiver()
    receiver.feed_each(SESSION.fragments())
    wide = [s.entry(CONTENT, toi=toi, k=2, m=1, depth=1) for toi in (1, 2, 3)]
    for toi in (1, 2):
        receiver.feed(SESSION.control(s.OBJECTS, 2 * toi, wide[toi - 1]))
        receiver.feed(SESSION.symbol(2 * toi + 1, CONTENT[:512], toi=toi))
    receiver.feed(SESSION.control(s.OBJECTS, 10, wide[2]))
    assert receiver.drops == {Drop.TOO_MANY_OBJECTS.value: 1}
    receiver.feed(SESSION.symbol(11, CONTENT[512:1_024], toi=1, row=1))  # completes; object 1 may now go
    receiver.feed(SESSION.control(s.OBJECTS, 12, wide[2]))
    assert [e.object.entry.toi for e in receiver.events if isinstance(e, ObjectAnnounced)] == [1, 2, 3]


def test_the_object_announced_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import protocol.receive_session as module

    monkeypatch.setattr(module, "TRACKED_OBJECTS_MAX", 2)
    receiver = Receiver()
    receiver.feed_each(SESSION.fragments())
    for number, toi in enumerate((1, 2, 1, 3, 1, 2)):
        receiver.feed(SESSION.control(s.OBJECTS, number, s.entry(CONTENT, toi=toi)))
    assert [e.object.entry.toi for e in receiver.events if isinstance(e, ObjectAnnounced)] == [1, 2, 3, 2]


def test_unfinished_announcements_are_evicted() -> None:
    receiver = Receiver()
    for number in range(ANNOUNCEMENTS_PENDING_MAX + 2):
        session = replace(SESSION, epoch=number + 1, receivers=tuple(f"receiver {i}" for i in range(9)))
        receiver.feed(session.fragments()[0])
    assert receiver.drops == {Drop.FRAGMENT_EVICTED.value: 2}


def test_a_beacon_that_breaks_a_rule_is_counted() -> None:
    receiver = opened()
    receiver.feed(SESSION.control(s.BEACON, 1, s.beacon(0)))
    assert receiver.drops == {Drop.BAD_BEACON.value: 1}
    receiver.feed(SESSION.control(s.BEACON, 2, s.beacon(1)))
    assert isinstance(receiver.events[-1], BeaconReceived)


@pytest.mark.parametrize("reason", [Drop.BAD_OBJECT_TABLE, Drop.BAD_GEOMETRY, Drop.OBJECT_TOO_LARGE])
def test_a_bad_table_entry_is_counted(reason: Drop) -> None:
    changes: dict[Drop, dict[str, int]] = {
        Drop.BAD_OBJECT_TABLE: {"kind": 9},
        Drop.BAD_GEOMETRY: {"depth": 0},
        Drop.OBJECT_TOO_LARGE: {"coding": 1, "coded_size": (1 << 40) + 1},
    }
    receiver = Receiver()
    entry = s.entry(CONTENT, **changes[reason])  # type: ignore[arg-type]
    receiver.feed_each([*SESSION.fragments(), SESSION.control(s.OBJECTS, 0, entry)])
    assert receiver.drops == {reason.value: 1}


@pytest.mark.parametrize("reason", [Drop.NOT_FOR_US, Drop.BAD_SESSION_KEY, Drop.UNTRUSTED_SENDER, Drop.BAD_SIGNATURE])
def test_an_announcement_that_cannot_be_used_is_counted(reason: Drop) -> None:
    changes: dict[Drop, dict[str, object]] = {
        Drop.NOT_FOR_US: {"receivers": ("another receiver",)},
        Drop.BAD_SESSION_KEY: {"overrides": {"receiver": bytes(80)}},
        Drop.UNTRUSTED_SENDER: {"sender": "stranger"},
        Drop.BAD_SIGNATURE: {"signer": "stranger"},
    }
    receiver = Receiver()
    receiver.feed_each(replace(SESSION, **changes[reason]).fragments())  # type: ignore[arg-type]
    assert receiver.drops == {reason.value: 1}
    assert not receiver.remembered.epochs, "nothing is remembered of what was not used"
    receiver.feed_each(SESSION.fragments())
    assert isinstance(receiver.events[-1], SessionOpened)


def test_objects_that_are_not_wanted_cost_nothing() -> None:
    receiver = opened()
    announced = next(e.object for e in receiver.events if isinstance(e, ObjectAnnounced))
    announced.wanted = False
    receiver.feed(symbol(0))
    assert receiver.drops == {}
    assert receiver.decoder.counters.surplus == 1


def test_what_was_received_before_is_not_received_again() -> None:
    receiver = opened()
    announced = next(e.object for e in receiver.events if isinstance(e, ObjectAnnounced))
    announced.have.add(0, 512 * 3)
    for sbn in range(4):
        receiver.feed(symbol(sbn))
    done = [event.block.shape.sbn for event in receiver.events if isinstance(event, BlockComplete)]
    assert done == [3]
    assert receiver.decoder.counters.surplus == 3
    receiver.decoder.forget(announced)
    receiver.feed(symbol(0, 900))
    done = [event.block.shape.sbn for event in receiver.events if isinstance(event, BlockComplete)]
    assert done == [3, 0]


def test_forged_announcements_are_verified_at_a_bounded_rate() -> None:
    receiver = opened()
    spent = receiver.decoder.counters.datagrams  # one verification opened the session
    forged = [replace(SESSION, epoch=100 + n, signer="stranger").fragments()[0] for n in range(VERIFICATIONS_MAX + 5)]
    receiver.feed_each(forged)
    assert receiver.drops == {
        Drop.BAD_SIGNATURE.value: VERIFICATIONS_MAX - 1,
        Drop.TOO_MANY_ANNOUNCEMENTS.value: 6,
    }
    for number in range(DATAGRAMS_PER_VERIFICATION - spent):
        receiver.feed(symbol(number % 40, 1_000 + number))
    newer = replace(SESSION, epoch=8, name="session 2")
    receiver.feed_each(newer.fragments())
    assert [e.parameters.epoch for e in receiver.events if isinstance(e, SessionOpened)] == [7, 8]


def test_an_announcement_that_was_refused_is_not_verified_again() -> None:
    receiver = Receiver()
    not_for_us = replace(SESSION, epoch=9, receivers=("another receiver",)).fragments()
    receiver.feed_each(not_for_us * 100)
    assert receiver.drops == {Drop.NOT_FOR_US.value: 100}
    receiver.feed_each(SESSION.fragments())
    assert isinstance(receiver.events[-1], SessionOpened)


def test_refused_announcements_are_remembered_in_bounded_number() -> None:
    receiver = Receiver()
    for number in range(REFUSED_ANNOUNCEMENTS_MAX + 20):
        receiver.feed_each(replace(SESSION, epoch=number + 1, sender="stranger").fragments())
    assert receiver.drops == {Drop.UNTRUSTED_SENDER.value: REFUSED_ANNOUNCEMENTS_MAX + 20}
    assert len(receiver.decoder._refused) == REFUSED_ANNOUNCEMENTS_MAX


def test_a_block_begun_before_its_object_was_forgotten_does_not_count_for_it() -> None:
    receiver = Receiver()
    content = CONTENT[:2_048]  # one block of two codewords
    entry = s.entry(content, k=2, m=1, depth=2)
    receiver.feed_each([*SESSION.fragments(), SESSION.control(s.OBJECTS, 0, entry)])
    announced = next(e.object for e in receiver.events if isinstance(e, ObjectAnnounced))
    announced.have.add(0, 1_024)  # the first codeword is on disk, and damaged
    symbols = [content[at : at + 512] for at in range(0, 2_048, 512)]
    receiver.feed(SESSION.symbol(1, symbols[2], row=0, column=1))
    receiver.decoder.forget(announced)
    receiver.feed(SESSION.symbol(2, symbols[3], row=1, column=1))
    assert isinstance(receiver.events[-1], BlockComplete)
    assert bytes(receiver.contents[announced.entry.coded_digest]) != content
    for number, (column, row) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)), 3):
        receiver.feed(SESSION.symbol(number, symbols[2 * column + row], row=row, column=column))
    assert bytes(receiver.contents[announced.entry.coded_digest]) == content


def test_a_decoder_of_one_lane_takes_no_other() -> None:
    """Each lane's packet numbers are seen by one decoder only, or a replay would be new to the other."""
    session = s.Session(lanes=2)
    receiver = Receiver(lane=1)
    lane_1 = 1 << 56
    receiver.feed_each([*session.fragments(), session.control(s.OBJECTS, 0, ENTRY)])
    assert receiver.drops == {"wrong_lane": 1}
    receiver.feed_each([session.control(s.OBJECTS, lane_1, ENTRY)])
    receiver.feed(session.symbol(1, CONTENT[:512]))
    assert receiver.drops == {"wrong_lane": 2}
    receiver.feed(session.symbol(lane_1 | 1, CONTENT[:512]))
    assert isinstance(receiver.events[-1], BlockComplete)
    receiver.feed(session.symbol(2 << 56, CONTENT[:512]))
    assert receiver.drops == {"wrong_lane": 2, "bad_field": 1}


def test_every_reason_is_reached_by_a_vector_or_a_test_here() -> None:
    """Those of the decoder and the parsers; whole objects and releases are judged by who stores them."""
    reached = {vector.expect for vector in catalogue()} - {"ok", "refused"}  # refused: a repair code, by a person
    here = {
        Drop.TOO_MANY_ANNOUNCEMENTS,
        Drop.NO_BUFFER,
        Drop.BLOCK_ABANDONED,
        Drop.TOO_MANY_OBJECTS,
        Drop.FRAGMENT_EVICTED,
        Drop.WRONG_LANE,
    }
    stores = {
        Drop.CODED_DIGEST_MISMATCH,
        Drop.CONTENT_DIGEST_MISMATCH,
        Drop.NO_ROOM,
        Drop.COLLECTION_NOT_ALLOWED,
        Drop.SENDER_NOT_ALLOWED,
    }
    assert {drop.value for drop in Drop} == reached | {drop.value for drop in here | stores}
    assert cs.OPENED == "SessionOpened"
