"""WIRE_FORMAT.md §3 and §3.2: no changed bit, no missing byte and no forger gets an announcement through."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protocol.announcement import (
    SessionParameters,
    build,
    open_announcement,
    traffic_key,
    unwrap_session_key,
    wrap_session_key,
)
from protocol.drops import Drop
from protocol.errors import ProtocolMisuse
from protocol.fragments import Assembler, fragment
from protocol.limits import ANNOUNCEMENT_BYTES_MAX, ANNOUNCEMENTS_PENDING_MAX, RECEIVERS_MAX
from protocol.trust import key_id
from tests.protocol.harness import RECEIVER, outcome, trusted
from tests.vectors import session as s

SESSION = s.Session()
GOOD = SESSION.announcement
REFUSED = {Drop.BAD_ANNOUNCEMENT, Drop.UNTRUSTED_SENDER, Drop.BAD_SIGNATURE}


def test_what_the_library_wraps_the_receiver_unwraps() -> None:
    signer, receiver = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    parameters = SessionParameters(3, bytes(range(16)), 1_472, 5, 2)
    wrapped = wrap_session_key(b"k" * 32, receiver.public_key(), key_id(signer.public_key()), parameters)
    data = build(parameters, {key_id(receiver.public_key()): wrapped}, signer)
    opened = open_announcement(data, type(trusted()).of(signer.public_key()))
    assert opened.parameters == parameters
    assert opened.sender == key_id(signer.public_key())
    assert unwrap_session_key(opened, receiver) == b"k" * 32


def test_any_flipped_bit_is_refused() -> None:
    for at in range(len(GOOD)):
        for bit in range(8):
            changed = GOOD[:at] + bytes((GOOD[at] ^ 1 << bit,)) + GOOD[at + 1 :]
            _, drop = outcome(lambda: open_announcement(changed, trusted()))  # noqa: B023
            assert drop in REFUSED, (at, bit)


def test_any_truncation_and_any_trailing_byte_is_refused() -> None:
    for length in range(len(GOOD)):
        assert outcome(lambda: open_announcement(GOOD[:length], trusted()))[1] in REFUSED  # noqa: B023
    for extra in (b"\0", b"\0" * 16, GOOD):
        assert outcome(lambda: open_announcement(GOOD + extra, trusted()))[1] in REFUSED  # noqa: B023
    assert outcome(lambda: open_announcement(bytes(ANNOUNCEMENT_BYTES_MAX + 1), trusted()))[1] in REFUSED


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert outcome(lambda: open_announcement(data, trusted()))[1] in REFUSED
    assert outcome(lambda: open_announcement(GOOD[:80] + data, trusted()))[1] in REFUSED


def test_a_wrapped_key_opens_for_its_receiver_only() -> None:
    opened = open_announcement(GOOD, trusted())
    assert unwrap_session_key(opened, RECEIVER) == SESSION.session_key
    assert outcome(lambda: unwrap_session_key(opened, s.agreement_key("other")))[1] is Drop.NOT_FOR_US
    swapped = {key: opened.wrapped[key] for key in opened.wrapped}
    swapped[s.key_id(s.agreement_key("other"))] = next(iter(swapped.values()))
    forged = replace(opened, wrapped=swapped)
    assert outcome(lambda: unwrap_session_key(forged, s.agreement_key("other")))[1] is Drop.BAD_SESSION_KEY


@pytest.mark.parametrize("changed", ["sender", "session_id", "epoch"])
def test_a_wrapped_key_is_bound_to_its_session(changed: str) -> None:
    opened = open_announcement(GOOD, trusted())
    if changed == "sender":
        moved = replace(opened, sender=bytes(32))
    else:
        value = {"session_id": bytes(16), "epoch": 8}[changed]
        moved = replace(opened, parameters=replace(opened.parameters, **{changed: value}))
    assert outcome(lambda: unwrap_session_key(moved, RECEIVER))[1] is Drop.BAD_SESSION_KEY


def test_the_traffic_key_depends_on_every_signed_byte() -> None:
    keys = {
        traffic_key(bytes(32), SESSION.signed[:at] + b"\xff" + SESSION.signed[at + 1 :]) for at in range(0, 192, 7)
    }
    assert len(keys) == 28


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 0},
        {"epoch": 1 << 63},
        {"session_id": b"short"},
        {"datagram_bytes": 561},
        {"lanes": 0},
        {"lanes": 257},
        {"created_ms": 1 << 62},
    ],
)
def test_building_refuses_what_opening_would(change: dict[str, object]) -> None:
    parameters = replace(SessionParameters(1, bytes(16), 560, 0), **change)
    with pytest.raises(ProtocolMisuse):
        build(parameters, {bytes(32): bytes(112)[:80]}, s.signing_key("sender"))


def test_receivers_are_bounded_when_building() -> None:
    parameters = SessionParameters(1, bytes(16), 560, 0)
    for count in (0, RECEIVERS_MAX + 1):
        wrapped = {number.to_bytes(32, "big"): bytes(80) for number in range(count)}
        with pytest.raises(ProtocolMisuse):
            build(parameters, wrapped, s.signing_key("sender"))
    most = {number.to_bytes(32, "big"): bytes(80) for number in range(1, RECEIVERS_MAX + 1)}
    data = build(parameters, most, s.signing_key("sender"))
    assert len(open_announcement(data, trusted()).wrapped) == RECEIVERS_MAX
    assert Assembler().add(fragment(data, bytes(4), 560)[0]) is None


# --- fragments -----------------------------------------------------------------------------------------------


@given(st.integers(1, 20_000), st.sampled_from((560, 1_472, 9_168)), st.randoms(use_true_random=False))
def test_fragments_assemble_in_any_order_with_duplicates(size: int, datagram_bytes: int, random: Random) -> None:
    announcement = random.randbytes(size)
    pieces = fragment(announcement, b"tag!", datagram_bytes)
    assert all(len(piece) == datagram_bytes for piece in pieces)
    shuffled = pieces + random.sample(pieces, random.randrange(len(pieces)))
    random.shuffle(shuffled)
    assembler = Assembler()
    seen: set[bytes] = set()
    for datagram in shuffled:
        seen.add(datagram)
        whole = assembler.add(datagram)
        assert whole == (announcement if len(seen) == len(pieces) else None)
        if whole is not None:
            break


def test_unfinished_announcements_are_bounded_and_the_oldest_gives_way() -> None:
    assembler = Assembler()
    many = [fragment(Random(seed).randbytes(60_000), b"tag!", 560) for seed in range(ANNOUNCEMENTS_PENDING_MAX + 1)]
    for pieces in many:
        for piece in pieces[:-1]:
            assert assembler.add(piece) is None
    assert assembler.evicted == 1
    assert assembler.add(many[0][-1]) is None, "the first was given up"
    assert assembler.add(many[-1][-1]) is not None


def test_memory_of_fragments_is_bounded_whatever_comes() -> None:
    random, assembler = Random(2), Assembler()
    tracemalloc.start()
    for _ in range(3_000):
        count, index = random.randrange(2, 129), random.randrange(128)
        total = 512 * (count - 1) + random.randrange(1, 513)
        size = 512 if index < count - 1 else total - 512 * (count - 1)
        datagram = s.fragment(b"tag!", index, random.randbytes(8), count, size, total, random.randbytes(size), 560)
        outcome(lambda: assembler.add(datagram))  # noqa: B023
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < ANNOUNCEMENTS_PENDING_MAX * ANNOUNCEMENT_BYTES_MAX * 2


def test_a_forger_who_was_first_does_not_block_the_genuine_announcement() -> None:
    genuine = fragment(Random(3).randbytes(1_500), b"tag!", 560)
    identifier = genuine[0][32:40]
    for count, total in ((3, 1_500), (3, 1_499), (4, 1_600), (2, 1_000)):
        assembler = Assembler()
        size = 512 if count > 1 else total
        forged = s.fragment(b"tag!", 0, identifier, count, size, total, bytes(512), 560)
        assert assembler.add(forged) is None
        found = [assembler.add(piece) for piece in genuine]
        assert found[-1] is not None, (count, total)


def test_an_announcement_that_needs_too_many_fragments_is_our_misuse() -> None:
    for size in (0xFFFF + 2, 128 * 512 + 1):
        with pytest.raises(ProtocolMisuse):
            fragment(bytes(size), b"tag!", 560)


@given(st.binary(max_size=80))
def test_random_fragments_are_refused_with_their_reason(tail: bytes) -> None:
    datagram = s.header(1, b"tag!") + tail
    whole, drop = outcome(lambda: Assembler().add(datagram))
    assert whole is None
    assert drop in (None, Drop.BAD_FRAGMENT)
