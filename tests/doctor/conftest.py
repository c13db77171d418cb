"""A picture of a machine, and measurements cut short where their figures do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import measure
from runtime.host import Host


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.03)
    monkeypatch.setattr(measure, "DISK_SECONDS", 0.05)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A machine with eth0 (10 Gb/s, MTU 9000), wlan0 (no cable), tun0 (no ARP), down0 and lo."""
    for name, flags, mtu, speed in (
        ("eth0", "0x1003", "9000", "10000"),
        ("wlan0", "0x1003", "1500", "-1"),
        ("tun0", "0x1091", "1400", "4294967295"),
        ("down0", "0x1002", "1500", "1000"),
        ("lo", "0x9", "65536", None),
    ):
        folder = tmp_path / "sys/class/net" / name
        folder.mkdir(parents=True)
        (folder / "flags").write_text(f"{flags}\n")
        (folder / "mtu").write_text(f"{mtu}\n")
        if speed:
            (folder / "speed").write_text(f"{speed}\n")
    core = tmp_path / "proc/sys/net/core"
    core.mkdir(parents=True)
    (core / "rmem_max").write_text("212992\n")
    (tmp_path / "proc/sys/net/ipv4").mkdir()
    (tmp_path / "proc/sys/net/ipv4/udp_mem").write_text("769\t1027\t1538\n")
    return Host(tmp_path / "proc", tmp_path / "sys")
