"""CPU seconds and peak memory of running processes, their children included, read from /proc while they run."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.measure import MEGA

EVERY_S: Final = 0.05
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_HWM: Final = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Used:
    """What a role took until it was last seen."""

    cpu_s: float
    peak_mb: float  # of its largest process


@dataclass(frozen=True, slots=True)
class ThreadCpu:
    """CPU seconds of the threads of one name."""

    user_s: float
    system_s: float


class Usage:
    """Watches processes by pid under a name while the ``with`` block lasts."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._roots = dict(pids)
        self._seen: dict[str, dict[int, Used]] = {name: {} for name in pids}
        self._threads: dict[str, dict[int, tuple[str, ThreadCpu]]] = {name: {} for name in pids}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="usage", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def used(self) -> dict[str, Used]:
        """Return what each role has used: CPU of all its processes, the memory of the largest."""
        return {
            name: Used(
                round(sum(used.cpu_s for used in seen.values()), 2),
                round(max((used.peak_mb for used in seen.values()), default=0.0), 1),
            )
            for name, seen in self._seen.items()
        }

    def threads(self) -> dict[str, dict[str, ThreadCpu]]:
        """Return what the threads of each role have used, by the names that the kernel knows."""
        found: dict[str, dict[str, ThreadCpu]] = {}
        for role, seen in self._threads.items():
            of_role = found.setdefault(role, {})
            for name, cpu in seen.values():
                before = of_role.get(name, ThreadCpu(0, 0))
                of_role[name] = ThreadCpu(before.user_s + cpu.user_s, before.system_s + cpu.system_s)
        return found

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        for name, root in self._roots.items():
            for pid in _family(root):
                with contextlib.suppress(OSError):
                    if (used := _used(pid)) is not None:
                        self._seen[name][pid] = used
                for task in Path(f"/proc/{pid}/task").glob("*"):
                    with contextlib.suppress(OSError):
                        self._threads[name][int(task.name)] = _thread(task)


def _family(pid: int) -> list[int]:
    """Return *pid* and all that descends from it (proc(5): /proc/pid/task/tid/children)."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += _family(int(child))
    return found


def _used(pid: int) -> Used | None:
    peak = _HWM.search(Path(f"/proc/{pid}/status").read_text())
    if peak is None:  # it has ended and is not yet waited for
        return None
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Used((int(fields[11]) + int(fields[12])) / _TICKS, int(peak[1]) * 1024 / MEGA)


def _thread(task: Path) -> tuple[str, ThreadCpu]:
    """Return a thread's name and what it has used (proc(5): stat)."""
    before, _, after = (task / "stat").read_text().rpartition(")")
    fields = after.split()
    return before.partition("(")[2], ThreadCpu(int(fields[11]) / _TICKS, int(fields[12]) / _TICKS)
