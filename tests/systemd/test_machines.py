"""The harness itself: two systems that can be switched, on a link that goes one way."""

from __future__ import annotations

import pytest

from tests.lab.oneway import HIGH, LOW, OneWay
from tests.systemd.machine import Machine

pytestmark = [pytest.mark.booted, pytest.mark.timeout(900)]


def test_both_systems_run_and_see_only_their_side(bare: tuple[Machine, Machine], oneway: OneWay) -> None:
    low, high = bare
    for machine, address, device in ((low, LOW, "lowtx"), (high, HIGH, "highrx")):
        assert machine.systemctl("is-system-running").strip() == "running"
        assert machine.run("hostname").strip() == machine.name
        listed = machine.run("ip", "-br", "-4", "address").split()
        assert listed[0] == "lo"
        assert listed[3].startswith(device)
        assert listed[5] == f"{address}/24"
    assert oneway.counts().high_sent == 0


def test_a_reboot_is_a_boot_of_its_own_and_keeps_what_is_on_disk(bare: tuple[Machine, Machine]) -> None:
    for machine in bare:
        before = machine.run("cat", "/proc/sys/kernel/random/boot_id"), machine.pid
        machine.write("/var/lib/kept", "kept")
        machine.reboot()
        assert machine.pid != before[1]
        assert machine.run("cat", "/var/lib/kept") == "kept"
        assert len(machine.run("journalctl", "--list-boots", "--quiet").splitlines()) >= 2
