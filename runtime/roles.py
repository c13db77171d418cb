"""Runs the roles of one side as child processes, for `run`: starts, restarts, forwards signals, ends them.

Refuses to know what a role does. Each child is a process group of its own and dies with the parent
(PR_SET_PDEATHSIG, prctl(2)); its stdin is empty and its stdout joins stderr, so that stdout and the terminal
belong to the parent alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from runtime.errors import EXIT_USAGE, UserError
from runtime.terminal import SUPERVISED

LINE_BYTES_MAX = 64 * 1024
SAME_WISH_S = 0.3  # two signals within this time are one wish
STABLE_S = 60.0  # a role that ran this long starts again without delay

_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGINT)
_libc = ctypes.CDLL(None)  # loaded before any fork

Relay = Callable[[str, str], None]
log = structlog.get_logger()


@dataclass(frozen=True)
class Role:
    """One child process.

    ``finishes``: the run is over when all roles with this mark have ended. Without it a role is meant to keep
    going, and its end ends the run. ``restart``: after a crash it is started again, with growing delays; exit
    code 2 (usage, configuration) is final, since it would only repeat.
    """

    name: str
    argv: Sequence[str]
    finishes: bool = False
    restart: bool = False
    env: Mapping[str, str] | None = None


async def run_roles(
    roles: Sequence[Role],
    *,
    grace_s: float = 10.0,
    backoff_s: tuple[float, float] = (0.5, 30.0),
    relay: Relay | None = None,
) -> int:
    """Run all ``roles`` until they have finished, one failed for good, or SIGTERM or SIGINT came.

    Returns the worst exit code among them (128 + N for a death by signal N); stopping a daemon by signal is
    a success, cutting short roles that finish is 128 + N. At the end everything still running gets SIGTERM,
    and SIGKILL after ``grace_s`` or at a second, later signal. ``relay(role name, line)`` takes the children's output
    line by line, for a parent that draws progress bars; without it they inherit stderr. Raises ``UserError``
    if a role cannot be started. Call from the main thread; cancelling it ends the children too.
    """
    run = _Run(roles, backoff_s, relay)
    loop = asyncio.get_running_loop()
    for signum in _FORWARDED:
        loop.add_signal_handler(signum, run.on_signal, signum)
    tasks = [asyncio.create_task(run.keep(role), name=role.name) for role in roles]
    for task in tasks:
        task.add_done_callback(run.on_end)
    try:
        if tasks:
            await run.stop.wait()
    finally:
        try:
            await asyncio.shield(run.end(tasks, grace_s))
        finally:
            for signum in _FORWARDED:
                loop.remove_signal_handler(signum)
    for task in tasks:
        task.result()
    return run.exit_code()


class _Run:
    """The state of one ``run_roles``."""

    def __init__(self, roles: Sequence[Role], backoff_s: tuple[float, float], relay: Relay | None) -> None:
        self.stop = asyncio.Event()
        self.kill = asyncio.Event()
        self._backoff_s = backoff_s
        self._relay = relay
        self._unfinished = {role.name for role in roles if role.finishes}
        self._alive: dict[str, asyncio.subprocess.Process] = {}
        self._codes: list[int] = [0]
        self._signum: int | None = None
        self._asked = 0.0  # when the first signal came

    def on_signal(self, signum: int) -> None:
        """First signal: an orderly end. Second: at once, unless it comes with the first, as timeout(1) sends it."""
        now = asyncio.get_running_loop().time()
        if self._signum is None:
            self._asked = now
        elif now - self._asked >= SAME_WISH_S:
            self.kill.set()
        self._signum = self._signum or signum
        self.stop.set()

    def on_end(self, task: asyncio.Task[None]) -> None:
        """A role that could not be started ends the run."""
        if task.cancelled() or task.exception() is not None:
            self.stop.set()

    def exit_code(self) -> int:
        """The worst of all."""
        cut_short = self._signum is not None and bool(self._unfinished)
        return max(*self._codes, 128 + (self._signum or 0) if cut_short else 0)

    async def keep(self, role: Role) -> None:
        """Run one role, again and again if it is to be restarted."""
        delay_s = self._backoff_s[0]
        while not self.stop.is_set():
            started = asyncio.get_running_loop().time()
            code = await self._run_once(role)
            if self.stop.is_set():
                self._note_end_on_request(role, code)
                return
            if not role.restart or code == EXIT_USAGE or (role.finishes and code == 0):
                self._note_end(role, code)
                return
            if asyncio.get_running_loop().time() - started > STABLE_S:
                delay_s = self._backoff_s[0]
            log.warning("role_restarts", role=role.name, exit_code=code, delay_s=delay_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), delay_s)
            delay_s = min(delay_s * 2, self._backoff_s[1])

    async def end(self, tasks: Sequence[asyncio.Task[None]], grace_s: float) -> None:
        """Ask what still runs to stop, then make it."""
        self.stop.set()
        self._send(signal.SIGTERM)  # for SIGINT too: a role that still starts would answer that with a traceback
        killed = asyncio.create_task(self.kill.wait())
        everything = asyncio.gather(*tasks, return_exceptions=True)
        ends: list[asyncio.Future[Any]] = [killed, everything]
        await asyncio.wait(ends, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        if not everything.done():
            log.warning("roles_killed", roles=sorted(self._alive), grace_s=grace_s)
            self._send(signal.SIGKILL)
        await everything

    async def _run_once(self, role: Role) -> int:
        try:
            process = await asyncio.create_subprocess_exec(
                *role.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if self._relay else 2,
                stderr=asyncio.subprocess.STDOUT if self._relay else None,
                env={**os.environ, **(role.env or {}), SUPERVISED: "1"},
                process_group=0,
                preexec_fn=partial(_die_with, os.getpid()),
                limit=LINE_BYTES_MAX,
            )
        except OSError as error:
            raise UserError(f"{role.name}: {role.argv[0]} cannot be started: {error.strerror}") from None
        log.debug("role_started", role=role.name, pid=process.pid)
        self._alive[role.name] = process
        try:
            if self.stop.is_set():  # the signal came while it was being started
                process.send_signal(signal.SIGTERM)
            relayed = asyncio.create_task(self._pass_on(role.name, process.stdout))
            code = await process.wait()
            await asyncio.wait([relayed], timeout=1.0)  # a grandchild may hold the pipe open
            relayed.cancel()
        finally:
            del self._alive[role.name]
        return code if code >= 0 else 128 - code

    async def _pass_on(self, name: str, stream: asyncio.StreamReader | None) -> None:
        while self._relay and stream:
            try:
                line = await stream.readline()
            except ValueError:  # longer than LINE_BYTES_MAX; what was read so far is dropped
                continue
            if not line:
                return
            self._relay(name, line.decode(errors="replace").rstrip("\r\n"))

    def _note_end(self, role: Role, code: int) -> None:
        self._unfinished.discard(role.name)
        if role.finishes:
            self._codes.append(code)
            log.debug("role_finished", role=role.name, exit_code=code)
            if not self._unfinished:
                self.stop.set()
            return
        log.error("role_ended", role=role.name, exit_code=code)
        self._codes.append(code or 1)
        self.stop.set()

    def _note_end_on_request(self, role: Role, code: int) -> None:
        if code not in (0, *(128 + signum for signum in _FORWARDED)):
            log.warning("role_stopped_badly", role=role.name, exit_code=code)
            self._codes.append(code)

    def _send(self, signum: int) -> None:
        for process in self._alive.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signum)


def _die_with(parent: int) -> None:
    """In the child, before exec: SIGTERM when the parent dies, also if it is dead already."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)
