"""The units to judge, where there is something to judge them with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.systemd_units.rig import Units, analyze


@pytest.fixture
def units(tmp_path: Path) -> Units:
    """The shipped units; skipped where they cannot be judged."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here (Debian: systemd)")
    version = int(analyze("--version").stdout.split()[1])
    if version < 252:
        pytest.skip(f"systemd-analyze of systemd {version} knows less than Debian 12's 252")
    return Units(tmp_path / "units")
