"""Which of our modules each side's wheel has, and that they are enough: every one of them can be imported alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from distribution.lock import read_lock
from distribution.project import ROOT, Project
from distribution.split import modules_of
from distribution.wheel import build_wheel


@pytest.mark.parametrize(("side", "other"), [("sender", "receiver"), ("receiver", "sender")])
def test_a_wheel_has_no_module_of_the_other_side_and_all_of_its_own(side: str, other: str) -> None:
    names = {str(path) for path in modules_of(ROOT, side)}
    assert not [name for name in names if name.startswith(f"{other}/")]
    assert {str(path.relative_to(ROOT)) for path in (ROOT / side).rglob("*.py")} <= names


def test_what_logs_in_at_upstream_registries_is_in_the_senders_wheel_only() -> None:
    upstream = {Path("oci/logins.py"), Path("oci/mirrors.py"), Path("protocol/encoder.py")}
    assert upstream <= set(modules_of(ROOT, "sender"))
    assert not upstream & set(modules_of(ROOT, "receiver"))


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_every_module_of_a_wheel_can_be_imported_with_nothing_of_ours_beside_it(side: str, tmp_path: Path) -> None:
    project = Project(ROOT, "1", 1_700_000_000, Project.read().table)
    wheel = build_wheel(project, side, read_lock(ROOT / "requirements/runtime.txt"), tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "alone")
    names = [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in modules_of(ROOT, side)
        if path.name != "__main__.py"
    ]
    # an editable installation of this tree, or of another one, must not stand in for what the wheel lacks
    program = (
        "import importlib, sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        f"sys.path.insert(0, {str(tmp_path / 'alone')!r})\n"
        f"for name in {names!r}:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_same_tree_gives_the_same_wheel(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        project = Project(ROOT, "1", 1_700_000_000, Project.read().table)
        made.append(build_wheel(project, "receiver", (), tmp_path / name).read_bytes())
    assert made[0] == made[1]
