"""``checkvalve-receiver doctor``: whether this machine can receive at the link's rate, and what mends what is not.

Measures with the code that receives (protocol.wire, protocol.fec, link.py), for some seconds and on loopback only.
Needs no root and no key, and changes nothing. The receiver's settings do not name the sender's link profile, so
what matters of it is given here: rate, MTU, repair and outage.
"""

from __future__ import annotations

import math
import os
import random
import socket
import time
from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Literal

from protocol import aead, coding
from protocol.buffers import BlockBuffer
from protocol.decoder import ReceiveBuffer
from protocol.fec import BACKENDS, erasure_code
from protocol.geometry import LinkProfile, profile_for_link
from protocol.wire import BurstView, Type, datagram_bytes_for_mtu, datagrams_per_burst, prefix, symbol_bytes
from receiver.config import ReceiverSettings
from receiver.link import Link
from runtime import checks, host, logs, netlink
from runtime.errors import EXIT_USAGE, UserError
from runtime.findings import Finding, Report
from runtime.measure import per_second, sha256_speed, timed_part
from runtime.offload import SOL_UDP, UDP_SEGMENT, try_gro, try_gso, try_recvmmsg
from runtime.units import HostPort

RATE_UNKNOWN: Final = 1_000_000_000  # bits per second, where neither a person nor the interface names one
MTU_MIN: Final = 624
MTU_MAX: Final = 9_216
_LOSS: Final = 0.01
_BURSTS_TIMED: Final = 2  # as many as wait even in the smallest receive buffer
_BACKLOG_S: Final = 0.01
_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """What the sender's ``link`` section says; None: not known here."""

    rate: float | None = None
    mtu: int = 1500
    repair: float = 0.10
    outage: float = 0.010
    interface: str | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What the link asks of this machine. Rates in bits per second."""

    rate: float
    content: float  # of source symbols, when nothing else is sent
    datagram_bytes: int
    wire_bytes: int
    profile: LinkProfile

    @classmethod
    def of(cls, facts: LinkFacts, rate: float, *, ip_header: int, lanes: int = 1) -> Needs:
        """Work out the needs; UserError for an MTU that no link has."""
        if not MTU_MIN <= facts.mtu <= MTU_MAX:
            raise UserError(f"--mtu: {facts.mtu} is not from {MTU_MIN} to {MTU_MAX}", exit_code=EXIT_USAGE)
        size = datagram_bytes_for_mtu(facts.mtu, ip_header)
        wire = size + ip_header + 8
        profile = profile_for_link(symbol_bytes(size), rate / lanes / 8 / wire, facts.repair, facts.outage)
        share = profile.symbol_bytes / wire * profile.k / (profile.k + profile.m)
        return cls(rate, rate * share, size, wire, profile)


def doctor(settings: ReceiverSettings, facts: LinkFacts, *, as_json: bool) -> int:
    """Look at everything and print it; return 1 if the link's rate cannot be met, else 0."""
    logs.configure(settings.logs.format, "error")  # the rows say it all
    machine = host.Host()
    interface, reason = listening_interface(machine, settings.listen.on.host, facts.interface)
    rate, rate_from = link_rate(machine, settings, facts, interface)
    ip_header = 40 if settings.listen.on.family == socket.AF_INET6 else 20
    needs = Needs.of(facts, rate, ip_header=ip_header, lanes=settings.listen.lanes)
    report = Report("receiver", rate, rate_from)
    if interface is None:
        report.findings.append(Finding("interface", reason, "one", "warn", "--interface NAME"))
    else:
        report.findings.append(Finding("interface", f"{interface}: {reason}"))
        _network(report, machine, interface, facts, rate, settings.listen.lanes)
    _kernel(report, machine, settings, needs)
    _protocol(report, settings, needs, facts.mtu)
    _storage(report, settings, needs)
    return report.show(as_json=as_json)


def link_rate(
    machine: host.Host, settings: ReceiverSettings, facts: LinkFacts, interface: str | None
) -> tuple[float, str]:
    """Return the rate to judge against, and who named it."""
    if facts.rate is not None:
        return facts.rate, "--rate"
    if settings.listen.rate is not None:
        return settings.listen.rate, "listen.rate"
    try:
        speed = machine.speed(interface) if interface else None
    except (OSError, ValueError):
        speed = None
    if speed is not None:
        return speed, f"the speed of {interface}; listen.rate says it better"
    return RATE_UNKNOWN, "assumed; say it in listen.rate or --rate"


