"""What is wrong on a host: one clear line, a sane unit state, no storm of restarts, and a way back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.oneway import HIGH_NET, LOW, LOW_GATEWAY
from tests.lab.world import PORT, until
from tests.systemd.machine import CommandFailed, Machine
from tests.systemd.site import Site

pytestmark = [pytest.mark.booted, pytest.mark.timeout(900)]

CAPTURE, PUBLISH, TRANSMIT = "checkvalve-capture", "checkvalve-publish", "checkvalve-transmit"
SETTINGS = "/etc/checkvalve/receiver.yaml"


def says(machine: Machine, unit: str, text: str, after: str, seconds: float = 20) -> None:
    """Wait until the journal has a line with *text* about *unit*."""
    name = unit if "." in unit else f"{unit}.service"
    until(
        lambda: any(text in line for line in machine.journal(name, after=after)),
        seconds,
        f"{text!r} in the journal of {name}:\n" + "\n".join(machine.journal(name, after=after)[-10:]),
        every=0.3,
    )


def no_storm(machine: Machine, unit: str, seconds: float = 6, most: int = 2) -> None:
    """Assert that a unit is started at most *most* times within so many seconds, by itself or by its socket."""
    place = machine.cursor()
    time.sleep(seconds)
    lines = machine.journal(f"{unit}.service", after=place)
    starts = [line for line in lines if line.startswith(f"Starting {unit}.service")]
    assert len(starts) <= most, lines


@contextmanager
def moved(machine: Machine, path: str) -> Iterator[None]:
    """A file of a system is not there while the block lasts."""
    place = machine.root / path.lstrip("/")
    away = Path(f"{place}.away")
    place.rename(away)
    try:
        yield
    finally:
        away.rename(place)


def restart(machine: Machine, unit: str) -> str:
    """Restart a unit that will not start; return the journal's place before it."""
    place = machine.cursor()
    with pytest.raises(CommandFailed):
        machine.systemctl("restart", unit)
    return place


def test_missing_credential(site: Site) -> None:
    with moved(site.low, "/etc/checkvalve/keys/sender.pem"):
        place = restart(site.low, TRANSMIT)
        says(site.low, TRANSMIT, "Failed to set up credentials", place)
        no_storm(site.low, TRANSMIT)
    site.until_active(TRANSMIT)  # by itself


def test_settings_that_the_service_may_not_read(site: Site) -> None:
    settings = site.high.root / SETTINGS.lstrip("/")
    settings.chmod(0o600)
    try:
        place = restart(site.high, PUBLISH)
        says(site.high, PUBLISH, f"{SETTINGS}", place)
        assert site.high.show(PUBLISH)["ActiveState"] == "failed"
        no_storm(site.high, PUBLISH, most=0)
    finally:
        settings.chmod(0o640)
    site.high.systemctl("restart", PUBLISH)


def test_wrong_settings_at_the_start(site: Site) -> None:
    good = site.high.read(SETTINGS)
    site.high.write(SETTINGS, good + "\nlogs: {level: loud}\n")
    try:
        for unit in (PUBLISH, CAPTURE):
            place = restart(site.high, unit)
            says(site.high, unit, "logs.level", place)
        assert site.high.show(PUBLISH)["ActiveState"] == "failed"
        no_storm(site.high, PUBLISH, most=0)
        no_storm(site.high, CAPTURE, most=1)  # each datagram asks for it; its ExecStopPost= makes that every 10 s
    finally:
        site.high.write(SETTINGS, good)
    site.high.systemctl("start", PUBLISH)
    site.until_active(CAPTURE)  # by itself: the next datagram asks for it


def test_the_port_is_taken_by_another_process(site: Site) -> None:
    site.high.systemctl("stop", CAPTURE, f"{CAPTURE}.socket")
    code = f"import socket, time; s = socket.socket(type=2); s.bind(('0.0.0.0', {PORT})); time.sleep(600)"
    site.high.run("systemd-run", "--quiet", "--unit=taker", "python3", "-c", code)
    try:
        until(lambda: f":{PORT:04X} " in site.high.run("cat", "/proc/net/udp"), 10, "the port is taken")
        place = site.high.cursor()
        with pytest.raises(CommandFailed):
            site.high.systemctl("start", f"{CAPTURE}.socket")
        # systemd opens the socket in a child, whose line has the reason and is not listed under the unit
        reason = f"{CAPTURE}.socket: Failed to create listening socket (0.0.0.0:{PORT}): Address already in use"
        until(lambda: reason in site.high.journal(after=place), 10, "the journal has the reason")
        assert site.high.show(f"{CAPTURE}.socket")["ActiveState"] == "failed"
        assert site.high.show(CAPTURE)["ActiveState"] in ("inactive", "failed")
    finally:
        site.high.systemctl("stop", "taker")
    site.high.systemctl("start", "checkvalve-receiver.target", f"{CAPTURE}.socket", CAPTURE)
    site.until_active(CAPTURE)


