"""Vectors of WIRE_FORMAT.md §4 (geometry, object table, codings, batches) and §5 (forward error correction)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import sha256, sha512

from tests.vectors import session as s
from tests.vectors.definition import blocks, geometry_table, order, pattern, repair_symbols
from tests.vectors.model import Vector

CONTENT = pattern(3_000)
SHORT = pattern(300)


def digest(data: bytes) -> str:
    return "sha256:" + sha256(data).hexdigest()


def geometry() -> Iterator[Vector]:
    for name, size, symbol_bytes, k, m, depth in (
        ("one-symbol", 1, 512, 1, 4, 1),
        ("exact", 512 * 8, 512, 4, 2, 2),
        ("shared-out", 512 * 25 + 1, 512, 4, 2, 2),
        ("virtual-zeros", 512 * 10, 512, 4, 2, 3),
        ("large", 12_345_678, 1_424, 200, 20, 44),
    ):
        inputs = geometry_inputs(size, symbol_bytes, k, m, depth)
        table = geometry_table(size, symbol_bytes, k, depth)
        yield Vector(f"geometry-{name}", "4-2", "geometry", "ok", (table,), inputs)
    for name, rule, values, expect in (
        ("k-zero", "4-1", (100, 512, 0, 1, 1), "bad_geometry"),
        ("m-zero", "4-1", (100, 512, 1, 0, 1), "bad_geometry"),
        ("codeword-too-long", "4-1", (100, 512, 200, 56, 1), "bad_geometry"),
        ("depth-zero", "4-1", (100, 512, 1, 1, 0), "bad_geometry"),
        ("depth-too-large", "4-1", (100, 512, 1, 1, 1_025), "bad_geometry"),
        ("block-too-large", "4-1", (100, 8_192, 200, 20, 10), "bad_geometry"),
        ("size-zero", "4-1", (0, 512, 1, 1, 1), "bad_geometry"),
        ("too-many-blocks", "4-1", (512 * ((1 << 20) + 1), 512, 1, 1, 1), "bad_geometry"),
        ("size-too-large", "4-1", ((1 << 40) + 1, 1_424, 200, 20, 44), "object_too_large"),
    ):
        yield Vector(f"geometry-{name}", rule, "geometry", expect, (b"",), geometry_inputs(*values))
    for name, size, k, m, depth in (("small", 512 * 10, 4, 2, 3), ("one-column", 512 * 3, 4, 1, 2)):
        _, symbols, columns, rows, _ = blocks(size, 512, k, depth)[0]
        positions = b"".join(struct.pack("<HH", *position) for position in order(symbols, columns, rows, m))
        inputs = geometry_inputs(size, 512, k, m, depth)
        yield Vector(f"interleaving-{name}", "4-3", "interleaving", "ok", (positions,), inputs)


def geometry_inputs(size: int, symbol_bytes: int, k: int, m: int, depth: int) -> dict[str, str]:
    return {
        "size": str(size),
        "symbol-bytes": str(symbol_bytes),
        "k": str(k),
        "m": str(m),
        "depth": str(depth),
    }


def table(name: str, rule: str, expect: str, payload: bytes, entries: str = "") -> Vector:
    inputs = {"symbol-bytes": "512"} | ({"entries": entries} if expect == "ok" else {})
    return Vector(name, rule, "object-table", expect, (payload.ljust(512, b"\0"),), inputs)


def tables() -> Iterator[Vector]:
    compressed = raw_frame(CONTENT)
    sha512_digest = sha512(CONTENT).digest()
    four = (
        s.entry(CONTENT)
        + s.entry(CONTENT, toi=2, kind=2)
        + s.entry(CONTENT, toi=3, kind=3, coding=1, coded=compressed)
        + s.entry(CONTENT, toi=0xFFFF_FFFF, algorithm=1, digest=sha512_digest)
    )
    entries = "; ".join(
        (
            f"1 BLOB IDENTITY 3000 3000 {digest(CONTENT)} {digest(CONTENT)}",
            f"2 BATCH IDENTITY 3000 3000 {digest(CONTENT)} {digest(CONTENT)}",
            f"3 RELEASE ZSTD 3000 {len(compressed)} {digest(CONTENT)} {digest(compressed)}",
            f"4294967295 BLOB IDENTITY 3000 3000 sha512:{sha512_digest.hex()} {digest(CONTENT)}",
        )
    )
    yield table("table-four-entries", "4.1-1", "ok", four, entries)
    bad = "bad_object_table"
    for name, wrong in (
        ("toi-zero", s.entry(CONTENT, toi=0)),
        ("kind-zero", s.entry(CONTENT, kind=0)),
        ("kind-unknown", s.entry(CONTENT, kind=4)),
        ("coding-unknown", s.entry(CONTENT, coding=2)),
        ("algorithm-unknown", s.entry(CONTENT, algorithm=2)),
        ("reserved-9-set", s.entry(CONTENT, reserved=b"\1\0\0\0\0")),
        ("reserved-12-set", s.entry(CONTENT, reserved=b"\0\1\0\0\0")),
        ("digest-padding-set", s.entry(CONTENT, digest=sha256(CONTENT).digest() + b"\1")),
    ):
        yield table(f"table-{name}", "4.1-1", bad, wrong)
    yield table("table-rest-not-zero", "4.1-2", bad, s.entry(CONTENT) + bytes(128) + b"\1")
    yield table("table-bad-geometry", "4-1", "bad_geometry", s.entry(CONTENT, k=0))
    yield table("table-identity-of-other-size", "4.1-3", bad, s.entry(CONTENT, content_size=2_999))
    yield table("table-identity-of-other-digest", "4.1-3", bad, s.entry(CONTENT, coded_digest=bytes(32)))
    large = "object_too_large"
    yield table("table-content-too-large", "4.1-4", large, s.entry(CONTENT, coding=1, content_size=(1 << 40) + 1))
    batch = s.entry(CONTENT, kind=2, coding=1, content_size=(64 << 20) + 1)
    yield table("table-batch-too-large", "4.1-4", large, batch)
    yield table("table-coded-too-large", "4.1-4", large, s.entry(CONTENT, coding=1, coded_size=(1 << 40) + 1))
    session = s.Session()
    first = session.control(s.OBJECTS, 0, s.entry(CONTENT))
    other = session.control(s.OBJECTS, 1, s.entry(CONTENT, m=3))
    inputs = {"events": "SessionOpened ObjectAnnounced"}
    parts = (*session.fragments(), first, other)
    yield Vector("table-toi-in-two-ways", "4.1-5", "datagrams", "object_conflict", parts, inputs)


def raw_frame(content: bytes) -> bytes:
    """A zstandard frame (RFC 8878 §3.1.1) of one raw block: single segment, content size in 4 bytes."""
    head = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(content))
    return head + struct.pack("<I", len(content) << 3 | 1)[:3] + content


def rle_frame(size: int, window: int = 0x50) -> bytes:
    """A frame without content size whose blocks each repeat one byte 128 Ki times: 4 bytes for 131,072."""
    blocks_needed = size // 131_072
    block = struct.pack("<I", 131_072 << 3 | 2)[:3] + b"\0"
    last = struct.pack("<I", 131_072 << 3 | 3)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\x00" + bytes((window,)) + block * (blocks_needed - 1) + last


def codings() -> Iterator[Vector]:
    def zstd(name: str, rule: str, expect: str, coded: bytes, size: int, content: bytes = SHORT) -> Vector:
        inputs = {"content-size": str(size), "content-sha256": sha256(content).hexdigest()}
        return Vector(name, rule, "zstd", expect, (coded,), inputs)

    frame = raw_frame(SHORT)
    yield zstd("zstd-raw-block", "4.2-1", "ok", frame, 300)
    yield zstd("zstd-repeated-byte", "4.2-1", "ok", rle_frame(1 << 20), 1 << 20, bytes(1 << 20))
    failed, overrun = "decompression_failed", "decompression_overrun"
    yield zstd("zstd-longer-than-declared", "4.2-2", overrun, frame, 299)
    yield zstd("zstd-bomb", "4.2-2", overrun, rle_frame(1 << 26), 1 << 20)
    yield zstd("zstd-shorter-than-declared", "4.2-2", failed, frame, 301)
    yield zstd("zstd-truncated", "4.2-2", failed, frame[:-1], 300)
    yield zstd("zstd-trailing-bytes", "4.2-1", failed, frame + b"trailing", 300)
    yield zstd("zstd-not-a-frame", "4.2-1", failed, SHORT, 300)
    yield zstd("zstd-window-of-16-mib", "4.2-3", failed, rle_frame(1 << 20, 0x70), 1 << 20)


def member(body: bytes, algorithm: int = 0, size: int | None = None, reserved: bytes = bytes(3)) -> bytes:
    hashed = sha512(body) if algorithm == 1 else sha256(body)
    return bytes((algorithm,)) + reserved + struct.pack("<I", len(body) if size is None else size) + hashed.digest()


def batches() -> Iterator[Vector]:
    def batch(name: str, rule: str, expect: str, data: bytes, members: str = "") -> Vector:
        return Vector(name, rule, "batch", expect, (data,), {"members": members} if members else {})

    one, two, empty = b'{"schemaVersion":2}', pattern(40), b""
    head = b"CVB1" + struct.pack("<I", 3)
    good = head + member(one) + member(two, 1) + member(empty) + one + two
    members = f"{digest(one)} sha512:{sha512(two).hexdigest()} {digest(empty)}"
    yield batch("batch-three-members", "4.3-1", "ok", good, members)
    bad = "bad_batch"
    yield batch("batch-wrong-magic", "4.3-1", bad, b"X" + good[1:])
    yield batch("batch-no-member", "4.3-1", bad, b"CVB1" + bytes(4))
    yield batch("batch-too-many-members", "4.3-1", bad, b"CVB1" + struct.pack("<I", 4_097) + good[8:])
    yield batch("batch-truncated", "4.3-2", bad, good[:-1])
    yield batch("batch-trailing-byte", "4.3-2", bad, good + b"\0")
    single = b"CVB1" + struct.pack("<I", 1)
    yield batch("batch-unknown-algorithm", "4.3-1", bad, single + b"\2" + member(one)[1:] + one)
    yield batch("batch-reserved-set", "4.3-1", bad, single + member(one, reserved=b"\1\0\0") + one)
    yield batch("batch-member-too-large", "4.3-1", bad, single + member(one, size=(4 << 20) + 1) + one)
    yield batch("batch-member-of-other-digest", "4.3-3", bad, single + member(one) + one[:-1] + b"]")


def codewords() -> Iterator[Vector]:
    for k, m, symbol_bytes in ((1, 1, 16), (1, 4, 16), (4, 2, 32), (10, 5, 16)):
        source = pattern(k * symbol_bytes)
        repair = b"".join(repair_symbols(k, m, source))
        yield Vector(f"fec-{k}-{m}", "5-2", "fec", "ok", (source, repair), {"k": str(k), "m": str(m)})
    for k, m in ((200, 20), (127, 128), (254, 1)):
        repair = b"".join(repair_symbols(k, m, pattern(k * 16)))
        inputs = {"k": str(k), "m": str(m), "symbol-bytes": "16"}
        yield Vector(f"fec-{k}-{m}", "5-2", "fec-digest", "ok", (sha256(repair).digest(),), inputs)
    padded = CONTENT.ljust(6 * 512, b"\0")
    repair = b"".join(repair_symbols(3, 2, padded[1_536:]))
    yield Vector("fec-last-symbol-padded", "5-1", "fec", "ok", (padded[1_536:], repair), {"k": "3", "m": "2"})
    short = pattern(2 * 512) + bytes(2 * 512)  # the last codeword of geometry-virtual-zeros: two of four symbols
    repair = b"".join(repair_symbols(4, 2, short))
    yield Vector("fec-virtual-zeros", "5-1", "fec", "ok", (short, repair), {"k": "4", "m": "2"})


def vectors() -> Iterator[Vector]:
    yield from geometry()
    yield from tables()
    yield from codings()
    yield from batches()
    yield from codewords()
