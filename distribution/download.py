"""Wheels of others for one platform and each Python, each checked by pip against the lock's hashes; kept by the lock.

The folder where they are kept is named by what asked for them, so another lock never meets old files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from distribution.lock import Locked
from distribution.project import PYTHONS, BuildError

# The oldest glibc first; the newest is that of the oldest systems with a Python that will do (RHEL 9, Debian 12).
_GLIBC: Final = ("2_5", "2_12", "2_17", "2_26", "2_27", "2_28", "2_31", "2_34")
_OLD_NAMES: Final = ("manylinux1", "manylinux2010", "manylinux2014")
_SECONDS_MAX: Final = 900


def wheels_for(locked: tuple[Locked, ...], arch: str, cache: Path) -> tuple[Path, ...]:
    """Return the wheels that *locked* needs on *arch* with every Python, by name. BuildError says what failed."""
    text = "\n".join(one.requirement() for one in locked) + "\n"
    key = hashlib.sha256("\n".join([text, arch, *PYTHONS, *_GLIBC]).encode()).hexdigest()[:16]
    folder = cache / f"{arch}-{key}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=cache))
        try:
            for python in PYTHONS:
                _download(text, python, arch, fresh)
            fresh.chmod(0o755)
            try:
                fresh.rename(folder)
            except OSError:
                if not folder.is_dir():  # else somebody else was faster
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return tuple(sorted(folder.glob("*.whl")))


def _download(requirements: str, python: str, arch: str, folder: Path) -> None:
    platforms = [f"{name}_{arch}" for name in (*(f"manylinux_{glibc}" for glibc in reversed(_GLIBC)), *_OLD_NAMES)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
            *("--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)),
            *("--implementation", "cp", "--python-version", python),
            *("--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none"),
            *(word for platform in platforms for word in ("--platform", platform)),
            *("--requirement", file.name),
        ]
        # what the lock says counts, not what this machine asks of its own installations
        environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, env=environment, timeout=_SECONDS_MAX
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"wheels for Python {python} on {arch}: pip download took over 15 min") from None
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise BuildError(f"wheels for Python {python} on {arch}: {errors[-1] if errors else 'pip download failed'}")
