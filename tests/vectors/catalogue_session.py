"""Vectors of WIRE_FORMAT.md §2 (datagrams), §3 (announcements) and §3.2 (fragments)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

from tests.vectors import session as s
from tests.vectors.definition import order, pattern, repair_symbols
from tests.vectors.model import Vector


def receiver_id(name: str) -> bytes:
    return s.key_id(s.agreement_key(name))


SESSION = s.Session()
MANY = replace(SESSION, receivers=tuple(sorted((f"receiver {i}" for i in range(9)), key=receiver_id)))
CONTENT = pattern(3_000)  # six symbols: two codewords of k' = 3
OPENED = "SessionOpened"


def flip(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]


def whole_object(session: s.Session, first_number: int) -> list[bytes]:
    """Return the symbols of CONTENT in wire order: k = 4, m = 2, depth = 2, so D' = 2 and k' = 3."""
    padded = CONTENT.ljust(6 * s.SYMBOL_BYTES, b"\0")
    half = 3 * s.SYMBOL_BYTES
    columns = [padded[:half], padded[half:]]
    repair = [repair_symbols(3, 2, column) for column in columns]
    datagrams = []
    for row, column in order(6, 2, 3, 2):
        source = columns[column][row * s.SYMBOL_BYTES : (row + 1) * s.SYMBOL_BYTES]
        payload = source if row < 3 else repair[column][row - 3]
        datagrams.append(session.symbol(first_number + len(datagrams), payload, row=row, column=column))
    return datagrams


def datagrams(name: str, rule: str, expect: str, parts: list[bytes], events: str, **inputs: str) -> Vector:
    return Vector(name, rule, "datagrams", expect, tuple(parts), {"events": events, **inputs})


def headers() -> Iterator[Vector]:
    head = s.header(4, b"\x01\x02\x03\x04", 0x0102030405060708, 0x11121314, 0x21222324, 0x3132, 0x4142)
    fields = {
        "version": "1",
        "type": "4",
        "tag": str(0x04030201),
        "number": str(0x0102030405060708),
        "toi": str(0x11121314),
        "sbn": str(0x21222324),
        "row": str(0x3132),
        "column": str(0x4142),
        "reserved": "0",
    }
    yield Vector("header", "2-1", "header", "ok", (head,), fields)
    for name, rule, reason, at in (
        ("datagram-wrong-magic", "2-2", "bad_magic", 0),
        ("datagram-wrong-version", "2-3", "bad_version", 2),
        ("datagram-unknown-type", "2-4", "bad_type", 3),
        ("datagram-reserved-set", "2-5", "bad_field", 28),
    ):
        beacon = SESSION.control(s.BEACON, 0, s.beacon())
        yield datagrams(name, rule, reason, [*SESSION.fragments(), flip(beacon, at, 7)], OPENED)
    for at in (28, 31):
        wrong = flip(SESSION.symbol(0, bytes(512)), at)
        yield datagrams(f"symbol-reserved-{at}-set", "2-5", "bad_field", [*SESSION.fragments(), wrong], OPENED)
    yield datagrams("datagram-shorter-than-header", "2-1", "truncated", [s.header(4, SESSION.tag)[:31]], "")


def sealed() -> Iterator[Vector]:
    start = SESSION.fragments()
    table = SESSION.control(s.OBJECTS, 0, s.entry(CONTENT))
    symbols = whole_object(SESSION, 1)
    received = {"content-sha256": sha256(CONTENT).hexdigest()}
    complete = f"{OPENED} ObjectAnnounced BlockComplete"
    yield datagrams("session-one-object", "2-6", "ok", [*start, table, *symbols[:6]], complete, **received)
    lossy = [*start, table, *symbols[4:]]
    yield datagrams("session-two-losses-a-codeword", "5-3", "ok", lossy, complete, **received)
    late = [*start, table, *reversed(symbols)]
    yield datagrams("session-reversed-order", "2-8", "ok", late, complete, **received)
    beacon = SESSION.control(s.BEACON, 0, s.beacon())
    yield datagrams("session-beacon", "2-6", "ok", [*start, beacon], f"{OPENED} BeaconReceived")
    for name, at in (("header", 17), ("ciphertext", 40), ("tag", 559)):
        parts = [*start, flip(symbols[0], at)]
        yield datagrams(f"symbol-{name}-bit-flipped", "2-6", "not_authentic", parts, OPENED)
    yield datagrams("beacon-bit-flipped", "2-6", "not_authentic", [*start, flip(beacon, 100)], OPENED)
    other = replace(SESSION, name="session 2")
    foreign = SESSION.tag + other.symbol(9, bytes(512))[8:]
    wrong_key = other.symbol(9, bytes(512))[:4] + foreign
    yield datagrams("symbol-of-another-key", "2-6", "not_authentic", [*start, wrong_key], OPENED)
    yield datagrams("symbol-unknown-session", "2-11", "unknown_session", [symbols[0]], "")
    yield datagrams("symbol-too-short", "2-7", "truncated", [*start, symbols[0][:-16]], OPENED)
    yield datagrams("symbol-too-long", "2-7", "oversized", [*start, symbols[0] + bytes(16)], OPENED)
    again = [*start, table, symbols[0], symbols[0], table]
    yield datagrams("symbol-and-table-replayed", "2-8", "replayed", again, f"{OPENED} ObjectAnnounced", drops="2")
    lane = SESSION.symbol(1 << 56, bytes(512))
    yield datagrams("symbol-of-unannounced-lane", "2-9", "bad_field", [*start, lane], OPENED)
    control = SESSION.seal(s.header(s.BEACON, SESSION.tag, 0, toi=1), s.beacon().ljust(512, b"\0"))
    yield datagrams("beacon-with-toi-in-header", "2-10", "bad_field", [*start, control], OPENED)
    yield datagrams("symbol-before-its-table", "2-12", "unknown_object", [*start, symbols[0]], OPENED)
    for name, position in (
        ("sbn", {"sbn": 1}),
        ("row", {"row": 5}),
        ("column", {"column": 2}),
    ):
        wrong = SESSION.symbol(50, bytes(512), **position)
        parts = [*start, table, wrong]
        events = f"{OPENED} ObjectAnnounced"
        yield datagrams(f"symbol-{name}-outside-geometry", "2-13", "bad_position", parts, events)


def announcement(name: str, rule: str, expect: str, session: s.Session, data: bytes | None = None) -> Vector:
    inputs = {"receiver": "receiver", "session-key": session.session_key.hex()}
    if expect == "ok":
        inputs["traffic-key"] = session.traffic_key.hex()
    return Vector(name, rule, "announcement", expect, (session.announcement if data is None else data,), inputs)


def announcements() -> Iterator[Vector]:
    good = SESSION.announcement
    yield announcement("announcement", "3-1", "ok", SESSION)
    two = tuple(sorted(("receiver", "another receiver"), key=receiver_id))
    yield announcement("announcement-two-receivers", "3-4", "ok", replace(SESSION, receivers=two))
    yield announcement("announcement-two-lanes", "3-5", "ok", replace(SESSION, lanes=2))
    bad = "bad_announcement"
    yield announcement("announcement-truncated", "3-1", bad, SESSION, good[:-1])
    yield announcement("announcement-trailing-byte", "3-1", bad, SESSION, good + b"\0")
    yield announcement("announcement-wrong-magic", "3-1", bad, SESSION, flip(good, 3))
    for name, value in (("signature", b"\x02\x01"), ("key", b"\x01\x02")):
        yield announcement(f"announcement-unknown-{name}-suite", "3-1", bad, replace(SESSION, suites=value))
    yield announcement("announcement-reserved-set", "3-1", bad, replace(SESSION, reserved=b"\0\0\0\1"))
    stranger = replace(SESSION, sender="stranger")
    yield announcement("announcement-untrusted-sender", "3-2", "untrusted_sender", stranger)
    yield announcement("announcement-signed-by-another", "3-3", "bad_signature", replace(SESSION, signer="stranger"))
    for name, at in (("epoch", 8), ("session-id", 16), ("wrapped-key", 150), ("signature", 200)):
        yield announcement(f"announcement-{name}-bit-flipped", "3-3", "bad_signature", SESSION, flip(good, at))
    backwards = tuple(reversed(two))
    yield announcement("announcement-receivers-descending", "3-4", bad, replace(SESSION, receivers=backwards))
    twice = ("receiver", "receiver")
    yield announcement("announcement-receiver-twice", "3-4", bad, replace(SESSION, receivers=twice))
    yield announcement("announcement-no-receiver", "3-4", bad, replace(SESSION, receivers=()))
    yield announcement("announcement-receiver-missing", "3-4", bad, replace(SESSION, receiver_count=2))
    for name, change in (
        ("datagrams-too-small", {"datagram_bytes": 544}),
        ("datagrams-too-big", {"datagram_bytes": 9_200}),
        ("datagrams-unaligned", {"datagram_bytes": 561}),
        ("no-lane", {"lanes": 0}),
        ("too-many-lanes", {"lanes": 257}),
        ("epoch-zero", {"epoch": 0}),
        ("epoch-too-big", {"epoch": 1 << 63}),
        ("created-after-9999", {"created_ms": 253_402_300_800_000}),
    ):
        yield announcement(f"announcement-{name}", "3-5", bad, replace(SESSION, **change))
    third = replace(SESSION, epoch=9, name="session 3")
    yield announcement("announcement-traffic-key", "3-7", "ok", third)
    not_ours = replace(SESSION, receivers=("another receiver",))
    yield announcement("announcement-not-for-us", "3-6", "not_for_us", not_ours)
    wrong_info = replace(SESSION, overrides={"receiver": replace(SESSION, epoch=8).wrapped("receiver")})
    yield announcement("announcement-key-wrapped-for-another-epoch", "3-6", "bad_session_key", wrong_info)
    low_order = replace(SESSION, overrides={"receiver": bytes(32) + SESSION.wrapped("receiver")[32:]})
    yield announcement("announcement-low-order-point", "3-6", "bad_session_key", low_order)


def epochs() -> Iterator[Vector]:
    start = SESSION.fragments()
    newer = replace(SESSION, epoch=8, name="session 2")
    both = f"{OPENED} {OPENED}"
    yield datagrams("epoch-higher-takes-over", "3-8", "ok", [*start, *newer.fragments()], both)
    gone = [*start, *newer.fragments(), SESSION.control(s.BEACON, 0, s.beacon())]
    yield datagrams("epoch-older-session-is-closed", "3-8", "unknown_session", gone, both)
    yield datagrams("epoch-replayed-older-session", "3-8", "stale_epoch", [*newer.fragments(), *start], OPENED)
    remembered = {"remembered-epoch": f"8 {newer.session_id.hex()}"}
    yield datagrams("epoch-older-than-remembered", "3-8", "stale_epoch", start, "", **remembered)
    resumed = {"remembered-epoch": f"7 {SESSION.session_id.hex()}"}
    yield datagrams("epoch-resumed-after-restart", "3-8", "ok", start, OPENED, **resumed)
    same_epoch = replace(SESSION, name="session 2")
    yield datagrams("epoch-used-twice", "3-8", "epoch_reused", [*start, *same_epoch.fragments()], OPENED)
    yield datagrams("announcement-repeated", "3-9", "ok", start * 3, OPENED)
    rewrapped = replace(SESSION, ephemeral="second ephemeral")
    yield datagrams("session-announced-in-two-ways", "3-9", "epoch_reused", [*start, *rewrapped.fragments()], OPENED)


def fragments() -> Iterator[Vector]:
    digest = {"announcement-sha256": sha256(MANY.announcement).hexdigest()}
    many = MANY.fragments()
    one = replace(SESSION, datagram_bytes=1_472)
    inputs = {"announcement-sha256": sha256(one.announcement).hexdigest()}
    yield Vector("fragment-single", "3.2-1", "fragments", "ok", tuple(one.fragments()), inputs)
    yield Vector("fragments-in-order", "3.2-1", "fragments", "ok", tuple(many), digest)
    yield Vector(
        "fragments-reversed-and-doubled", "3.2-2", "fragments", "ok", (*many[:0:-1], *many[:0:-1], many[0]), digest
    )
    forged = flip(many[0], 60)
    yield Vector("fragment-forged-then-genuine", "3.2-3", "fragments", "ok", (forged, *many), digest)
    liar = s.fragment(MANY.tag, 2, many[0][32:40], 3, 512, 1_500, bytes(476), 560)
    identifier = many[0][32:40]
    piece = MANY.announcement[:512]
    bad = "bad_fragment"

    def fragment(index: int, count: int, size: int, total: int, body: bytes = piece) -> bytes:
        return s.fragment(MANY.tag, index, identifier, count, size, total, body[:size], 560)

    yield Vector("fragment-size-too-large", "3.2-1", "fragments", bad, (liar,), digest)
    yield Vector("fragment-index-beyond-count", "3.2-1", "fragments", bad, (fragment(3, 3, 512, 1_500),), digest)
    yield Vector("fragment-count-zero", "3.2-1", "fragments", bad, (fragment(0, 0, 512, 512),), digest)
    yield Vector("fragment-count-too-large", "3.2-1", "fragments", bad, (fragment(0, 129, 512, 65_536),), digest)
    yield Vector("fragment-total-too-large", "3.2-1", "fragments", bad, (fragment(0, 128, 512, 65_537),), digest)
    yield Vector("fragment-not-filled", "3.2-1", "fragments", bad, (fragment(0, 3, 511, 1_500),), digest)
    yield Vector("fragment-last-of-wrong-size", "3.2-1", "fragments", bad, (fragment(2, 3, 100, 1_200),), digest)
    yield Vector("fragment-padding-not-zero", "3.2-1", "fragments", bad, (flip(many[-1], 559),), digest)
    yield Vector("fragments-do-not-match-id", "3.2-2", "fragments", bad, (flip(many[0], 60), *many[1:]), digest)
    number = bytearray(SESSION.fragments()[0])
    number[8] = 1
    yield datagrams("fragment-with-packet-number", "3.2-4", "bad_field", [bytes(number)], "")
    yield datagrams("fragment-with-another-session-tag", "3.2-4", bad, [flip(SESSION.fragments()[0], 4)], "")


def vectors() -> Iterator[Vector]:
    yield from headers()
    yield from sealed()
    yield from announcements()
    yield from epochs()
    yield from fragments()
