"""Runs a vector through the product's decoder or parser and says what came of it: "ok" or the drop reason."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

from protocol import batch, beacon, coding, release, repair_code
from protocol.announcement import open_announcement, traffic_key, unwrap_session_key
from protocol.decoder import Decoder, ReceiveBuffer
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.events import BlockAbandoned, BlockComplete, Event, ObjectAnnounced
from protocol.fec import BACKENDS
from protocol.fragments import Assembler
from protocol.geometry import checked
from protocol.objects import parse_table
from protocol.ranges import RangeSet
from protocol.repair_text import BadRepairCode
from protocol.trust import ReleaseMark, Remembered, RequiredApprovals, TrustedSenders
from protocol.wire import HEADER
from tests.vectors import definition
from tests.vectors.model import Vector
from tests.vectors.session import agreement_key, key_id, signing_key


def outcome(vector: Vector) -> str:
    """Return "ok" or a drop reason; AssertionError if an accepted vector does not mean what its header says."""
    try:
        CHECKS[vector.kind](vector)
    except WireError as error:
        return error.drop.value
    except BadRepairCode:
        return "refused"
    return "ok"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def trusted_of(vector: Vector) -> TrustedSenders:
    names = vector.inputs.get("trusted", "sender").split()
    return TrustedSenders.of(*(signing_key(name).public_key() for name in names))


def check_header(vector: Vector) -> None:
    names = ("magic", "version", "type", "tag", "number", "toi", "sbn", "row", "column", "reserved")
    found = dict(zip(names, HEADER.unpack(vector.parts[0]), strict=True))
    assert {name: str(value) for name, value in found.items() if name != "magic"} == vector.inputs
    assert found["magic"] == b"CV"


def check_announcement(vector: Vector) -> None:
    announcement = open_announcement(vector.parts[0], trusted_of(vector))
    key = unwrap_session_key(announcement, agreement_key(vector.inputs.get("receiver", "receiver")))
    assert key.hex() == vector.inputs["session-key"]
    assert traffic_key(key, announcement.signed).hex() == vector.inputs["traffic-key"]


def check_fragments(vector: Vector) -> None:
    assembler = Assembler()
    whole = [found for datagram in vector.parts if (found := assembler.add(datagram)) is not None]
    assert [sha256(one) for one in whole] == [vector.inputs["announcement-sha256"]]


def decoder_for(vector: Vector) -> Decoder:
    remembered = Remembered()
    if "remembered-epoch" in vector.inputs:
        epoch, session_id = vector.inputs["remembered-epoch"].split()
        remembered.epochs[key_id(signing_key("sender"))] = (int(epoch), bytes.fromhex(session_id))
    return Decoder(trusted_of(vector), agreement_key("receiver"), remembered)


def bursts_of(parts: tuple[bytes, ...]) -> list[tuple[bytes, int]]:
    """One burst for each run of datagrams of one size, as GRO delivers them."""
    bursts: list[tuple[bytes, int]] = []
    for part in parts:
        if bursts and bursts[-1][1] == len(part):
            bursts[-1] = (bursts[-1][0] + part, len(part))
        else:
            bursts.append((part, len(part)))
    return bursts


def receive(vector: Vector, bursts: list[tuple[bytes, int]]) -> tuple[dict[str, int], list[str], dict[str, bytes]]:
    """Return drops by reason, names of events, and the content received by object digest."""
    decoder, buffer = decoder_for(vector), ReceiveBuffer()
    events: list[Event] = []
    contents: dict[str, bytearray] = {}
    for burst, size in bursts:
        buffer.memory[: len(burst)] = burst
        for event in decoder.receive_burst(buffer, len(burst), size):
            events.append(event)
            if isinstance(event, ObjectAnnounced):
                decoder.want(event.object, RangeSet())
                contents[event.object.entry.coded_digest] = bytearray(event.object.entry.geometry.size)
            elif isinstance(event, BlockComplete | BlockAbandoned):
                event.block.restore()
                for offset, data in event.block.finished():
                    contents[event.block.owner.entry.coded_digest][offset : offset + len(data)] = data
                decoder.give_back(event.block)
    drops = {drop.value: count for drop, count in decoder.counters.drops.items()}
    return drops, [type(event).__name__ for event in events], {key: bytes(data) for key, data in contents.items()}


def check_datagrams(vector: Vector) -> None:
    single = receive(vector, [(part, len(part)) for part in vector.parts])
    burst = receive(vector, bursts_of(vector.parts))
    assert single[0] == burst[0], "bursts and single datagrams must be dropped alike"
    drops, events, contents = single
    assert " ".join(events) == vector.inputs["events"], events
    if "content-sha256" in vector.inputs:
        assert [sha256(content) for content in contents.values()] == [vector.inputs["content-sha256"]]
    if drops:
        assert drops == {vector.expect: int(vector.inputs.get("drops", "1"))}, drops
        raise WireError(Drop(vector.expect), "counted")


def check_table(vector: Vector) -> None:
    found = parse_table(vector.parts[0], int(vector.inputs["symbol-bytes"]))
    for one in found:
        if isinstance(one, WireError):
            raise one
    entries = [one for one in found if not isinstance(one, WireError)]
    described = [
        f"{e.toi} {e.kind.name} {e.coding.name} {e.content_size} {e.geometry.size} {e.digest} {e.coded_digest}"
        for e in entries
    ]
    assert "; ".join(described) == vector.inputs["entries"]


def check_geometry(vector: Vector) -> None:
    values = (int(vector.inputs[name]) for name in ("size", "symbol-bytes", "k", "m", "depth"))
    geometry = checked(*values)
    shapes = [geometry.block(sbn) for sbn in range(geometry.blocks)]
    table = b"".join(struct.pack("<IQIHHQ", s.sbn, s.offset, s.symbols, s.depth, s.k, s.size) for s in shapes)
    assert table == vector.parts[0]


def check_interleaving(vector: Vector) -> None:
    values = (int(vector.inputs[name]) for name in ("size", "symbol-bytes", "k", "m", "depth"))
    shape = checked(*values).block(0)
    positions = [
        (row, column) for row in range(shape.rows) for column in range(shape.depth) if shape.sends(row, column)
    ]
    assert b"".join(struct.pack("<HH", *position) for position in positions) == vector.parts[0]
    assert len(positions) == shape.datagrams


def check_fec(vector: Vector) -> None:
    k, m = int(vector.inputs["k"]), int(vector.inputs["m"])
    for backend in BACKENDS.values():
        repair = b"".join(bytes(symbol) for symbol in backend(k, m).encode(vector.parts[0]))
        assert repair == vector.parts[1]


def check_fec_digest(vector: Vector) -> None:
    k, m, size = (int(vector.inputs[name]) for name in ("k", "m", "symbol-bytes"))
    for backend in BACKENDS.values():
        repair = b"".join(bytes(symbol) for symbol in backend(k, m).encode(definition.pattern(k * size)))
        assert hashlib.sha256(repair).digest() == vector.parts[0]


def check_beacon(vector: Vector) -> None:
    found = beacon.parse_beacon(vector.parts[0])
    names = ", ".join(f"{n.collection} {n.sequence} {n.digest} {n.toi}" for n in found.newest)
    described = (
        f"{found.sequence} {found.clock_ms} {found.toi} {found.sbn} {found.queued_bytes}"
        f" {'closing' if found.closing else 'open'} {found.collections}: {names}"
    )
    assert described == vector.inputs["beacon"]
    assert found.encode(len(vector.parts[0])) == vector.parts[0]


def check_batch(vector: Vector) -> None:
    members = list(batch.unpack(vector.parts[0]))
    assert " ".join(digest for digest, _ in members) == vector.inputs["members"]
    assert batch.pack(members) == vector.parts[0]


def check_zstd(vector: Vector) -> None:
    content = b"".join(coding.decompress([vector.parts[0]], int(vector.inputs["content-size"])))
    assert sha256(content) == vector.inputs["content-sha256"]


def check_release(vector: Vector) -> None:
    threshold, *names = vector.inputs.get("approvers", "0").split()
    keys = [signing_key(name).public_key() for name in names]
    approvals = {"default": RequiredApprovals.of(int(threshold), *keys)} if names else None
    opened = release.open_release(vector.parts[0], trusted_of(vector), approvals)
    found = opened.release
    images = ", ".join(f"{image.name}:{'|'.join(image.tags)}" for image in found.images)
    assert f"{found.collection} {found.sequence} {opened.digest} {images}" == vector.inputs["release"]


def check_release_order(vector: Vector) -> None:
    mark = None
    for envelope in vector.parts:
        opened = release.open_release(envelope, trusted_of(vector))
        release.check_order(opened, mark)
        mark = ReleaseMark(opened.release.sequence, opened.digest)


def check_repair_code(vector: Vector) -> None:
    text = vector.parts[0].decode()
    sections, mended = repair_code.decode(text)
    assert "; ".join(map(described, sections)) == vector.inputs["code"]
    assert str(mended) == vector.inputs["mended"]
    assert repair_code.decode(repair_code.encode(sections)) == (sections, 0)


def described(section: repair_code.Section) -> str:
    words = [str(section.sequence), f"{section.digest:07x}", "release" if section.release else "-"]
    words += [spans(section.whole)] if section.whole else []
    words.append("|")
    for piece in section.pieces:
        words.append(f"{section.symbol_bytes}: {piece.content} {piece.coded:04x} {piece.blocks}")
        words.append(spans(piece.missing))
    return " ".join(words)


def spans(ranges: repair_code.Ranges) -> str:
    return ",".join(f"{first}-{end - 1}" for first, end in ranges)


CHECKS: dict[str, Callable[[Vector], None]] = {
    "header": check_header,
    "announcement": check_announcement,
    "fragments": check_fragments,
    "datagrams": check_datagrams,
    "object-table": check_table,
    "geometry": check_geometry,
    "interleaving": check_interleaving,
    "fec": check_fec,
    "fec-digest": check_fec_digest,
    "beacon": check_beacon,
    "batch": check_batch,
    "zstd": check_zstd,
    "release": check_release,
    "release-order": check_release_order,
    "repair-code": check_repair_code,
}
