"""The lab itself: one way only, losing what it is told to, and leaving nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.oneway import HIGH, LOSS_UNIT, LOW, PREFIX, OneWay, missing, sweep

pytestmark = pytest.mark.lab

_SEND = """
import socket, sys
host, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
for i in range(count):
    try:
        s.sendto(i.to_bytes(4, "big") + bytes(size - 4), (host, 4000))
    except OSError:
        pass
"""
_RECEIVE = """
import socket, sys
host = sys.argv[1]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
s.bind((host, 4000))
print("bound", flush=True)
s.settimeout(3)
seen = 0
try:
    while True:
        s.recv(65536)
        seen += 1
        s.settimeout(0.5)
except TimeoutError:
    print(seen, flush=True)
"""


def carried(lab: OneWay, count: int, size: int = 1000) -> int:
    """Send *count* datagrams from low to high; return how many came."""
    receiver = subprocess.Popen(lab.in_high(sys.executable, "-c", _RECEIVE, HIGH), stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "bound\n"
    subprocess.run(lab.in_low(sys.executable, "-c", _SEND, HIGH, str(count), str(size)), check=True)
    return int(receiver.communicate(timeout=20)[0])


def test_datagrams_cross_and_the_high_side_stays_silent(lab: OneWay) -> None:
    lab.set_loss(0)
    assert carried(lab, 2000) == 2000
    counts = lab.counts()
    assert (counts.passed, counts.dropped, counts.high_sent) == (2000, 0, 0)


def test_the_asked_share_is_lost_and_counted(lab: OneWay) -> None:
    lab.set_loss(1000)
    came = carried(lab, 4000)
    counts = lab.counts()
    assert (counts.passed, counts.passed + counts.dropped) == (came, 4000)
    assert 280 < counts.dropped < 520  # 6 standard deviations about 400


def test_all_can_be_lost(lab: OneWay) -> None:
    lab.set_loss(LOSS_UNIT)
    assert carried(lab, 50) == 0
    assert lab.counts().dropped == 50


def test_nothing_comes_back_even_when_the_high_side_tries(lab: OneWay) -> None:
    before = lab.counts()
    answers = subprocess.run(
        lab.in_high(sys.executable, "-c", _SEND, "198.51.100.254", "5", "100"), capture_output=True, check=False
    )
    assert answers.returncode == 0
    after = lab.counts()
    assert after.high_sent == 0
    assert after.high_tried - before.high_tried == 5
    ways = subprocess.run(lab.in_high("ip", "route", "get", LOW), capture_output=True, text=True, check=False)
    assert ways.returncode != 0, ways.stdout


def test_labs_of_a_killed_run_are_swept_and_those_of_a_living_one_are_not() -> None:
    if reason := missing():
        pytest.skip(reason)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = OneWay(name=f"{PREFIX}-{ended.pid}-left")
    left.up()
    with OneWay() as living:
        assert Path("/run/netns", living.low).exists()
        assert not Path("/run/netns", left.low).exists()
        sweep()
        assert Path("/run/netns", living.high).exists()
    assert not list(Path("/run/netns").glob(f"{living.name}*"))


def test_the_command_builds_counts_and_removes(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    name = f"{PREFIX}-{os.getpid()}-{time.monotonic_ns() % 10**6}"
    command = [sys.executable, "-m", "tests.lab.oneway"]
    try:
        up = subprocess.run([*command, "up", "--name", name, "--mtu", "9000"], capture_output=True, text=True)
        assert up.returncode == 0, up.stderr
        assert f"{name}-low" in up.stdout
        counts = subprocess.run([*command, "counts", "--name", name], capture_output=True, text=True, check=True)
        assert counts.stdout.split() == ["passed", "0", "dropped", "0", "high_sent", "0", "high_tried", "0"]
        bad = subprocess.run([*command, "loss", "--name", name, "10001"], capture_output=True, text=True)
        assert (bad.returncode, bad.stderr) == (1, "error: loss 10001: give basis points, 0 to 10000\n")
    finally:
        subprocess.run([*command, "down", "--name", name], check=True)
    assert not Path("/run/netns", f"{name}-low").exists()
