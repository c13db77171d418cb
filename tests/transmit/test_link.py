"""The UDP socket towards the diode, on loopback and on a virtual interface."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Literal

import pytest

from runtime.errors import UserError
from runtime.units import HostPort
from sender.link import Link
from tests.support.content import some_bytes
from tests.transmit.rig import free_port

Gso = Literal["auto", "mmsg", "off"]


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(2)
        yield sock


def to(port: int, host: str = "127.0.0.1") -> HostPort:
    return HostPort(host, port)


@pytest.mark.parametrize("gso", ["auto", "mmsg", "off"])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_every_path_delivers_the_same_datagrams(ear: socket.socket, gso: Gso, mtu: int) -> None:
    link = Link(to(ear.getsockname()[1]), mtu, gso=gso)
    size, count = link.datagram_bytes, 65_000 // link.datagram_bytes
    burst = some_bytes(size * count)
    assert link.send(memoryview(burst))
    assert [ear.recv(70_000) for _ in range(count)] == [burst[at : at + size] for at in range(0, len(burst), size)]
    assert link.send(memoryview(burst)[: 2 * size]), "and a shorter burst after it"
    assert [ear.recv(70_000) for _ in range(2)] == [burst[:size], burst[size : 2 * size]]
    link.close()


def test_ipv6_counts_its_longer_header() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        link = Link(to(sock.getsockname()[1], "::1"), 1500)
        assert link.header_bytes + link.datagram_bytes <= 1500
        assert link.send(memoryview(some_bytes(link.datagram_bytes)))
        sock.settimeout(2)
        assert len(sock.recv(2000)) == link.datagram_bytes
        link.close()


@pytest.mark.parametrize("gso", ["auto", "mmsg", "off"])
def test_a_closed_receiver_is_no_error(gso: Gso) -> None:
    link = Link(to(free_port()), 1500, gso=gso)
    for _ in range(50):
        assert link.send(memoryview(some_bytes(10 * link.datagram_bytes)))
    assert link.failures == 0
    link.close()


def test_a_name_is_refused_because_a_diode_has_no_dns() -> None:
    with pytest.raises(UserError, match=r"link\.to: 'diode' is not an IP address"):
        Link(HostPort("diode", 4000), 1500)


CLONE_NEWNET = 0x40000000


@pytest.fixture
def interface() -> Iterator[str]:
    """A virtual cable with MTU 1500 in a network namespace of this test's own: nothing else can be reached."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip(8) for a network namespace")
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespaces here: {os.strerror(ctypes.get_errno())}")
        made = subprocess.run(["ip", "link", "add", "near", "type", "veth", "peer", "name", "far"], check=False)
        if made.returncode != 0:
            pytest.skip("the kernel has no veth interfaces")
        subprocess.run(["ip", "address", "add", "203.0.113.1/24", "dev", "near"], check=True)
        for end in ("near", "far"):
            subprocess.run(["ip", "link", "set", end, "mtu", "1500", "up"], check=True)
        yield "near"
    finally:
        assert libc.setns(outside, CLONE_NEWNET) == 0
        os.close(outside)


@pytest.mark.parametrize("gso", ["auto", "mmsg", "off"])
def test_datagrams_that_do_not_fit_the_interface_end_with_one_line(interface: str, gso: Gso) -> None:
    link = Link(to(4000, "203.0.113.2"), 9000, gso=gso)
    with pytest.raises(UserError, match=r"^link\.mtu: a datagram of \d+ bytes does not fit .*lower link\.mtu[^\n]*$"):
        link.send(memoryview(some_bytes(link.datagram_bytes * 2)))
    link.close()


@pytest.mark.parametrize("gso", ["auto", "mmsg", "off"])
def test_an_interface_that_is_down_is_told_at_once_and_works_when_it_is_up_again(interface: str, gso: Gso) -> None:
    link = Link(to(4000, "203.0.113.2"), 1500, gso=gso)
    burst = memoryview(some_bytes(link.datagram_bytes * 3))
    subprocess.run(
        ["ip", "neighbour", "add", "203.0.113.2", "lladdr", "02:00:00:00:00:01", "dev", interface], check=True
    )
    assert link.send(burst)
    subprocess.run(["ip", "link", "set", interface, "down"], check=True)
    begun = time.monotonic()
    assert not link.send(burst)
    assert not link.send(burst)
    assert link.down
    assert link.failures >= 2
    assert time.monotonic() - begun < 1
    subprocess.run(["ip", "link", "set", interface, "up"], check=True)
    assert link.send(burst)
    assert not link.down
    link.close()


def test_a_link_tied_to_its_interface_never_leaves_by_another(interface: str) -> None:
    for command in (
        ["ip", "link", "add", "other", "type", "veth", "peer", "name", "away"],
        ["ip", "address", "add", "198.51.100.1/24", "dev", "other"],
        ["ip", "link", "set", "other", "up"],
        ["ip", "link", "set", "away", "up"],
        ["ip", "neighbour", "add", "198.51.100.2", "lladdr", "02:00:00:00:00:02", "dev", "other"],
        ["ip", "route", "add", "default", "via", "198.51.100.2"],
        ["ip", "neighbour", "add", "203.0.113.2", "lladdr", "02:00:00:00:00:01", "dev", interface],
    ):
        subprocess.run(command, check=True)
    tied, loose = Link(to(4000, "203.0.113.2"), 1500, interface=interface), Link(to(4000, "203.0.113.2"), 1500)
    burst = memoryview(some_bytes(tied.datagram_bytes * 3))
    assert tied.send(burst)
    subprocess.run(["ip", "link", "set", interface, "down"], check=True)
    assert not tied.send(burst)
    assert loose.send(burst)  # what being tied is for: the kernel would take the default route
    tied.close()
    loose.close()


def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"^link\.interface: diode9: No such device; [^\n]*$"):
        Link(to(4000), 1500, interface="diode9")
