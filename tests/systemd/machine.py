"""One booted system: an overlay on the common tree, systemd as PID 1 in a container, in one side of the lab.

Knows nothing of checkvalve. The files of each machine lie in a folder that carries the pid of the process which made
it, so what a killed run left behind is found and swept away by the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.lab.world import children, until
from tests.support.processes import Process
from tests.systemd.tree import cache

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOOTED_S: Final = 60.0
_STOPPED_S: Final = 40.0
_REBOOTED: Final = 133  # systemd-nspawn --keep-unit: the container asked to be started again
# The sandbox of a container forbids what filtering addresses needs: systemd attaches BPF programs to the units.
_MAY_FILTER: Final = ("--system-call-filter=bpf", "--capability=CAP_BPF,CAP_NET_ADMIN")

# Addresses are filtered by control groups of version 2 only; the host's own may be of both.
_UNIFIED: Final = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}


class CommandFailed(Exception):
    """A command in a machine ended with another exit code than 0; the text has what it said."""


class Machine:
    """A system while its ``with`` block lasts; it is switched off until ``boot``."""

    def __init__(self, name: str, tree: Path, namespace: str) -> None:
        self.name = name
        self._tree = tree
        self._namespace = namespace
        self.folder = _machines() / f"{os.getpid()}-{secrets.token_hex(3)}-{name}"
        self.root = self.folder / "root"
        self._process: Process | None = None
        self._init = 0

    def __enter__(self) -> Self:
        for each in ("upper", "work", "root"):
            (self.folder / each).mkdir(parents=True)
        options = f"lowerdir={self._tree},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self.root], check=True)
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/hosts", f"127.0.0.1 localhost {self.name}\n")
        self.write("/etc/machine-id", f"{secrets.token_hex(16)}\n")
        (self.root / "var/log/journal").mkdir(parents=True, exist_ok=True)  # what was logged outlives a boot
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.power_off()
        _remove(self.folder)

    @property
    def pid(self) -> int:
        """The pid of its systemd, as this machine sees it; 0 while it is switched off."""
        return self._init

    def boot(self) -> None:
        """Switch it on; its start-up is finished when this returns."""
        assert self._process is None
        self._process = Process(self.name, self._nspawn(), self.folder / "console", env=_UNIFIED)
        (self.folder / "pid").write_text(str(self._process.pid))
        until(self._find_init, _BOOTED_S, f"{self.name} has a PID 1")
        until(self._is_up, _BOOTED_S, f"{self.name} has booted")

    def shut_down(self) -> None:
        """Have systemd end everything in order, and wait for it."""
        if self._process is not None:
            self._process.signal(signal.SIGTERM)
            self._ended()

    def reboot(self) -> None:
        """``systemctl reboot`` in it, and boot it again."""
        assert self._process is not None
        with contextlib.suppress(CommandFailed):  # the command may be ended with everything else
            self.run("systemctl", "reboot")
        code = self._ended()
        assert code == _REBOOTED, f"{self.name} ended with {code} in the place of a reboot"
        self.boot()

    def power_off(self) -> None:
        """End it as a power cut does: nothing in it learns of it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init or self._process.pid, signal.SIGKILL)
            self._ended()

    def run(self, *argv: str | Path, stdin: str | None = None, timeout_s: float = 60.0, check: bool = True) -> str:
        """Run a command in it as root; return what it printed, errors too. CommandFailed for an exit code but 0."""
        done = subprocess.run(
            self.inside(*argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            said = f"exit code {done.returncode}\n{done.stdout}"
            raise CommandFailed(f"{self.name}: {' '.join(map(str, argv))}: {said}".rstrip())
        return done.stdout

    def inside(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs *argv* in it, seeing all that its own root sees."""
        assert self._init, f"{self.name} is switched off"
        return ["env", "-i", f"PATH={_PATH}", "LANG=C.UTF-8", "nsenter", f"--target={self._init}", "--all", "--"] + [
            str(each) for each in argv
        ]

    def systemctl(self, *argv: str) -> str:
        """Run systemctl in it; see ``run``."""
        return self.run("systemctl", *argv)

    def show(self, unit: str) -> Mapping[str, str]:
        """Return the properties of a unit."""
        lines = self.run("systemctl", "show", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def main_pid(self, unit: str) -> int:
        """Return the pid that the unit's main process has in it; 0 when there is none."""
        return int(self.show(unit).get("MainPID", "0"))

    def signal(self, name: str, pid: int) -> None:
        """Send a signal, such as KILL, to a process of it."""
        self.run("sh", "-c", f"kill -{name} {pid}")

    def cursor(self) -> str:
        """Return a place in its journal, for ``journal``."""
        return self.run("journalctl", "--quiet", "-n", "0", "--show-cursor").split("cursor: ")[1].strip()

    def journal(self, *units: str, after: str | None = None) -> list[str]:
        """Return what units have logged, and systemd about them, oldest first, without the time."""
        argv = ["journalctl", "--quiet", "--no-pager", "-o", "cat"]
        argv += [f"--unit={unit}" for unit in units]
        argv += [f"--after-cursor={after}"] if after else []
        return self.run(*argv).splitlines()

    def write(self, path: str, text: str) -> None:
        """Write a file of its root in one step, as an editor does: its owner and mode stay as they were."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(place.name + ".new")
        new.write_text(text)
        new.chmod(0o644)
        if place.exists():
            had = place.stat()
            os.chown(new, had.st_uid, had.st_gid)
            new.chmod(had.st_mode & 0o7777)
        new.replace(place)

    def read(self, path: str) -> str:
        """Return the text of a file of its root."""
        return (self.root / path.lstrip("/")).read_text()

    def _nspawn(self) -> Sequence[str]:
        return [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe", "--boot"),
            *(f"--directory={self.root}", f"--hostname={self.name}"),
            f"--network-namespace-path=/run/netns/{self._namespace}",
            *_MAY_FILTER,
        ]

    def _find_init(self) -> bool:
        assert self._process is not None
        assert self._process.code is None, self._process.describe("ended while it booted")
        for pid in children(self._process.pid):  # a child that only makes the namespaces comes before it
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                if re.search(r"^Name:\tsystemd$", status, re.M) and re.search(r"^NSpid:.*\t1$", status, re.M):
                    self._init = pid
        return bool(self._init)

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.code is None, self._process.describe("ended while it booted")
        state = self.run("systemctl", "is-system-running", check=False).strip()
        return state in ("running", "degraded")

    def _ended(self) -> int:
        assert self._process is not None
        code = self._process.wait(_STOPPED_S)
        self._process, self._init = None, 0
        return code


def sweep() -> None:
    """Remove the machines of processes that exist no more."""
    for folder in _machines().glob("*-*-*"):
        owner = folder.name.split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _kill(folder)
            _remove(folder)


def _kill(folder: Path) -> None:
    """Kill the container of a folder, if it is still that container which has its pid."""
    try:
        pid = int((folder / "pid").read_text())
        argv = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if f"--directory={folder / 'root'}".encode() in argv:
        for each in [*children(pid), pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)


def _remove(folder: Path) -> None:
    """Unmount and delete; never what is mounted still."""
    root = folder / "root"
    for _ in range(8):  # a tmpfs that a test put into it, or what a killed run has left
        if not os.path.ismount(root):
            break
        subprocess.run(["umount", "--recursive", root], check=False, capture_output=True)
        time.sleep(0.1)
    if not os.path.ismount(root):
        shutil.rmtree(folder, ignore_errors=True)


def _machines() -> Path:
    folder = cache() / "machines"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