def listening_interface(machine: host.Host, address: str, named: str | None) -> tuple[str | None, str]:
    """Return the interface that the datagrams arrive at (None if that cannot be told), and why this one."""
    if named is not None:
        return named, "--interface"
    if address in _ANY:
        try:
            names = machine.interfaces()
        except OSError as error:
            return None, f"not readable: {error.strerror}"
        if len(names) == 1:
            return names[0], "the only one that is up"
        return None, f"listen.on: {address} is every one of {', '.join(names) or 'no interface'}"
    try:
        found = [interface for interface, own in netlink.addresses() if own == address]
    except OSError as error:
        return None, f"not readable: {error.strerror}"
    return (found[0], f"has {address}") if found else (None, f"no interface has {address} of listen.on")


def _network(report: Report, machine: host.Host, interface: str, facts: LinkFacts, rate: float, lanes: int) -> None:
    report.add("mtu", lambda: checks.interface_mtu(machine, interface, facts.mtu))
    report.add("interface speed", lambda: checks.interface_speed(machine, interface, rate))
    report.add("receive ring", lambda: checks.ring(machine, interface, host.rings, receiving=True))
    report.add("receive queues", lambda: checks.queues(machine, interface, lanes, host.cores()))
    report.add("rp_filter", lambda: reverse_path(machine, interface))


def reverse_path(machine: host.Host, interface: str) -> Finding:
    """Judge the reverse path filter (RFC 3704): it drops datagrams whose sender this host has no route back to."""
    if machine.is_loopback(interface):
        return Finding("rp_filter", "loopback has none")
    names = [f"net.ipv4.conf.{name}.rp_filter" for name in ("all", interface)]
    values = [machine.sysctl(f"net.ipv4.conf.{name}.rp_filter")[0] for name in ("all", interface)]
    on = [name for name, value in zip(names, values, strict=True) if value]
    return Finding(
        "rp_filter",
        f"{max(values)} on {interface}",
        "0: a diode has no way back",
        "warn" if on else "ok",
        "sysctl -w " + " ".join(f"{name}=0" for name in on) if on else "",
        max(values),
    )


def _kernel(report: Report, machine: host.Host, settings: ReceiverSettings, needs: Needs) -> None:
    asked = settings.listen.receive_buffer
    stall = math.ceil(needs.rate / 8 * checks.STALL_S)
    backlog = math.ceil(needs.rate / 8 / needs.wire_bytes * _BACKLOG_S)
    pages = math.ceil(2 * stall / os.sysconf("SC_PAGE_SIZE"))  # the kernel counts its own bookkeeping too

    def buffer() -> Finding:
        try:
            allowed = machine.sysctl("net.core.rmem_max")[0]
        except (OSError, ValueError):
            allowed = None
        plain, forced = host.receive_buffer(asked)
        return checks.receive_buffer(plain, forced, asked, needs.rate, allowed)

    report.add("cpu", lambda: checks.cpu(machine.cpu_flags(), host.machine()))
    report.add("frequency governor", lambda: checks.governor(machine.governors()))
    report.add("GRO", lambda: checks.offloads([("GRO", try_gro()), ("recvmmsg", try_recvmmsg())]))
    report.add("receive buffer", buffer)
    for name, value, index, why in (
        ("net.core.rmem_max", stall, 0, "what listen.receive_buffer may be"),
        ("net.core.rmem_default", 0, 0, "of no matter, the buffer is asked for"),
        ("net.core.netdev_max_backlog", backlog, 0, f"datagrams in {_BACKLOG_S * 1000:.0f} ms"),
        ("net.ipv4.udp_mem", pages, 2, "pages for all UDP sockets together, the third number"),
    ):
        report.add(
            name,
            lambda name=name, value=value, index=index, why=why: checks.sysctl(  # type: ignore[misc]
                machine, name, value, why, index=index
            ),
        )


def _protocol(report: Report, settings: ReceiverSettings, needs: Needs, mtu: int) -> None:
    lanes = settings.listen.lanes
    if lanes > 1:
        report.findings.append(checks.lanes(lanes, host.cores(), "listen.lanes"))
    share = checks.lane_share(lanes, host.cores())  # of the rate, that one core has to manage
    rate, content = needs.rate * share, needs.content * share

    def mend(found: float, needed: float) -> str:
        return "on the sender " + checks.lower_rate("link.rate", found, needed, needs.rate)

    received = math.inf  # where loopback cannot be used, opening stands for the loop

    def receive() -> Finding:
        nonlocal received
        path, received = receive_speed(needs.datagram_bytes, needs.wire_bytes, settings.listen.gro)
        return checks.throughput("receive", received, rate, mend=mend(received, rate), what=f"{path}, on loopback")

    report.add("receive", receive)
    micros = 1e6 / open_speed(needs.datagram_bytes)
    opened = needs.wire_bytes * 8 / micros * 1e6
    report.findings.append(
        checks.throughput(
            "open",
            opened,
            rate,
            mend=checks.faster_by(aead.PACKAGE, mend(opened, rate)),
            what=f"AES-256-GCM by {aead.CHOICE}, {micros:.2f} µs a datagram",
        )
    )
    load = rate / received + rate / opened
    report.findings.append(
        checks.throughput(
            "receive loop", rate / load, rate, mend=mend(rate / load, rate), what="the two above on one core"
        )
    )
    decoded = decode_speed(needs.profile) * 8
    native = "isal" in BACKENDS
    code = "ISA-L" if native else "portable code, no pyeclib"
    report.findings.append(
        checks.throughput(
            "decode",
            decoded,
            content,
            mend=mend(decoded, content) if native else "pip install pyeclib",
            what=f"{code}, k={needs.profile.k} m={needs.profile.m}, {_LOSS:.0%} lost",
        )
    )


