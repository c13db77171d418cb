"""The audit log as files: what a chain shows of changes, crashes, full disks and several writers."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver import audit as module
from receiver.audit import LINE_BYTES_MAX, NO_LINE, TORN, Audit, Broken, Head
from runtime.errors import UserError

LINES = 6


@pytest.fixture
def log(tmp_path: Path) -> Audit:
    return Audit(tmp_path / "state/audit.jsonl", "publish")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("written") / "audit.jsonl"
    made = Audit(path, "publish")
    for number in range(LINES):
        made.append("held", object=f"quay.io/app@sha256:{number}", reason="ünsigned", size=number * 1.5)
    return path.read_bytes()


def test_a_record_says_who_did_what_to_what_and_why(log: Audit) -> None:
    assert log.head() == Head(0, NO_LINE)
    first = log.append("held", object="quay.io/app@sha256:0", reason="unsigned", sizes=[1, 2])
    second = log.append("released", object="quay.io/app@sha256:0", reason="vendor\nsigns later", actor="alice")
    assert (first.seq, first.actor, first.previous, first.facts) == (1, "publish", NO_LINE, {"sizes": [1, 2]})
    assert (second.seq, second.actor, second.previous) == (2, "alice", first.hash)
    assert second.reason == "vendor\nsigns later"
    assert list(log.records()) == [first, second]
    assert log.head() == Head(2, second.hash)
    assert log.verify() == (2, None)
    assert log.verify(first.hash[:16].upper()) == (2, first)
    assert oct(log.path.stat().st_mode & 0o777) == "0o640"
    assert [json.loads(line)["seq"] for line in log.path.read_text().splitlines()] == [1, 2]


def test_the_log_has_to_be_there_and_a_head_has_to_be_one(log: Audit) -> None:
    with pytest.raises(UserError, match="no audit log here yet"):
        log.verify()
    log.append("held")
    for text in ("", "abc", "z" * 64, "0" * 65):
        with pytest.raises(UserError, match="is no hash of a line"):
            log.verify(text)
    with pytest.raises(Broken, match="no line has the hash"):
        log.verify("0" * 64)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_any_line_is_found_and_named(tmp_path: Path, written: bytes, data: st.DataObject) -> None:
    """Of the newest line only its note on paper tells; of each other one the line after it."""
    lines = written.splitlines(keepends=True)
    at = data.draw(st.integers(0, LINES - 1), label="line")
    kind = data.draw(st.sampled_from(["bit", "drop", "swap", "twice", "cut"]))
    changed = list(lines)
    if kind == "bit":
        raw = bytearray(changed[at])
        raw[data.draw(st.integers(0, len(raw) - 2))] ^= 1 << data.draw(st.integers(0, 7))
        changed[at] = bytes(raw)
    elif kind == "drop":
        del changed[at]
    elif kind == "swap":
        other = data.draw(st.integers(0, LINES - 1).filter(lambda n: n != at))
        changed[at], changed[other] = changed[other], changed[at]
    elif kind == "twice":
        changed.insert(at, changed[at])
    else:
        changed[at:] = []
    log = Audit(tmp_path / "changed.jsonl")
    log.path.write_bytes(b"".join(changed))
    noted = Audit(tmp_path / "written.jsonl")
    noted.path.write_bytes(written)
    with pytest.raises(Broken):
        log.verify(noted.head().hash)
    if kind in ("bit", "drop", "swap", "twice") and at < LINES - 1:
        with pytest.raises(Broken) as raised:
            log.verify()
        first = next(number for number, line in enumerate(changed, 1) if line != lines[number - 1 : number][0])
        assert raised.value.line in (first, first - 1) if kind != "bit" else raised.value.line in (at + 1, at)
    log.path.unlink()
    noted.path.unlink()


def test_a_rewritten_line_with_a_right_chain_after_it_is_found_by_the_note(log: Audit) -> None:
    for number in range(3):
        log.append("rejected", object=str(number))
    noted = log.head().hash
    records = list(log.records())
    log.path.unlink()
    for record in records:  # what anybody can do who may write the file
        log.append(record.action if record.seq != 2 else "released", object=record.object)
    assert log.verify() == (3, None)
    with pytest.raises(Broken, match="no line has the hash"):
        log.verify(noted)


@pytest.mark.parametrize("keep", [0, 1, 30, -1])
def test_a_torn_last_line_is_kept_aside_and_said(log: Audit, keep: int) -> None:
    log.append("held", object="one")
    whole = log.path.read_bytes()
    log.append("held", object="two")
    torn = log.path.read_bytes()[len(whole) :][:keep]
    log.path.write_bytes(whole + torn)
    assert log.verify() == (1, None)  # a crash is no tampering
    assert log.head().torn == len(torn)
    last = log.append("held", object="three")
    records = list(log.records())
    if not torn:
        assert [record.object for record in records] == ["one", "three"]
        return
    assert [record.action for record in records] == ["held", TORN, "held"]
    assert records[-1] == last
    kept = log.path.with_name(records[1].facts["kept"])
    assert kept.read_bytes() == torn
    assert records[1].facts["bytes"] == len(torn)


def test_killed_while_a_torn_line_is_dealt_with(log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step of it; the next call goes on, and the torn bytes are told of once."""

    class Killed(Exception):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    log.append("held", object="one")
    with log.path.open("ab") as file:
        file.write(b'{"seq":2')
    for step in ("write_durably", "os.ftruncate", "_write"):
        with monkeypatch.context() as patch:
            patch.setattr(f"receiver.audit.{step}", killed)
            with pytest.raises(Killed):
                log.append("held", object="lost")
    log.append("held", object="two")
    log.append("held", object="three")
    records = list(log.records())
    assert [record.action for record in records] == ["held", TORN, "held", "held"]
    assert log.path.with_name(records[1].facts["kept"]).read_bytes() == b'{"seq":2'


