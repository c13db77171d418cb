"""The capture role as a process, fed by a real encoder over loopback."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.batch import pack
from protocol.beacon import Newest
from protocol.geometry import LinkProfile
from protocol.objects import Kind
from protocol.ranges import RangeSet
from receiver.partials import partial_of
from tests.capture.rig import Cargo, Mouth, Side, Wire, end, is_symbol, rss_bytes, zstd
from tests.support.content import digest_of, some_bytes
from tests.support.waits import wait_for

Start = Callable[[], "subprocess.Popen[bytes]"]


def here(side: Side, *contents: bytes) -> bool:
    """Whether all of these are in the spool, with the right bytes."""
    spool = side.spool
    found = all(spool.size(digest_of(content)) == len(content) for content in contents)
    if found:
        for content in contents:
            spool.verify(digest_of(content))
    return found


def lossy(datagrams: list[bytes], ratio: float, seed: int = 1) -> list[bytes]:
    """Lose so many of the symbols, and none of the control datagrams."""
    draw = random.Random(seed)
    return [datagram for datagram in datagrams if not is_symbol(datagram) or draw.random() >= ratio]


def test_loss_is_repaired_and_the_figures_add_up(side: Side, start: Start, mouth: Mouth) -> None:
    process = start()
    data = some_bytes(3_000_000)
    sent = Wire(side).send([Cargo(data)])
    kept = lossy(sent, 0.03)
    mouth.say(kept)
    wait_for(lambda: here(side, data))
    assert end(process)[0] == 0
    counters = side.journal().counters()
    live = side.journal().live()["capture"][0]
    drops = sum(count for name, count in counters.items() if name.startswith("drop."))
    announcements = sum(datagram[3] == 1 for datagram in kept)
    control = sum(not is_symbol(datagram) for datagram in kept) - announcements
    assert counters["datagrams"] == len(kept)
    assert counters["symbols"] + counters["surplus"] + drops + control + announcements == len(kept)
    assert drops == 0
    assert counters["repaired"] > 0
    assert counters["lost"] == len(sent) - len(kept)
    assert live["state"] == "stopped"
    assert {name: live[name] for name in ("datagrams", "symbols", "surplus", "repaired", "blocks", "lost")} == {
        name: counters[name] for name in ("datagrams", "symbols", "surplus", "repaired", "blocks", "lost")
    }
    assert side.partials() == []


def test_counters_go_on_after_a_restart_and_count_nothing_twice(side: Side, start: Start, mouth: Mouth) -> None:
    total = 0
    for epoch in (1, 2):
        process = start()
        sent = Wire(side, epoch).idle(3)
        mouth.say(sent)
        total += len(sent)
        wait_for(lambda: side.journal().live().get("capture", ({}, 0))[0].get("datagrams") == len(sent))  # noqa: B023
        assert end(process)[0] == 0
        assert side.journal().counters()["datagrams"] == total


def test_random_order_and_duplicates(side: Side, start: Start, mouth: Mouth) -> None:
    start()
    data, small = some_bytes(1_500_000), some_bytes(900, 2)
    wire = Wire(side)
    head, body = wire.idle(0.3), wire.send([Cargo(data), Cargo(small)])
    random.Random(3).shuffle(body)
    mouth.say(head)
    mouth.say([datagram for datagram in body if not is_symbol(datagram)])  # what the table says, first
    mouth.say(body + body[:500])
    wait_for(lambda: here(side, data, small))
    wait_for(lambda: side.journal().counters().get("drop.replayed", 0) > 400)


def test_two_objects_at_once(side: Side, start: Start, mouth: Mouth) -> None:
    start()
    one, two = some_bytes(2_500_000, 1), some_bytes(2_500_000, 2)
    wire = Wire(side)
    sent = wire.send([Cargo(one), Cargo(two)])
    control = [datagram for datagram in sent if not is_symbol(datagram)]
    symbols = [datagram for datagram in sent if is_symbol(datagram)]
    half = len(symbols) // 2
    mixed = [each for pair in zip(symbols[:half], symbols[half:], strict=False) for each in pair] + symbols[
        2 * half :
    ]
    mouth.say(control)
    mouth.say(mixed)
    wait_for(lambda: here(side, one, two))


def test_a_killed_process_keeps_what_the_journal_claims_and_needs_only_the_rest(
    side: Side, start: Start, mouth: Mouth
) -> None:
    data = some_bytes(9_000_000)
    process = start()
    sent = Wire(side, 1).send([Cargo(data)])
    mouth.say(sent[: len(sent) * 6 // 10])
    wait_for(lambda: side.journal().ranges(digest_of(data)))
    end(process, signal.SIGKILL)
    ranges = side.journal().ranges(digest_of(data))
    content = side.partials()[0].read_bytes()
    for first, last in ranges:
        assert content[first:last] == data[first:last], "the journal never claims what is not on disk"
    kept = sum(last - first for first, last in ranges)
    assert kept > len(data) // 4
    start()
    # other datagrams, other repair, other blocks: what is on disk counts all the same
    again = Wire(side, 2, datagram_bytes=1024 + 48, profile=LinkProfile(1024, k=30, m=6, depth=7))
    mouth.say(again.send([Cargo(data)]))
    wait_for(lambda: here(side, data))
    wait_for(lambda: side.journal().counters().get("blocks", 0) > 0)
    stored = side.journal().counters()["symbols"]
    assert side.partials() == []
    assert stored < len(sent) + (len(data) - kept) / 1024 * 1.3


def test_an_object_that_was_whole_when_the_process_died_is_taken_in(side: Side, start: Start, mouth: Mouth) -> None:
    """Killed between the last range and the spool: nothing of it will be asked for again."""
    data = some_bytes(2_000_000)
    folder = side.state / "partial"
    folder.mkdir(parents=True)
    (folder / digest_of(data)[7:]).write_bytes(data)
    put_partial(side, data, [(0, len(data))])
    start()
    wait_for(lambda: here(side, data))
    wait_for(lambda: not side.partials() and not side.journal().partials())
    mouth.say(Wire(side).send([Cargo(data)]))


def put_partial(side: Side, data: bytes, ranges: list[tuple[int, int]]) -> None:
    journal = side.journal()
    journal.open_partial(partial_of(Cargo(data).entry()), 1.0)
    journal.save_ranges([(digest_of(data), ranges)], 1.0)
    journal.close()


def test_files_gone_short_or_wrong_behind_our_back_end_in_a_correct_blob(
    side: Side, start: Start, mouth: Mouth
) -> None:
    folder = side.state / "partial"
    folder.mkdir(parents=True)
    gone, short, wrong, whole_wrong = (some_bytes(1_000_000, seed) for seed in range(4))
    for data in (short, wrong, whole_wrong):
        (folder / digest_of(data)[7:]).write_bytes(data)
    os.truncate(folder / digest_of(short)[7:], 10_000)
    for data in (wrong, whole_wrong):
        with (folder / digest_of(data)[7:]).open("r+b") as file:
            file.seek(5_000)
            file.write(b"rot")
    (folder / "stray").write_bytes(b"of nobody")
    for data in (gone, short, wrong):
        put_partial(side, data, [(0, 600_000)])
    put_partial(side, whole_wrong, [(0, 1_000_000)])
    start()
    cargo = [Cargo(data) for data in (gone, short, wrong, whole_wrong)]
    wire = Wire(side)
    mouth.say(wire.send(cargo))
    wait_for(lambda: here(side, gone, short))
    wait_for(lambda: len(side.events("object_dropped")) >= 2)
    assert side.spool.size(digest_of(wrong)) is None
    time.sleep(0.1)
    mouth.say(wire.send(cargo))
    wait_for(lambda: here(side, gone, short, wrong, whole_wrong))
    wait_for(lambda: side.partials() == [])


def test_a_partial_file_removed_while_it_is_written_does_not_stop_anything(
    side: Side, start: Start, mouth: Mouth
) -> None:
    process = start()
    data, other = some_bytes(3_000_000), some_bytes(2_000_000, 2)
    wire = Wire(side)
    sent = wire.send([Cargo(data)])
    mouth.say(sent[: len(sent) // 2])
    wait_for(side.partials)[0].unlink()
    mouth.say(sent[len(sent) // 2 :])
    mouth.say(wire.send([Cargo(other)], first=2))
    wait_for(lambda: here(side, other))
    assert side.spool.size(digest_of(data)) is None
    mouth.say(wire.send([Cargo(data)]))
    wait_for(lambda: here(side, data))
    assert process.poll() is None


def test_content_that_vanishes_from_the_spool_is_received_again_in_the_same_session(
    side: Side, start: Start, mouth: Mouth
) -> None:
    start()
    data, member = some_bytes(400_000), b"a manifest"
    batch = pack([(digest_of(member), member), (digest_of(b"other"), b"other")])
    cargo = [Cargo(data), Cargo(batch, kind=Kind.BATCH)]
    wire = Wire(side)
    mouth.say(wire.send(cargo))
    wait_for(lambda: here(side, data, member))
    side.spool.remove(digest_of(data))  # as publish does with content that was damaged on disk
    side.spool.remove(digest_of(member))
    wait_for(lambda: len(side.events("object_gone")) == 2)
    mouth.say(wire.send(cargo))
    wait_for(lambda: here(side, data, member))


def test_an_epoch_used_twice_and_an_older_one_are_refused(side: Side, start: Start, mouth: Mouth) -> None:
    start()
    mouth.say(Wire(side, 5).idle(0.2))
    wait_for(lambda: side.events("session_joined"))
    data = some_bytes(5_000)
    mouth.say(Wire(side, 5).send([Cargo(data)]))
    mouth.say(Wire(side, 4).send([Cargo(data)]))
    wait_for(
        lambda: {"drop.epoch_reused", "drop.stale_epoch", "drop.unknown_session"} <= set(side.journal().counters())
    )
    assert side.spool.size(digest_of(data)) is None
    assert len(side.events("session_joined")) == 1
    mouth.say(Wire(side, 6).send([Cargo(data)]))
    wait_for(lambda: here(side, data))


def test_a_sender_with_another_key_gets_nowhere(side: Side, start: Start, mouth: Mouth) -> None:
    start()
    mouth.say(Wire(side, 9, signer=Ed25519PrivateKey.generate()).send([Cargo(b"forged")]))
    wait_for(lambda: side.journal().counters().get("drop.untrusted_sender", 0) > 0)
    assert side.journal().epochs() == {}
    assert list(side.spool.digests()) == []
    [told] = wait_for(lambda: side.events("session_refused"))
    assert told["reason"] == "untrusted_sender"


def junk(good: list[bytes], count: int) -> list[bytes]:
    draw, found = random.Random(9), []
    for number in range(count):
        victim = bytearray(draw.choice(good))
        match number % 6:
            case 0:
                found.append(draw.randbytes(draw.randint(1, 1472)))
            case 1:
                found.append(bytes(victim[: draw.randint(1, len(victim) - 1)]))
            case 2:
                found.append(bytes(victim) + draw.randbytes(draw.randint(1, 7_000)))
            case 3:
                victim[draw.randrange(len(victim))] ^= 1 << draw.randrange(8)
                found.append(bytes(victim))
            case 4:
                found.append(bytes(victim))  # replayed, or out of turn
            case _:
                found.append(bytes(victim[:8]) + draw.randbytes(len(victim) - 8))
    return found


def test_a_flood_of_junk_is_counted_and_the_transfer_completes(side: Side, start: Start, mouth: Mouth) -> None:
    process = start()
    data = some_bytes(2_000_000)
    wire = Wire(side)
    good = wire.send([Cargo(data)])
    mouth.say(wire.idle(0.0))
    noise = junk(good, 8_000)
    second = Mouth(side)
    mouth.say(good[:40])
    for at in range(40, len(good), 100):
        mouth.say(good[at : at + 100])
        second.say(noise[at * 2 : at * 2 + 200])
    second.say(noise[len(good) * 2 :])
    mouth.say(wire.send([Cargo(data)]))
    wait_for(lambda: here(side, data))
    assert rss_bytes(process) < 300 << 20
    assert end(process)[0] == 0
    counters = side.journal().counters()
    for reason in ("bad_magic", "truncated", "oversized", "not_authentic", "replayed", "bad_fragment"):
        assert counters.get(f"drop.{reason}", 0) > 0, reason
    second.close()


def test_a_reader_and_a_writer_in_the_journal_do_not_hold_up_the_socket(
    side: Side, start: Start, mouth: Mouth
) -> None:
    process = start()
    wire = Wire(side)
    mouth.say(wire.idle(0.2))
    wait_for(lambda: side.events("session_joined"))
    reader = sqlite3.connect(side.state / "journal.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM epochs").fetchall()
    writer = sqlite3.connect(side.state / "journal.sqlite", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    data = some_bytes(2_000_000)
    sent = wire.send([Cargo(data)])
    mouth.say(sent)
    assert end_of_socket_queue(side) == 0
    time.sleep(0.5)
    writer.execute("ROLLBACK")
    wait_for(lambda: here(side, data))
    reader.execute("ROLLBACK")
    wait_for(lambda: side.journal().counters().get("datagrams", 0) >= len(sent))
    assert side.journal().live()["capture"][0]["kernel_drops"] == 0
    assert end(process)[0] == 0


def end_of_socket_queue(side: Side) -> int:
    """Bytes that wait in the kernel for the role's socket, after a moment."""
    time.sleep(0.1)
    with open("/proc/net/udp") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if int(fields[1].split(":")[1], 16) == side.port:
                return int(fields[4].split(":")[1], 16)
    raise AssertionError("no such socket")