def _storage(report: Report, settings: ReceiverSettings, needs: Needs) -> None:
    def mend(found: float) -> str:
        return "on the sender " + checks.lower_rate("link.rate", found, needs.content, needs.rate)

    def hashing() -> Finding:
        found = sha256_speed() * 8
        return checks.throughput("SHA-256", found, needs.content, mend=mend(found))

    report.add("SHA-256", hashing)
    report.add(
        "zstd",
        lambda: checks.throughput(
            "zstd",
            decompress_speed() * 8,
            needs.content,
            mend="a faster processor: what is compressed is published later",
            essential=False,
        ),
    )
    report.add(
        "disk write",
        lambda: checks.disk_write(
            settings.state,
            needs.content,
            essential=True,
            mend="put state on a faster disk, or lower the sender's rate",
        ),
    )
    key = "limits.partial_space"
    report.add("disk free", lambda: checks.disk_free(settings.state, settings.limits.partial_space, key, key=key))


# --- measurements -------------------------------------------------------------------------------------------------


def receive_speed(datagram_bytes: int, wire_bytes: int, gro: Literal["auto", "mmsg", "off"]) -> tuple[str, float]:
    """Return the path in use and its bits a second (IP level) on loopback, the system calls alone."""
    with ExitStack() as stack:
        link = Link(HostPort("127.0.0.1", 0), 4 << 20, gro=gro)
        stack.callback(link.close)
        near = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        near.connect(link.address)
        count = datagrams_per_burst(datagram_bytes)
        step = datagram_bytes
        if try_gso().works:
            near.setsockopt(SOL_UDP, UDP_SEGMENT, datagram_bytes)
            step *= count
        burst = memoryview(bytearray(count * datagram_bytes))
        buffer = ReceiveBuffer()

        def work() -> tuple[float, float]:
            for _ in range(_BURSTS_TIMED):
                for at in range(0, len(burst), step):
                    near.send(burst[at : at + step])
            link.wait(1)
            received = 0
            begun = time.perf_counter()
            while (run := link.receive(buffer))[1]:
                received += run[0]
            return received / datagram_bytes * wire_bytes * 8, time.perf_counter() - begun

        speed = timed_part(work)
        return link.path, speed


def open_speed(datagram_bytes: int) -> float:
    """Return datagrams a second of reading headers and opening, as the decoder does it."""
    count = datagrams_per_burst(datagram_bytes)
    view = BurstView(memoryview(bytearray(count * datagram_bytes)), datagram_bytes, count)
    symbols, key = BlockBuffer(count, symbol_bytes(datagram_bytes)), os.urandom(32)
    view.write_headers(prefix(Type.SYMBOL, b"\0\0\0\0"), 0, 1, 0, array("I", range(count)))
    aead.sealer(key).seal(view, count, symbols, 0)
    opening = aead.opener(key)

    def work() -> float:
        for column in (view.prefixes, view.numbers, view.positions):
            column(count)
        view.one_block(count)
        opening.open(view, 0, count, symbols)
        return count

    return per_second(work)


def decode_speed(profile: LinkProfile) -> float:
    """Return source bytes a second of restoring codewords that lost 1 % of their symbols, others each time."""
    code = erasure_code(profile.k, profile.m)
    source = bytearray(os.urandom(profile.k * profile.symbol_bytes))
    repair = [bytes(symbol) for symbol in code.encode(bytes(source))]
    losses = min(profile.m, max(1, round(profile.k * _LOSS)))
    coin = random.Random(1)  # noqa: S311 - which symbols are lost
    codeword = memoryview(source)

    def work() -> float:
        lost = sorted(coin.sample(range(profile.k), losses))
        code.recover(codeword, profile.symbol_bytes, lost, dict(enumerate(repair)))
        return len(source)

    return per_second(work)


def decompress_speed() -> float:
    """Return content bytes a second of zstd, on text that was compressed about threefold."""
    words = [os.urandom(3).hex() for _ in range(500)]
    text = " ".join(words[byte % 500] for byte in os.urandom(150_000)).encode()
    frame = b"".join(coding.compress([text], len(text)))

    def work() -> float:
        for _ in coding.decompress([frame], len(text)):
            pass
        return len(text)

    return per_second(work)
