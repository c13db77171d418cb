"""The Debian system that both booted sides begin as: made once by debootstrap, kept outside the repository.

What comes from a mirror is cached under a name that says what is in it, so a later run downloads nothing. The mirror
is the one that apt of this machine is configured with, or that ``CHECKVALVE_BOOTED_MIRROR`` names.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.lab.oneway import missing as no_lab

SUITE: Final = "bookworm"
PACKAGES: Final = ("systemd", "systemd-sysv", "dbus", "python3", "iproute2", "docker-registry")
_PROGRAMS: Final = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nsenter": "util-linux",
    "skopeo": "skopeo",
}


class NoTree(Exception):
    """The system could not be made; the text says why."""


def missing() -> str | None:
    """Return why no systems can be booted here, or None."""
    if not sys.platform.startswith("linux"):
        return "booting two systems needs Linux"
    if os.geteuid() != 0:
        return "booting two systems needs root"
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"booting two systems needs {program} (sudo apt-get install {package})"
    return no_lab()


def cache() -> Path:
    """Return the folder of what later runs use again: ``CHECKVALVE_BOOTED_CACHE``, or one in the user's cache."""
    if given := os.environ.get("CHECKVALVE_BOOTED_CACHE"):
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "checkvalve"


def debian(say: Callable[[str], None]) -> Path:
    """Return the system's root folder, never to be changed; made first if it is not there. NoTree if that fails."""
    key = hashlib.sha256(" ".join((SUITE, *sorted(PACKAGES))).encode()).hexdigest()[:12]
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / f"{SUITE}-{key}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be making it
        if not root.exists():
            unfinished = folder / "unfinished"
            _discard(unfinished)
            say(f"debootstrap of {SUITE}, once; a minute or two")
            _bootstrap(unfinished, folder / "debootstrap.log")
            unfinished.rename(root)
    return root


def mirror() -> str:
    """Return where packages of the suite come from. NoTree when apt of this machine knows no such place."""
    if given := os.environ.get("CHECKVALVE_BOOTED_MIRROR"):
        return given
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"]
    try:
        listed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise NoTree(f"no apt-get here to ask for a mirror: {error}") from None
    for line in listed.splitlines():
        address, _, rest = line.partition(" ")
        if rest == f"{SUITE} main":
            return address
    raise NoTree(f"apt of this machine has no source for {SUITE}; name a mirror in CHECKVALVE_BOOTED_MIRROR")


def _bootstrap(root: Path, log: Path) -> None:
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root), mirror()]
    with log.open("w") as out:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        last = log.read_text(errors="replace").splitlines()[-3:]
        raise NoTree(f"debootstrap: exit code {done.returncode}: {' / '.join(last)}; all of it: {log}")
    (root / "var/cache/apt/archives").mkdir(parents=True, exist_ok=True)
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()


def _discard(root: Path) -> None:
    """Remove what a run that was broken off left; debootstrap had mounted proc and sys in it."""
    for mounted in ("proc", "sys"):
        subprocess.run(["umount", str(root / mounted)], check=False, capture_output=True)
    shutil.rmtree(root, ignore_errors=True)