def test_sigterm_under_load_ends_soon_and_keeps_what_came(side: Side, start: Start, mouth: Mouth) -> None:
    process = start()
    data = some_bytes(12_000_000)
    sent = Wire(side).send([Cargo(data)])
    mouth.say(sent[: len(sent) // 2])
    wait_for(lambda: end_of_socket_queue(side) == 0)
    load = threading.Thread(target=mouth.say, args=[sent[len(sent) // 2 :]])
    load.start()
    code, seconds = end(process)
    load.join()
    assert (code, seconds < 5) == (0, True)
    have = RangeSet(side.journal().ranges(digest_of(data)))
    assert have.total > len(data) // 3
    assert side.journal().live()["capture"][0]["state"] == "stopped"


def test_objects_beyond_the_limits_are_refused_and_named(side: Side, start: Start, mouth: Mouth) -> None:
    side.config.write_text(side.config.read_text() + "limits: {object_size: 1MB, partial_space: 3MB}\n")
    start()
    content = some_bytes(1_500_000)
    good = some_bytes(500_000, 2)
    lying = Cargo(content, digest=digest_of(b"tiny"), content_size=4, coding=zstd(b"tiny").coding)
    mouth.say(Wire(side).send([Cargo(content), lying, Cargo(good)]))
    wait_for(lambda: here(side, good))
    wait_for(lambda: side.journal().counters().get("drop.object_too_large", 0) == 2)
    assert [event["reason"] for event in side.events("object_refused")] == ["limits.object_size"] * 2


def test_partial_objects_give_way_beyond_their_space_oldest_first(side: Side, start: Start, mouth: Mouth) -> None:
    side.config.write_text(side.config.read_text() + "limits: {object_size: 600kB, partial_space: 1500kB}\n")
    start()
    wire = Wire(side, profile=LinkProfile(1424, k=20, m=4, depth=4))
    datas = [some_bytes(600_000, seed) for seed in range(3)]
    for number, data in enumerate(datas, 1):
        sent = wire.send([Cargo(data)], first=number)
        mouth.say(sent[: len(sent) * 8 // 10])
        wait_for(lambda: side.journal().ranges(digest_of(data)))  # noqa: B023
    assert len(side.partials()) == 2
    assert {partial.digest for partial, _, _ in side.journal().partials()} == {digest_of(data) for data in datas[1:]}
    assert [event["digest"] for event in side.events("partial_given_up")] == [digest_of(datas[0])]
    mouth.say(wire.send([Cargo(data) for data in datas]))
    wait_for(lambda: here(side, *datas))


def test_what_beacons_name_reaches_the_journal(side: Side, start: Start, mouth: Mouth) -> None:
    start()
    wire = Wire(side)
    wire.session.encoder.newest = [Newest("default", 7, "sha256:" + "a" * 64, 0)]
    mouth.say(wire.idle(1.5))
    wait_for(lambda: side.journal().heard())
    assert side.journal().heard()["default"][:2] == (7, "sha256:" + "a" * 64)


def test_the_end_of_a_session_is_noted_until_another_begins(side: Side, start: Start, mouth: Mouth) -> None:
    start()

    def closed() -> float | None:
        moment: float | None = side.journal().live().get("capture", ({}, 0.0))[0].get("closed")
        return moment

    wire = Wire(side)
    mouth.say(wire.idle(1.5))
    wait_for(lambda: side.journal().live().get("capture", ({}, 0.0))[0].get("session"))
    assert closed() is None
    wire.session.encoder.close(wire.now)
    mouth.say(wire.idle(0.5))
    first = wait_for(closed)
    mouth.say(wire.idle(0.5))
    time.sleep(0.7)
    assert closed() == first
    mouth.say(Wire(side, epoch=2).idle(1.5))
    wait_for(lambda: closed() is None)


def test_a_thread_that_cannot_go_on_ends_the_process_with_a_line(side: Side, start: Start, mouth: Mouth) -> None:
    process = start()
    connection = sqlite3.connect(side.state / "journal.sqlite")
    connection.executescript(
        "CREATE TRIGGER broken BEFORE INSERT ON partials BEGIN SELECT RAISE(ABORT, 'an invariant'); END"
    )
    connection.close()
    mouth.say(Wire(side).send([Cargo(some_bytes(3_000_000))]))
    assert process.wait(20) == 1
    [failure] = side.events("assembler_failed")
    assert "an invariant" in failure["error"]
    assert side.journal().live()["capture"][0]["state"] == "stopped"


def test_a_journal_that_was_damaged_is_set_aside_at_the_start_and_reception_goes_on(
    side: Side, start: Start, mouth: Mouth
) -> None:
    process = start()
    mouth.say(Wire(side).send([Cargo(b"content")]))
    wait_for(lambda: here(side, b"content"))
    end(process, signal.SIGKILL)
    journal = side.state / "journal.sqlite"
    for path in (journal, journal.with_name("journal.sqlite-wal")):
        with path.open("r+b") as file:
            file.write(b"rot" * 40_000)
    start()
    [told] = side.events("journal_replaced")
    assert Path(told["set_aside"]).exists()
    mouth.say(Wire(side, 1).idle(0.3))  # the epoch of before is not new, though the journal forgot it
    wait_for(lambda: side.journal().counters().get("drop.epoch_reused"))
    mouth.say(Wire(side, 2).send([Cargo(b"more")]))
    wait_for(lambda: here(side, b"content", b"more"))
