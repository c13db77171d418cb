"""Real processes for the demo, the system tests and the benchmarks: output to files, waited for, always ended.

Knows nothing of what they do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
POLL_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)  # loaded before any fork


class ProcessFailed(Exception):
    """A process ended, or did not say what was awaited; the text has the end of its output."""


def command(name: str) -> list[str]:
    """Return how to call *name*, ``checkvalve-sender`` or ``checkvalve-receiver``: installed, else as a module."""
    script = Path(sys.executable).with_name(name)
    return [str(script)] if script.exists() else [sys.executable, "-m", name.removeprefix("checkvalve-")]


def module(name: str) -> list[str]:
    """Return how to run a module of this repository."""
    return [sys.executable, "-m", name]


class Process:
    """One running process; its stdout goes to *log*.out, its stderr to *log*.err, both emptied at the start."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """*prefix* goes before the command, such as ``ip netns exec high``."""
        self.name = name
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        log.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._process = subprocess.Popen(
                [*prefix, *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends this in order
                preexec_fn=partial(_die_with, os.getpid()),
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs; negative for a death by signal."""
        return self._process.poll()

    def lines(self) -> list[str]:
        """Everything it has printed by now, whole lines only: stdout, then stderr."""
        return [
            line.rstrip("\n")
            for path in (self.out, self.err)
            for line in path.read_text(errors="replace").splitlines(keepends=True)
            if line.endswith("\n")
        ]

    def wait_line(self, wanted: Callable[[str], bool] | str, timeout_s: float = 20.0) -> str:
        """Return the first line that contains or satisfies *wanted*; ProcessFailed if it ends or time is up."""
        matches = (lambda line: wanted in line) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self.code is not None
            for line in self.lines():
                if matches(line):
                    return line
            if ended:
                raise ProcessFailed(self.describe(f"ended with exit code {self.code}"))
            if time.monotonic() > deadline:
                raise ProcessFailed(self.describe(f"said nothing of the kind in {timeout_s:g} s"))
            time.sleep(POLL_S)

    def wait(self, timeout_s: float) -> int:
        """Return its exit code; ProcessFailed if it is still running after *timeout_s*."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(self.describe(f"is still running after {timeout_s:g} s")) from None

    def signal(self, signum: int) -> None:
        """Send it a signal, if it is there."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def stop(self, timeout_s: float = 8.0) -> int:
        """End it with SIGTERM, with SIGKILL for its whole session after *timeout_s*; return its exit code."""
        self.signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            return self._process.wait()

    def describe(self, what: str) -> str:
        """A text for people: what happened, and the last lines it said."""
        last = [
            *self.out.read_text(errors="replace").splitlines(),
            *self.err.read_text(errors="replace").splitlines(),
        ]
        said = "".join(f"\n    {line}" for line in last[-8:])
        return f"{self.name} {what}; its log: {self.err}{said}"


class Processes:
    """Starts processes and ends all that are left, the newest first, when the ``with`` block is left."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._running:
            self._running[-1].stop()
            self._running.pop()

    def start(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> Process:
        """Start a process; *name* names it and its log files."""
        process = Process(name, argv, self._logs / name.replace(" ", "-"), env=env, prefix=prefix)
        self._running.append(process)
        return process


def run(argv: Sequence[str], *, timeout_s: float = 60.0, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return its stdout; ProcessFailed with its stderr for any exit code but 0."""
    done = subprocess.run(
        list(argv),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if done.returncode != 0:
        raise ProcessFailed(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def _die_with(parent: int) -> None:
    """In the child, before exec: SIGTERM when the parent dies, also if it is dead already (prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)
