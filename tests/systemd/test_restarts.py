"""Services that are restarted, killed, stopped, reloaded, and hosts that are booted again, in mid-transfer."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.lab.world import until
from tests.systemd.site import RECEIVER, SENDER, Site

pytestmark = [pytest.mark.booted, pytest.mark.timeout(900)]

SIZE = 20_000_000  # 0.9 s at the rate of the link
SERVICES = (*SENDER, *RECEIVER)


async def test_capture_restarts_under_load_and_nothing_is_lost(site: Site, say: Callable[[str], None]) -> None:
    site.lab.set_loss(0)
    site.wait("calm", await site.push("calm", 10_000, seed=10))
    before, dropped = site.counters(), site.kernel_drops()
    digest = await site.push("restarted", 3 * SIZE, seed=11)
    until(lambda: site.under_way() > SIZE // 2, 30, "the image is under way")
    began = time.monotonic()
    site.high.systemctl("restart", "checkvalve-capture")
    took = time.monotonic() - began
    assert site.under_way() > 0  # it was in the middle of it
    site.wait("restarted", digest)
    after = site.counters()
    changed = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    say(f"capture was restarted in {took:.2f} s; since then {changed}")
    assert site.kernel_drops() == dropped
    assert not {name for name in changed if name.startswith("drop.") or name in ("repaired", "lost")}


@pytest.mark.parametrize("unit", SERVICES)
async def test_a_killed_service_is_started_again_and_the_image_arrives(site: Site, unit: str) -> None:
    machine = site.machine(unit)
    pid, restarts = machine.main_pid(unit), int(machine.show(unit)["NRestarts"])
    digest = await site.push(f"killed-{unit}", 2 * SIZE, seed=SERVICES.index(unit) + 20)
    if unit in ("checkvalve-transmit", "checkvalve-capture"):
        until(lambda: site.under_way() > 0, 30, "the image is under way")
    machine.signal("KILL", pid)
    site.wait(f"killed-{unit}", digest)
    site.until_active(unit)
    shown = machine.show(unit)
    assert int(shown["MainPID"]) != pid
    # capture's socket may start it before its own restart is due
    assert int(shown["NRestarts"]) - restarts == 1 or unit == "checkvalve-capture"


async def test_the_watchdog_ends_what_is_stopped_and_all_goes_on(site: Site, say: Callable[[str], None]) -> None:
    for unit in ("checkvalve-fetch", "checkvalve-publish"):  # theirs are for slow registries: two minutes
        site.machine(unit).write(f"/etc/systemd/system/{unit}.service.d/90-test.conf", "[Service]\nWatchdogSec=20s\n")
        site.machine(unit).systemctl("daemon-reload")
        site.machine(unit).systemctl("restart", unit)
    pids = {unit: site.machine(unit).main_pid(unit) for unit in SERVICES}
    places = {machine: machine.cursor() for machine in (site.low, site.high)}
    for unit, pid in pids.items():
        site.machine(unit).signal("STOP", pid)
    digest = await site.push("stopped", SIZE, seed=30)
    began = time.monotonic()
    for unit, pid in pids.items():
        machine = site.machine(unit)
        until(lambda: machine.main_pid(unit) not in (0, pid), 60, f"{unit} was started again", every=0.5)  # noqa: B023
        site.until_active(unit)
        lines = machine.journal(f"{unit}.service", after=places[machine])
        assert any("Failed with result 'watchdog'" in line for line in lines), lines
    say(f"four stopped services were back after {time.monotonic() - began:.0f} s")
    site.wait("stopped", digest)
    for unit in ("checkvalve-fetch", "checkvalve-publish"):
        (site.machine(unit).root / f"etc/systemd/system/{unit}.service.d/90-test.conf").unlink()
        site.machine(unit).systemctl("daemon-reload")


@pytest.mark.parametrize("side", ["low", "high"])
async def test_a_host_boots_again_in_mid_transfer(site: Site, side: str) -> None:
    machine = site.low if side == "low" else site.high
    digest = await site.push(f"booted-{side}", 2 * SIZE, seed=40 + len(side))
    until(lambda: site.under_way() > 0, 30, "the image is under way")
    machine.reboot()
    site.wait(f"booted-{side}", digest)
    assert machine.systemctl("is-system-running").strip() == "running"


@pytest.mark.parametrize("unit", SERVICES)
async def test_settings_are_read_again_and_wrong_ones_are_told_and_not_taken(site: Site, unit: str) -> None:
    machine = site.machine(unit)
    path = f"/etc/checkvalve/{'sender' if unit in SENDER else 'receiver'}.yaml"
    good = machine.read(path)
    pid = machine.main_pid(unit)
    place = machine.cursor()
    try:
        machine.write(path, good + "\nlogs: {level: debug}\n")
        machine.systemctl("reload", unit)
        until(lambda: any("reloaded" in line for line in machine.journal(unit, after=place)), 10, "it is reloaded")
        machine.write(path, good + "\nlogs: {level: loud}\n")
        machine.systemctl("reload", unit)
        until(lambda: "logs.level" in machine.run("systemctl", "status", unit, check=False), 10, "the error is shown")
        shown = machine.show(unit)
        assert (shown["ActiveState"], int(shown["MainPID"])) == ("active", pid)
        if unit in ("checkvalve-transmit", "checkvalve-publish"):  # each side works on
            site.wait(f"reloaded-{unit}", await site.push(f"reloaded-{unit}", 1_000_000, SERVICES.index(unit) + 50))
    finally:
        machine.write(path, good)
        machine.systemctl("reload", unit)
    until(
        lambda: "logs.level" not in machine.show(unit)["StatusText"],
        10,
        "the error is over",
    )
    assert machine.main_pid(unit) == pid
