"""The supervisor with real child processes: ends, restarts, signals, and children that outlive nobody."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing

from runtime.errors import UserError
from runtime.roles import Role, run_roles

FAST = (0.05, 0.1)
SLEEP = ("sh", "-c", "sleep 60")  # sh passes the signal on by being in the same process group


def shell(name: str, script: str, *, finishes: bool = False, restart: bool = False) -> Role:
    return Role(name, ("sh", "-c", script), finishes=finishes, restart=restart)


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_the_run_ends_with_the_roles_that_finish() -> None:
    roles = [shell("fetch", "exit 0", finishes=True), shell("send", "sleep 0.2", finishes=True), Role("serve", SLEEP)]
    started = time.monotonic()
    assert await run_roles(roles) == 0
    assert 0.2 <= time.monotonic() - started < 5


async def test_the_worst_exit_code_is_returned_after_all_have_finished(tmp_path: Path) -> None:
    marker = tmp_path / "sent"
    roles = [
        shell("fetch", "exit 3", finishes=True),
        shell("send", f"sleep 0.3; touch {marker}; exit 1", finishes=True),
    ]
    assert await run_roles(roles) == 3
    assert marker.exists()


async def test_death_by_signal_has_the_code_that_shells_give() -> None:
    assert await run_roles([shell("a", "kill -KILL $$", finishes=True)]) == 137


async def test_a_lasting_role_that_ends_ends_the_run() -> None:
    assert await run_roles([shell("capture", "exit 0"), Role("publish", SLEEP, finishes=True)]) == 1
    assert await run_roles([shell("capture", "exit 7"), Role("publish", SLEEP, finishes=True)]) == 7


async def test_no_roles() -> None:
    assert await run_roles([]) == 0


async def test_crashed_roles_start_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = f"echo x >> {count}; [ $(wc -l < {count}) -ge 3 ] && exit 0; exit 9"
    assert await run_roles([shell("a", script, finishes=True, restart=True)], backoff_s=FAST) == 0
    assert count.read_text() == "x\n" * 3


async def test_a_usage_error_is_not_repeated(tmp_path: Path) -> None:
    count = tmp_path / "count"
    roles = [shell("a", f"echo x >> {count}; exit 2", restart=True), Role("b", SLEEP, restart=True)]
    assert await run_roles(roles, backoff_s=FAST) == 2
    assert count.read_text() == "x\n"


async def test_delays_grow(tmp_path: Path) -> None:
    times = tmp_path / "times"
    role = shell("a", f"date +%s.%N >> {times}; [ $(wc -l < {times}) -ge 4 ] && exit 2; exit 1", restart=True)
    await run_roles([role], backoff_s=(0.1, 10.0))
    stamps = [float(line) for line in times.read_text().split()]
    first, second, third = (later - earlier for earlier, later in itertools.pairwise(stamps))
    assert first >= 0.1
    assert second >= 0.2
    assert third >= 0.4


async def test_a_role_that_cannot_be_started_is_named() -> None:
    with pytest.raises(UserError, match="transmit: /no/such/program cannot be started: No such file"):
        await run_roles([Role("transmit", ("/no/such/program",)), Role("b", SLEEP)])


@pytest.mark.parametrize(
    ("signum", "finishes", "code"),
    [(signal.SIGTERM, False, 0), (signal.SIGTERM, True, 143), (signal.SIGINT, False, 0), (signal.SIGINT, True, 130)],
)
async def test_a_signal_ends_the_roles_by_sigterm(tmp_path: Path, signum: int, finishes: bool, code: int) -> None:
    told = tmp_path / "told"
    role = shell("a", f"trap 'echo term > {told}; exit 0' TERM; echo > {told}.up; sleep 60 & wait", finishes=finishes)
    running = asyncio.create_task(run_roles([role]))
    await until(Path(f"{told}.up").exists)
    os.kill(os.getpid(), signum)
    assert await asyncio.wait_for(running, 10) == code
    assert told.read_text() == "term\n"


async def test_stragglers_are_killed_after_the_grace(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    stubborn = shell("b", f"trap '' TERM; echo $$ > {pid}; while :; do sleep 0.1; done")
    ends = shell("a", f"while ! [ -s {pid} ]; do sleep 0.02; done", finishes=True)
    started = time.monotonic()
    assert await run_roles([ends, stubborn], grace_s=0.3) == 137
    assert 0.3 <= time.monotonic() - started < 5
    assert gone(int(pid.read_text()))


async def test_a_second_signal_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    up = tmp_path / "up"
    stubborn = shell("b", f"trap '' INT TERM; echo > {up}; while :; do sleep 0.1; done")
    running = asyncio.create_task(run_roles([stubborn], grace_s=60))
    await until(up.exists)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.4)
    os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(running, 10) == 137


async def test_two_signals_at_once_are_one(tmp_path: Path) -> None:
    up = tmp_path / "up"
    slow = shell("b", f"trap 'sleep 0.6; exit 0' TERM; echo > {up}; while :; do sleep 0.1; done")
    running = asyncio.create_task(run_roles([slow], grace_s=60))
    await until(up.exists)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 10) == 0


async def test_grandchildren_end_with_their_role(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    role = shell("a", f"sleep 60 & echo $! > {pid}; wait")
    ends = shell("b", f"while ! [ -s {pid} ]; do sleep 0.02; done", finishes=True)
    assert await run_roles([role, ends]) == 0
    await until(lambda: gone(int(pid.read_text())))


async def test_cancelling_ends_the_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    running = asyncio.create_task(run_roles([shell("a", f"echo $$ > {pid}; exec sleep 60")]))
    await until(lambda: pid.exists() and pid.read_text() != "")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(int(pid.read_text()))


async def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = (
        "import asyncio; from runtime.roles import *\n"
        f"asyncio.run(run_roles([Role('a', ('sh', '-c', 'echo $$ > {pid}; exec sleep 60'))]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    await until(lambda: pid.exists() and pid.read_text() != "")
    parent.kill()
    parent.wait(10)
    await until(lambda: gone(int(pid.read_text())))


async def test_output_goes_to_the_relay_line_by_line() -> None:
    lines: list[tuple[str, str]] = []
    role = shell("a", "echo one; echo two >&2; printf 'last without newline'", finishes=True)
    await run_roles([role], relay=lambda name, line: lines.append((name, line)))
    assert lines == [("a", "one"), ("a", "two"), ("a", "last without newline")]


async def test_an_endless_line_does_not_stop_the_relay() -> None:
    lines: list[str] = []
    role = shell("a", "head -c 300000 /dev/zero | tr '\\0' x; echo; echo after", finishes=True)
    assert await run_roles([role], relay=lambda name, line: lines.append(line)) == 0
    assert lines[-1] == "after"
    assert all(len(line) <= 64 * 1024 for line in lines)


async def test_children_own_neither_stdout_nor_stdin_nor_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    role = shell("a", "echo to-stdout; cat; echo supervised=$CHECKVALVE_SUPERVISED extra=$EXTRA", finishes=True)
    with structlog.testing.capture_logs():  # unconfigured, structlog prints to stdout
        await run_roles([Role(role.name, role.argv, finishes=True, env={"EXTRA": "1"})])
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == ["to-stdout", "supervised=1 extra=1"]
