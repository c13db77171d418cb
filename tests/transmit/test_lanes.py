"""A session over several lanes: real processes, and what happens when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from protocol.wire import Type
from sender.decisions import Decisions
from tests.support.content import some_bytes
from tests.support.waits import process_gone, wait_for
from tests.transmit.rig import Ear, Side, end, images_of

Start = Callable[..., "subprocess.Popen[bytes]"]


def pids(side: Side, lanes: int = 1) -> list[int]:
    """The processes of the further lanes, once all are there."""

    def named() -> list[int]:
        events = [json.loads(line) for line in side.told().splitlines() if line.startswith("{")]
        return [event["pid"] for event in events if event["event"] == "lane_started"]

    wait_for(lambda: len(named()) >= lanes)
    return named()


def test_an_object_is_spread_over_lanes_and_control_traffic_goes_where_it_is_needed(
    tmp_path: Path, start: Start
) -> None:
    side = Side(tmp_path, lanes=3, rate="400Mbit")
    Decisions(side.journal()).propose("default", images_of("1"), "", time.time())
    data = some_bytes(30_000_000)
    big, small = side.queue(data), side.queue(some_bytes(5_000, 2), passes=2, label="small")
    with Ear(side) as ear:
        assert start(side, once=True).wait(30) == 0, side.told()
        wait_for(lambda: big in ear.objects and small in ear.objects)
        wait_for(lambda: ear.beacons[-1].closing)
    assert ear.content(big) == data
    assert [parameters.lanes for parameters in ear.sessions] == [3]
    both = {Type.SYMBOL, Type.OBJECTS, Type.ANNOUNCEMENT}
    for lane, headers in enumerate(ear.headers):
        assert {kind for kind, _ in headers} == (both | {Type.BEACON} if lane == 0 else both)
        assert {number for kind, number in headers if kind != Type.ANNOUNCEMENT} == {lane}
    assert sorted(side.passes()) == ["blob", *["release default 1"] * 3, "small", "small"]
    assert all(process_gone(pid) for pid in pids(side, 2))


def test_a_session_is_renewed_on_all_lanes_at_once(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, lanes=2, rate="400Mbit")
    (tmp_path / "sitecustomize.py").write_text(
        "import sender.session\nsender.session.SESSION_DATAGRAMS_MAX = 8_000\n"
    )
    side.modules = tmp_path
    data = some_bytes(80_000_000)  # many more blocks than the lanes have at once
    big = side.queue(data)
    with Ear(side) as ear:
        assert start(side, once=True).wait(30) == 0, side.told()
        wait_for(lambda: big in ear.objects)
    assert ear.content(big) == data
    epochs = [parameters.epoch for parameters in ear.sessions]
    assert len(epochs) >= 2
    assert epochs == sorted(set(epochs))


def test_a_killed_lane_ends_the_role_with_a_word_about_it(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, lanes=3)
    with Ear(side):
        role = start(side)
        first, second = pids(side, 2)
        os.kill(second, signal.SIGKILL)
        assert role.wait(10) == 1
    assert "lane 2: its process has ended (killed by SIGKILL)" in side.told()
    wait_for(lambda: process_gone(first))


def test_a_killed_role_leaves_no_lane_behind(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, lanes=2)
    side.queue(some_bytes(20_000_000))
    with Ear(side):
        role = start(side)
        (lane,) = pids(side)
        role.kill()
        role.wait()
        wait_for(lambda: process_gone(lane))


def test_sigterm_ends_role_and_lanes_at_once(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, lanes=2, rate="1Mbit")
    side.queue(some_bytes(1_000_000))
    role = start(side)
    (lane,) = pids(side)
    os.kill(lane, signal.SIGTERM)  # systemd tells every process of the unit
    time.sleep(0.3)
    assert role.poll() is None, side.told()
    code, seconds = end(role)
    assert code == 0, side.told()
    assert seconds < 3
    assert process_gone(lane)


def test_an_object_that_no_lane_can_read_is_told_once_and_disturbs_no_other(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, lanes=2)
    bad, good = side.queue(some_bytes(20_000_000), label="bad"), side.queue(some_bytes(3_000_000, 1), label="good")
    (tmp_path / bad[7:]).write_bytes(b"short")
    with Ear(side) as ear:
        assert start(side, once=True).wait(30) == 0, side.told()
        wait_for(lambda: good in ear.objects)
    assert side.told().count("object_unreadable") == 1
    assert side.passes() == ["good"]


def test_a_lane_that_cannot_send_ends_the_role_with_both_lines(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, lanes=2)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'sender.lane_process' in sys.orig_argv:\n"
        "    import sender.link\n"
        "    from runtime.errors import UserError\n"
        "    def refuse(*given, **named):\n"
        "        raise UserError('link.mtu: too large for this lane', exit_code=2)\n"
        "    sender.link.Link.__init__ = refuse\n"
    )
    side.modules = tmp_path
    assert start(side).wait(10) == 1
    assert "error: link.mtu: too large for this lane" in side.told()
    assert "lane 1: its process has ended (exit code 2), see the line before" in side.told()
