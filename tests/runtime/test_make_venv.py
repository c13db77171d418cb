"""The script that builds the environment refuses what cannot work, in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements" / "make-venv"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike ``tmp_path``."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    (folder / "requirements").mkdir()
    shutil.copy(SCRIPT, folder / "requirements" / "make-venv")
    command = [str(folder / "requirements" / "make-venv")]
    nobody = 65534 if os.geteuid() == 0 else None  # as root the script would install what is missing
    return subprocess.run(
        command, env={**os.environ, "PYTHON": python}, capture_output=True, text=True, cwd="/", user=nobody
    )


def fake_python(folder: Path, version: str, *, modules: bool) -> str:
    """An interpreter that only answers the questions the script asks."""
    path = folder / "python"
    supported = int(version.split(".")[1]) >= 11
    path.write_text(
        "#!/bin/sh\ncase $2 in\n"
        f"*print*) echo {version};;\n"
        f"*sys.exit*) exit {0 if supported else 1};;\n"
        f"*ensurepip*) exit {0 if modules else 1};;\n"
        "*) echo unexpected >&2; exit 99;;\nesac\n"
    )
    path.chmod(0o755)
    return str(path)


def test_no_such_interpreter(folder: Path) -> None:
    result = run(folder, "/no/such/python")
    assert result.returncode == 1
    assert result.stderr.startswith("error: /no/such/python is not installed")


def test_an_interpreter_that_is_too_old(folder: Path) -> None:
    python = fake_python(folder, "3.9", modules=True)
    result = run(folder, python)
    assert result.returncode == 1
    assert (
        result.stderr == f"error: {python} is Python 3.9; 3.11 or later is needed, give PYTHON=/path/to/python3.11\n"
    )


def test_without_venv_and_without_root_it_names_the_command(folder: Path) -> None:
    result = run(folder, fake_python(folder, "3.11", modules=False))
    assert result.returncode == 1
    assert "python3-venv" in result.stderr or "has no venv" in result.stderr
