"""What ``doctor`` reads of the machine, from pictures of machines and from this one."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from runtime import netlink
from runtime.host import Host, Rings, parse_rings, path_mtu, receive_buffer, rings, send_buffer
from runtime.netlink import Neighbour, Route

LO = socket.if_nametoindex("lo")


def test_interfaces(host: Host) -> None:
    assert host.interfaces() == ["eth0", "tun0", "wlan0"]
    assert (host.mtu("eth0"), host.speed("eth0")) == (9000, 10_000_000_000)
    assert [host.speed(name) for name in ("wlan0", "tun0", "lo")] == [None, None, None]
    assert [host.is_loopback(name) for name in ("eth0", "lo")] == [False, True]
    assert [host.resolves(name) for name in ("eth0", "tun0", "lo")] == [True, False, False]
    for read in (host.mtu, host.speed, host.is_loopback):
        with pytest.raises(FileNotFoundError):
            read("eth7")


def test_sysctls(host: Host) -> None:
    assert host.sysctl("net.core.rmem_max") == [212_992]
    assert host.sysctl("net.ipv4.udp_mem") == [769, 1027, 1538]
    with pytest.raises(FileNotFoundError):
        host.sysctl("net.core.wmem_max")
    (host.proc / "sys/net/core/rmem_max").write_text("many\n")
    with pytest.raises(ValueError, match="many"):
        host.sysctl("net.core.rmem_max")


@pytest.mark.parametrize(
    ("text", "has"),
    [
        (
            "processor\t: 0\nmodel name\t: X\nflags\t\t: fpu aes sha_ni avx2\nbugs\t\t: none\n",
            {"aes", "sha_ni", "avx2"},
        ),
        ("processor\t: 0\nFeatures\t: fp asimd aes sha2\nCPU part\t: 0xd0c\n", {"asimd", "aes", "sha2"}),
    ],
)
def test_cpu_flags(host: Host, text: str, has: set[str]) -> None:
    (host.proc / "cpuinfo").write_text(text)
    assert host.cpu_flags() >= has
    assert "none" not in host.cpu_flags()


def test_a_processor_that_names_no_flags(host: Host) -> None:
    (host.proc / "cpuinfo").write_text("processor : 0\n")
    with pytest.raises(ValueError, match="names no flags"):
        host.cpu_flags()


def test_ring_sizes() -> None:
    answer = struct.pack("=9I", 0x10, 4096, 1, 2, 8192, 512, 3, 4, 1024)
    assert parse_rings(answer) == Rings(receive=512, receive_max=4096, transmit=1024, transmit_max=8192)
    with pytest.raises(OSError, match=f"Errno {errno.EOPNOTSUPP}]"):
        rings("lo")


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body + bytes(-len(body) % 4)


def test_a_route_of_the_kernel() -> None:
    head = bytes(12)
    oif = attribute(4, struct.pack("=I", LO))
    assert netlink.parse_route(head + oif) == Route("lo", None)
    gateway = attribute(5, socket.inet_aton("192.0.2.1"))
    assert netlink.parse_route(head + attribute(1, b"abcde") + gateway + oif) == Route("lo", "192.0.2.1")
    assert netlink.parse_route(head + attribute(4, struct.pack("=I", 999_999))) == Route("interface 999999", None)
    with pytest.raises(OSError, match="leads to no interface"):
        netlink.parse_route(head + gateway)


@pytest.mark.parametrize(
    ("state", "named"), [(0x80, "permanent"), (0x04, "stale"), (0x20, "failed"), (0x00, "state 0x0")]
)
def test_a_neighbour_of_the_kernel(state: int, named: str) -> None:
    head = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, LO, state, 0, 0)
    body = attribute(1, socket.inet_aton("192.0.2.9"))
    assert netlink.parse_neighbour(head + body) == Neighbour("192.0.2.9", "lo", None, named)
    body += attribute(2, bytes.fromhex("020000000001"))
    assert netlink.parse_neighbour(head + body) == Neighbour("192.0.2.9", "lo", "02:00:00:00:00:01", named)
    assert netlink.parse_neighbour(head) is None
    assert netlink.parse_neighbour(struct.pack("=BBHiHBB", 7, 0, 0, LO, state, 0, 0) + body) is None


def test_an_address_of_the_kernel() -> None:
    head = struct.pack("=BBBBI", socket.AF_INET, 30, 0, 0, LO)
    far, own = attribute(1, socket.inet_aton("192.0.2.1")), attribute(2, socket.inet_aton("192.0.2.2"))
    assert netlink.parse_address(head + far + own) == ("lo", "192.0.2.2")
    assert netlink.parse_address(head + far) == ("lo", "192.0.2.1")
    assert netlink.parse_address(head) is None


def test_messages_and_what_is_wrong_with_them() -> None:
    data = message(24, b"abcde") + message(3, b"\0\0\0\0")
    assert list(netlink.messages(data)) == [(24, b"abcde"), (3, b"\0\0\0\0")]
    assert list(netlink.messages(data[:10])) == []
    with pytest.raises(OSError, match=f"Errno {errno.ENETUNREACH}]"):
        list(netlink.messages(message(2, struct.pack("=i", -errno.ENETUNREACH))))
    with pytest.raises(OSError, match="without length"):
        list(netlink.messages(bytes(16)))
    assert list(netlink.attributes(struct.pack("=HH", 0, 1) + b"rest")) == []


def test_this_machine_is_understood() -> None:
    assert netlink.route_to("127.0.0.1") == Route("lo", None)
    assert ("lo", "127.0.0.1") in netlink.addresses()
    assert all(entry.interface for entry in netlink.neighbours())
    here = Host()
    assert here.is_loopback("lo")
    assert here.mtu("lo") >= path_mtu("127.0.0.1") >= 1500
    assert here.speed("lo") is None
    plain, forced = receive_buffer(1 << 16)
    assert plain == 1 << 16
    assert forced in (None, 1 << 16)
    assert send_buffer(1 << 16) == 1 << 16
    assert receive_buffer(1 << 40 - 10)[0] <= here.sysctl("net.core.rmem_max")[0]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names of x86")
def test_the_processor_of_this_machine() -> None:
    assert "sse2" in Host().cpu_flags()
