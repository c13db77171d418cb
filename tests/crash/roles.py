"""One role as a process that is killed again and again: started, ended by SIGKILL, stopped for a while, started.

Each generation has logs of its own. Those of a generation that ended as it was told and complained of nothing are
removed; the others are what a campaign looks for.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from tests.support.processes import ROOT, Process, command

ROLES: Final = {"fetch": "sender", "transmit": "sender", "capture": "receiver", "publish": "receiver"}
GRACE_S: Final = 60.0  # for a role to end when it is asked to, on a machine that others use as well
# What no role may ever say, whatever is done to it: an exception that nobody expected, or damage to what it keeps.
_COMPLAINTS: Final = re.compile(
    "Traceback|Error:|assembler_failed|is damaged|object_dropped|damaged_content|unreadable|content_mismatch"
    "|partial_lost"
)


@dataclass(frozen=True)
class Moment:
    """What is done to a role next: *what* after *life* seconds, then a pause of *pause* seconds."""

    what: str  # kill, reboot (both roles of its side at once), stop (SIGSTOP)
    life: float
    pause: float


class Chaos:
    """The moments of one role, drawn from the seed alone, whatever the machine does meanwhile."""

    def __init__(self, seed: int, role: str) -> None:
        self._random = Random(f"{seed}/{role}")

    def next(self) -> Moment:
        """Draw: a third while it starts, most in the middle of its work, a few after a long life."""
        random = self._random
        what = random.choices(("kill", "reboot", "stop"), (88, 7, 5))[0]
        life = random.choices(
            (random.uniform(0, 0.7), random.uniform(0.7, 3.5), random.uniform(3.5, 12)), (30, 62, 8)
        )[0]
        pause = random.uniform(0.5, 3) if what == "stop" else random.choice((0, 0, 0, random.uniform(0, 1)))
        return Moment(what, life, pause)


class Role:
    """One of the four roles; *config* is its side's file, *prefix* what runs a command on its side."""

    def __init__(self, name: str, config: Path, prefix: list[str], logs: Path) -> None:
        self.name, self.side = name, ROLES[name]
        self.kills = 0
        self.generations = 0
        self.faults: list[str] = []  # what it said or did that no crash excuses
        self._argv = [*command(f"checkvalve-{self.side}"), name, "--config", str(config)]
        self._prefix = prefix
        self._logs = logs
        self._process: Process | None = None

    @property
    def running(self) -> bool:
        """Whether it has been started and not been ended by us."""
        return self._process is not None

    def start(self) -> None:
        """Start the next generation."""
        assert self._process is None
        self.generations += 1
        log = self._logs / f"{self.name}-{self.generations:04}"
        # the worktree's code, whatever is installed
        environment = {"PYTHONPATH": str(ROOT), f"CHECKVALVE_{self.side.upper()}__LOGS__FORMAT": "json"}
        self._process = Process(self.name, self._argv, log, prefix=self._prefix, env=environment)

    def kill(self) -> None:
        """SIGKILL, if it runs; counted when it was alive."""
        if self._process is None:
            return
        if self.look():
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(GRACE_S)
            self.kills += 1
        self._over()

    def pause(self, signum: signal.Signals) -> None:
        """SIGSTOP or SIGCONT."""
        if self._process is not None:
            self._process.signal(signum)

    def look(self) -> bool:
        """Whether it is alive; one that has ended by itself is a fault, and is started again by the caller."""
        if self._process is None:
            return False
        if self._process.code is None:
            return True
        self.faults.append(self._process.describe(f"ended by itself with exit code {self._process.code}"))
        self._over()
        return False

    def end(self) -> None:
        """End it in order; anything but exit code 0 is a fault, once it has begun."""
        if self._process is not None and self.look():
            code = self._process.stop(GRACE_S)
            early = code == -signal.SIGTERM and not self._process.lines()  # still importing: nobody caught it yet
            if code != 0 and not early:
                self.faults.append(self._process.describe(f"ended with exit code {code} on SIGTERM"))
            self._over()

    def _over(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        complaints = [line for line in process.lines() if _COMPLAINTS.search(line)]
        if complaints:
            self.faults.append(f"{process.name} said in {process.err}:\n    " + "\n    ".join(complaints[:5]))
        elif not self.faults:
            process.out.unlink()
            process.err.unlink()
