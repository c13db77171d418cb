"""Small files that are whole at every instant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import durable
from runtime.durable import write_durably
from tests.transmit.rig import ROOT


def test_it_makes_folders_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_durably(path, b"one")
    write_durably(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_new_folders_are_made_durable_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    real = durable.sync_folder
    monkeypatch.setattr(durable, "sync_folder", lambda folder: (synced.append(folder), real(folder)))
    write_durably(tmp_path / "a" / "b" / "file", b"x")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_a_process_killed_at_any_moment_leaves_one_version_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = (
        "import itertools; from pathlib import Path; from runtime.durable import write_durably\n"
        f"for n in itertools.count(): write_durably(Path({str(path)!r}), bytes([n % 256]) * 300_000)"
    )
    for moment in (0.01, 0.03, 0.06):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while not path.exists():
            time.sleep(0.001)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        data = path.read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    folder = tmp_path / "tiny"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_version_and_no_rest(tiny: Path) -> None:
    write_durably(tiny / "file", b"old")
    with pytest.raises(OSError, match="No space left"):
        write_durably(tiny / "file", bytes(200_000))
    assert (tiny / "file").read_bytes() == b"old"
    assert len(list(tiny.iterdir())) == 1
