"""WIRE_FORMAT.md §4.1, §4.3 and §6: object table, batch and beacon, written and read."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import batch, beacon, objects
from protocol.beacon import Beacon, Newest, newest_per_beacon, parse_beacon
from protocol.drops import Drop
from protocol.errors import ProtocolMisuse, WireError
from protocol.geometry import checked
from protocol.limits import BATCH_MEMBER_BYTES_MAX, BATCH_MEMBERS_MAX, COLLECTIONS_MAX, NUMBER_MAX
from protocol.objects import Coding, Kind, ObjectEntry, encode_table, entries_per_datagram, parse_entry, parse_table
from tests.protocol.harness import outcome
from tests.support.content import digest_of
from tests.vectors import session as s

HEX32 = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def entries(draw: st.DrawFn, symbol: int = 512) -> ObjectEntry:
    kind, how = draw(st.sampled_from(Kind)), draw(st.sampled_from(Coding))
    size = draw(st.integers(1, 1 << 24))
    k, m = draw(st.integers(1, 100)), draw(st.integers(1, 100))
    geometry = checked(size, symbol, k, m, draw(st.integers(1, 64)) if k + m < 100 else 1)
    digest = "sha256:" + draw(HEX32)
    if draw(st.booleans()):
        digest = "sha512:" + draw(st.binary(min_size=64, max_size=64)).hex()
    coded = digest if how is Coding.IDENTITY and digest.startswith("sha256") else "sha256:" + draw(HEX32)
    content = size if how is Coding.IDENTITY else draw(st.integers(0, 1 << 26))
    return ObjectEntry(draw(st.integers(1, 0xFFFF_FFFF)), kind, how, digest, content, coded, geometry)


@given(st.lists(entries(), min_size=1, max_size=4))
def test_object_table_round_trip(found: list[ObjectEntry]) -> None:
    payload = encode_table(found, 512)
    assert len(payload) == 512
    assert parse_table(payload, 512) == found


@given(entries(), st.integers(0, 128 * 8 - 1))
def test_a_flipped_bit_of_an_entry_is_refused_or_another_entry(entry: ObjectEntry, at: int) -> None:
    raw = bytearray(entry.encode())
    raw[at // 8] ^= 1 << at % 8
    other, drop = outcome(lambda: parse_entry(bytes(raw), 512))
    assert drop in (None, Drop.BAD_OBJECT_TABLE, Drop.BAD_GEOMETRY, Drop.OBJECT_TOO_LARGE)
    assert other != entry


@given(st.binary(min_size=512, max_size=512), st.sampled_from((512, 528, 1_424)))
def test_random_tables_never_raise(payload: bytes, symbol: int) -> None:
    for found in parse_table(payload.ljust(symbol, b"\0"), symbol):
        assert isinstance(found, ObjectEntry | WireError)


def test_one_bad_entry_spoils_no_other() -> None:
    good = s.entry(b"content", toi=3)
    found = parse_table((s.entry(b"x", kind=9) + good).ljust(512, b"\0"), 512)
    assert isinstance(found[0], WireError)
    assert isinstance(found[1], ObjectEntry)
    assert found[1].toi == 3


def test_tables_are_filled_within_their_datagram() -> None:
    entry = parse_entry(s.entry(b"content"), 512)
    assert entries_per_datagram(512) == 4
    for wrong in ([], [entry] * 5):
        with pytest.raises(ProtocolMisuse):
            encode_table(wrong, 512)
    with pytest.raises(ProtocolMisuse):
        ObjectEntry(0, Kind.BLOB, Coding.IDENTITY, entry.digest, 7, entry.digest, entry.geometry).encode()
    with pytest.raises(ProtocolMisuse):
        ObjectEntry(1, Kind.BLOB, Coding.IDENTITY, "md5:00", 7, entry.digest, entry.geometry).encode()
    assert objects.ENTRY_BYTES == 128


# --- batches -------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(("sha256", "sha512")), st.binary(max_size=200)), min_size=1, max_size=20))
def test_batch_round_trip(bodies: list[tuple[str, bytes]]) -> None:
    members = [(f"{name}:{hashlib.new(name, body).hexdigest()}", body) for name, body in bodies]
    packed = batch.pack(members)
    assert list(batch.unpack(packed)) == members
    assert list(batch.unpack(memoryview(packed))) == members


def test_a_batch_is_whole_or_refused() -> None:
    members = [(digest_of(body), body) for body in (b"one", b"", b"three" * 10)]
    packed = batch.pack(members)
    for length in range(len(packed)):
        assert outcome(lambda: list(batch.unpack(packed[:length])))[1] is Drop.BAD_BATCH  # noqa: B023
    for at in range(len(packed)):
        for bit in range(8):
            changed = packed[:at] + bytes((packed[at] ^ 1 << bit,)) + packed[at + 1 :]
            assert outcome(lambda: list(batch.unpack(changed)))[1] is Drop.BAD_BATCH  # noqa: B023


@given(st.binary(max_size=200))
def test_random_batches_are_refused(data: bytes) -> None:
    assert outcome(lambda: list(batch.unpack(data)))[1] is Drop.BAD_BATCH
    assert outcome(lambda: list(batch.unpack(b"CVB1" + data)))[1] is Drop.BAD_BATCH


def test_batch_bounds_are_our_own_too() -> None:
    with pytest.raises(ProtocolMisuse):
        batch.pack([])
    with pytest.raises(ProtocolMisuse):
        batch.pack([(digest_of(b""), b"")] * (BATCH_MEMBERS_MAX + 1))
    with pytest.raises(ProtocolMisuse):
        batch.pack([("sha256:" + "0" * 64, bytes(BATCH_MEMBER_BYTES_MAX + 1))])
    with pytest.raises(ProtocolMisuse):
        batch.pack([("sha256:" + "0" * 64, bytes(BATCH_MEMBER_BYTES_MAX))] * 17)


# --- beacons -------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z", fullmatch=True)
NUMBERS = st.integers(1, NUMBER_MAX)
NEWEST = st.builds(Newest, NAMES, NUMBERS, HEX32.map("sha256:".__add__), st.integers(0, 0xFFFF_FFFF))


@given(st.lists(NEWEST, max_size=4), NUMBERS, st.booleans(), st.integers(0, 1 << 40), st.integers(0, NUMBER_MAX))
def test_beacon_round_trip(newest: list[Newest], sequence: int, closing: bool, clock: int, queued: int) -> None:
    sent = Beacon(sequence, clock, 3, 4, queued, closing, len(newest) + 2, tuple(newest))
    payload = sent.encode(512)
    assert len(payload) == 512
    assert parse_beacon(payload) == sent


def test_the_longest_names_fit_as_many_as_promised() -> None:
    for symbol in (512, 1_424, 9_136):
        most = newest_per_beacon(symbol)
        newest = tuple(Newest("x" * 64, 1, "sha256:" + "0" * 64, 0) for _ in range(most))
        assert len(Beacon(1, 0, 0, 0, 0, False, most, newest).encode(symbol)) == symbol


@given(st.binary(max_size=600))
def test_random_beacons_are_refused_or_read(payload: bytes) -> None:
    found, drop = outcome(lambda: parse_beacon(payload))
    assert (found is None) == (drop is Drop.BAD_BEACON)
    found, drop = outcome(lambda: parse_beacon(s.beacon(count=1, collections=1) + payload))
    assert (found is None) == (drop is Drop.BAD_BEACON)


@pytest.mark.parametrize(
    ("sequence", "collections", "name"),
    [(0, 1, "a"), (NUMBER_MAX + 1, 1, "a"), (1, 0, "a"), (1, COLLECTIONS_MAX + 1, "a"), (1, 1, "A"), (1, 1, "a\n")],
)
def test_beacons_refuse_to_say_what_would_be_refused(sequence: int, collections: int, name: str) -> None:
    newest = (Newest(name, 1, "sha256:" + "0" * 64, 0),)
    with pytest.raises(ProtocolMisuse):
        Beacon(sequence, 0, 0, 0, 0, False, collections, newest).encode(512)


def test_a_beacon_too_long_for_its_datagram_is_our_misuse() -> None:
    newest = tuple(Newest("x" * 64, 1, "sha256:" + "0" * 64, 0) for _ in range(6))
    with pytest.raises(ProtocolMisuse):
        Beacon(1, 0, 0, 0, 0, False, 6, newest).encode(512)
    assert beacon.CLOSING == 1