def test_a_log_that_is_moved_away_gets_no_more_lines(log: Audit) -> None:
    log.append("held", object="old")
    moved = log.path.with_name("audit-2026.jsonl")
    with log.path.open("rb") as before:
        fcntl.flock(before, fcntl.LOCK_EX)
        writer = threading.Thread(target=log.append, args=("held",), kwargs={"object": "new"})
        writer.start()
        time.sleep(0.2)  # it waits for the lock of the old one
        log.path.rename(moved)
    writer.join(10)
    assert [record.object for record in log.records()] == ["new"]
    assert [record.object for record in Audit(moved).records()] == ["old"]


def test_a_last_line_of_somebody_else_is_not_followed(log: Audit) -> None:
    log.append("held")
    with log.path.open("ab") as file:
        file.write(b"hello\n")
    with pytest.raises(Broken, match="the last line is none of ours"):
        log.append("held")
    with pytest.raises(Broken, match="line 2: is no record") as raised:
        log.verify()
    assert raised.value.line == 2


def test_a_full_disk_leaves_nothing_behind(log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("held", object="one")
    before, write, calls = log.path.read_bytes(), os.write, 0

    def full(handle: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(28, "No space left on device")
        return write(handle, data[:10])

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            log.append("held", object="two")
    assert log.path.read_bytes() == before
    log.append("held", object="two")
    assert [record.object for record in log.records()] == ["one", "two"]


def test_what_is_too_long_is_cut(log: Audit) -> None:
    record = log.append("held", object="o", reason="r" * 100_000, list=["x" * 1000] * 100)
    assert len(record.reason) == module.TEXT_CHARS_MAX
    assert list(record.facts) == ["left_out"]
    assert all(len(line) <= LINE_BYTES_MAX for line in log.path.read_bytes().splitlines())
    assert log.verify() == (1, None)


def _writer(path: Path, name: str, count: int) -> None:
    log = Audit(path, name)
    for number in range(count):
        log.append("held", object=str(number))


def test_processes_and_threads_append_at_once(log: Audit) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_writer, args=(log.path, f"process {n}", 40)) for n in range(3)]
    threads = [threading.Thread(target=_writer, args=(log.path, f"thread {n}", 40)) for n in range(3)]
    for one in (*writers, *threads):
        one.start()
    for one in (*writers, *threads):
        one.join(60)
    records = list(log.records())
    assert log.verify()[0] == 240
    for name in {record.actor for record in records}:
        assert [int(record.object) for record in records if record.actor == name] == list(range(40))


def test_writers_that_are_killed_leave_a_chain_that_goes_on(log: Audit) -> None:
    context = multiprocessing.get_context("fork")
    draw = random.Random(5)
    for number in range(12):
        writers = [context.Process(target=_writer, args=(log.path, f"{number}-{n}", 10_000)) for n in range(2)]
        for one in writers:
            one.start()
        time.sleep(draw.uniform(0.02, 0.1))
        for one in writers:
            one.kill()
            one.join()
    count, _ = log.verify()
    assert count > 12
    assert log.append("held").seq >= count + 1
    for name in {record.actor for record in log.records() if record.action != TORN}:
        objects = [int(record.object) for record in log.records() if record.actor == name and record.object]
        assert objects == list(range(len(objects)))  # what was appended is there, in its order