def test_a_socket_without_room_in_its_buffer(site: Site) -> None:
    dropin = f"/etc/systemd/system/{CAPTURE}.socket.d/90-test.conf"
    site.high.write(dropin, "[Socket]\nReceiveBuffer=64K\n")
    try:
        site.high.systemctl("daemon-reload")
        site.high.systemctl("stop", CAPTURE, f"{CAPTURE}.socket")
        place = site.high.cursor()
        site.high.systemctl("start", f"{CAPTURE}.socket", CAPTURE)
        says(site.high, CAPTURE, "receive_buffer_small", place)
        assert site.high.show(CAPTURE)["ActiveState"] == "active"
    finally:
        (site.high.root / dropin.lstrip("/")).unlink()
        site.high.systemctl("daemon-reload")
    site.high.systemctl("stop", CAPTURE, f"{CAPTURE}.socket")
    site.high.systemctl("start", f"{CAPTURE}.socket", CAPTURE)


async def test_the_disk_is_full_at_the_start(site: Site) -> None:
    state = "/var/lib/checkvalve-receiver"
    site.high.systemctl("stop", CAPTURE, PUBLISH, f"{CAPTURE}.socket")
    site.high.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", state)
    site.high.run("sh", "-c", f"head -c 60000 /dev/zero > {state}/ballast; chown -R checkvalve-receiver: {state}")
    try:
        place = site.high.cursor()
        site.high.run("systemctl", "start", f"{CAPTURE}.socket", CAPTURE, check=False)
        says(site.high, CAPTURE, "journal.sqlite: the disk is full; make room", place, 30)
        no_storm(site.high, CAPTURE, seconds=8)
    finally:
        site.high.run("systemctl", "stop", CAPTURE, f"{CAPTURE}.socket", check=False)
        site.high.run("umount", state)
    site.high.systemctl("start", f"{CAPTURE}.socket", CAPTURE, PUBLISH)
    site.until_active(CAPTURE)


def test_the_python_that_was_installed_with_is_gone(site: Site) -> None:
    with moved(site.high, "/usr/bin/python3.11"):
        place = site.high.cursor()
        site.high.run("systemctl", "restart", PUBLISH, check=False)
        says(site.high, PUBLISH, "python", place)
        no_storm(site.high, PUBLISH)
        with pytest.raises(
            CommandFailed, match=r"error: unsupported Python on this host: need 3\.11, 3\.12 or 3\.13"
        ):
            site.install_again("receiver")
    site.until_active(PUBLISH)


@contextmanager
def absent(machine: Machine, device: str) -> Iterator[None]:
    """A system's interface to the diode has another name and is down while the block lasts."""
    machine.run("ip", "link", "set", "dev", device, "down")
    machine.run("ip", "link", "set", "dev", device, "name", "late0")
    try:
        yield
    finally:
        machine.run("ip", "link", "set", "dev", "late0", "name", device)
        machine.run("ip", "link", "set", "dev", device, "arp", "off", "up")


async def test_the_sender_s_interface_comes_after_the_boot(site: Site) -> None:
    """transmit is told to send by lowtx alone."""
    settings = "/etc/checkvalve/sender.yaml"
    good = site.low.read(settings)
    neighbour = site.low.run("ip", "neighbour", "show", LOW_GATEWAY).split()
    address = neighbour[neighbour.index("lladdr") + 1]
    site.low.write(settings, good.replace("link:\n", "link:\n  interface: lowtx\n", 1))
    try:
        with absent(site.low, "lowtx"):
            place = site.low.cursor()
            site.low.reboot()
            says(site.low, TRANSMIT, "link.interface: lowtx: No such device", place)
            no_storm(site.low, TRANSMIT)
        site.low.run("ip", "neighbour", "replace", LOW_GATEWAY, "lladdr", address, "dev", "lowtx")
        site.low.run("ip", "route", "replace", HIGH_NET, "via", LOW_GATEWAY, "src", LOW)
        site.until_active(TRANSMIT)  # by itself
        site.wait("late-low", await site.push("late-low", 1_000_000, seed=70), 60)
    finally:
        site.low.write(settings, good)


async def test_the_receiver_s_interface_comes_after_the_boot(site: Site) -> None:
    with absent(site.high, "highrx"):
        site.high.reboot()
        assert site.high.show(f"{CAPTURE}.socket")["ActiveState"] == "active"  # FreeBind=
        site.until_active(CAPTURE)
    site.wait("late-high", await site.push("late-high", 1_000_000, seed=72), 60)


async def test_after_all_of_it_images_cross_as_before(site: Site) -> None:
    site.wait("after", await site.push("after", 1_000_000, seed=71))
