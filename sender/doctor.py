"""``checkvalve-sender doctor``: whether this machine can send at ``link.rate``, and the line that mends what is not.

Measures with the code that sends (protocol.wire, protocol.fec, link.py), for some seconds and on loopback only:
nothing goes towards the diode. Needs no root and no key, and changes nothing.
"""

from __future__ import annotations

import ipaddress
import math
import os
import socket
import time
from array import array
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final, Literal

from protocol import aead, coding
from protocol.buffers import BlockBuffer
from protocol.fec import BACKENDS, erasure_code
from protocol.geometry import LinkProfile, profile_for_link
from protocol.wire import BurstView, Type, datagram_bytes_for_mtu, datagrams_per_burst, prefix, symbol_bytes
from runtime import checks, host, logs, netlink
from runtime.errors import UserError
from runtime.findings import Finding, Report, Verdict
from runtime.measure import per_second, sha256_speed, timed_part
from runtime.offload import SOL_UDP, UDP_GRO, try_gso, try_sendmmsg
from runtime.terminal import human_bytes
from runtime.units import HostPort
from sender.config import SenderSettings
from sender.journal import SenderJournal
from sender.link import SEND_BUFFER_BYTES, Link

_BURSTS_TIMED: Final = 4
_KNOWN: Final = frozenset({"reachable", "stale", "delay", "probe"})
_FETCH_WAITS: Final = "a faster {}: fetch falls behind the link, which then waits"


@dataclass(frozen=True, slots=True)
class Needs:
    """What the configured link asks of this machine. Rates in bits per second."""

    rate: float  # on the wire
    content: float  # of source symbols, when nothing else is sent
    datagram_bytes: int
    wire_bytes: int  # a datagram with its IP and UDP headers
    profile: LinkProfile

    @classmethod
    def of(cls, settings: SenderSettings) -> Needs:
        """Work out the needs; UserError if link.to is a name."""
        link = settings.link
        try:
            version = ipaddress.ip_address(link.to.host).version
        except ValueError:
            raise UserError(
                f"link.to: {link.to.host!r} is not an IP address; a diode has no DNS, give e.g. 10.0.0.1:4000"
            ) from None
        ip_header = 40 if version == 6 else 20
        size = datagram_bytes_for_mtu(link.mtu, ip_header)
        wire = size + ip_header + 8
        profile = profile_for_link(symbol_bytes(size), link.lane_rate / 8 / wire, link.repair, link.outage)
        share = profile.symbol_bytes / wire * profile.k / (profile.k + profile.m)
        return cls(link.rate, link.rate * share, size, wire, profile)


def doctor(settings: SenderSettings, *, as_json: bool) -> int:
    """Look at everything and print it; return 1 if the configured rate cannot be met, else 0."""
    logs.configure(settings.logs.format, "error")  # the rows say it all
    needs = Needs.of(settings)
    report = Report("sender", settings.link.rate, "link.rate")
    _network(report, settings)
    _kernel(report, settings)
    _protocol(report, settings, needs)
    _storage(report, settings, needs)
    return report.show(as_json=as_json)


def _network(report: Report, settings: SenderSettings, machine: host.Host | None = None) -> None:
    machine = machine or host.Host()
    link, address = settings.link, settings.link.to.host
    try:
        route = netlink.route_to(address)
    except (OSError, ValueError) as error:
        report.findings.append(
            Finding(
                "route",
                f"none to {address} ({getattr(error, 'strerror', None) or error})",
                "an interface that leads to the diode",
                "fail",
                f"ip route add {address} dev INTERFACE",
            )
        )
        return
    interface = route.interface
    via = f" by {route.gateway}" if route.gateway else ""
    report.findings.append(Finding("route", f"{address} through {interface}{via}", "an interface"))

    def narrowest() -> Finding:
        known = None
        with suppress(OSError):
            known = host.path_mtu(address)
        return checks.interface_mtu(machine, interface, link.mtu, known)

    report.add("mtu", narrowest)
    report.add("interface speed", lambda: checks.interface_speed(machine, interface, link.rate))
    report.add("neighbour", lambda: neighbour(machine, interface, route.gateway or address, netlink.neighbours()))
    report.add("transmit ring", lambda: checks.ring(machine, interface, host.rings, receiving=False))


def neighbour(machine: host.Host, interface: str, next_hop: str, known: list[netlink.Neighbour]) -> Finding:
    """Judge whether the next hop's link address is written down: a diode answers no ARP."""
    if not machine.resolves(interface):
        return Finding("neighbour", f"{interface} needs none")
    entry = next((entry for entry in known if (entry.address, entry.interface) == (next_hop, interface)), None)
    state = entry.state if entry else "unknown"
    verdict: Verdict = "ok" if state == "permanent" else "warn"
    if entry is not None and state not in _KNOWN and verdict != "ok":
        verdict = "fail"  # asked for, and nobody answered
    hardware = (entry.link_address if entry else None) or "MAC"
    mend = f"ip neigh replace {next_hop} lladdr {hardware} dev {interface} nud permanent"
    return Finding(
        "neighbour", f"{next_hop} on {interface}: {state}", "permanent", verdict, "" if verdict == "ok" else mend
    )


def _kernel(report: Report, settings: SenderSettings) -> None:
    machine = host.Host()
    burst = max(settings.link.burst_bytes, 65_536)
    report.add("cpu", lambda: checks.cpu(machine.cpu_flags(), host.machine()))
    report.add("frequency governor", lambda: checks.governor(machine.governors()))
    report.add("GSO", lambda: checks.offloads([("GSO", try_gso()), ("sendmmsg", try_sendmmsg())]))
    report.add("send buffer", lambda: checks.send_buffer(host.send_buffer(SEND_BUFFER_BYTES), burst))
    report.add(
        "net.core.wmem_max", lambda: checks.sysctl(machine, "net.core.wmem_max", burst, "a burst waits in the socket")
    )


def _protocol(report: Report, settings: SenderSettings, needs: Needs) -> None:
    link = settings.link
    if link.lanes > 1:
        report.findings.append(checks.lanes(link.lanes, host.cores(), "link.lanes"))
    share = checks.lane_share(link.lanes, host.cores())  # of the rate, that one core has to manage
    rate, content = needs.rate * share, needs.content * share

    def mend(found: float, needed: float) -> str:
        return checks.lower_rate("link.rate", found, needed, needs.rate)

    sent = math.inf  # where loopback cannot be used, the other two stand for the loop

    def send() -> Finding:
        nonlocal sent
        path, sent = send_speed(settings.link.mtu, settings.link.gso)
        return checks.throughput("send", sent, rate, mend=mend(sent, rate), what=f"{path}, on loopback")

    report.add("send", send)
    micros = 1e6 / seal_speed(needs.datagram_bytes)
    sealed = needs.wire_bytes * 8 / micros * 1e6
    report.findings.append(
        checks.throughput(
            "seal",
            sealed,
            rate,
            mend=checks.faster_by(aead.PACKAGE, mend(sealed, rate)),
            what=f"AES-256-GCM by {aead.CHOICE}, {micros:.2f} µs a datagram",
        )
    )
    encoded = encode_speed(needs.profile) * 8
    native = "isal" in BACKENDS
    report.findings.append(
        checks.throughput(
            "encode",
            encoded,
            content,
            mend=mend(encoded, content) if native else "pip install pyeclib",
            what=f"{'ISA-L' if native else 'portable code, no pyeclib'}, k={needs.profile.k} m={needs.profile.m}",
        )
    )
    load = rate / sent + rate / sealed + content / encoded
    report.findings.append(
        checks.throughput(
            "transmit loop", rate / load, rate, mend=mend(rate / load, rate), what="the three above on one core"
        )
    )


def _storage(report: Report, settings: SenderSettings, needs: Needs) -> None:
    def throughput(check: str, found: float) -> Finding:
        faster = _FETCH_WAITS.format("processor")
        return checks.throughput(check, found, needs.content, mend=faster, essential=False)

    report.add("SHA-256", lambda: throughput("SHA-256", sha256_speed() * 8))
    report.add("zstd", lambda: throughput("zstd", compress_speed() * 8))
    report.add(
        "disk write",
        lambda: checks.disk_write(settings.state, needs.content, essential=False, mend=_FETCH_WAITS.format("disk")),
    )
    report.add("disk free", lambda: _disk_free(settings))


def _disk_free(settings: SenderSettings) -> Finding:
    missing = 0
    if settings.journal.exists():
        journal = SenderJournal(settings.journal, read_only=True)
        try:
            missing = sum(max(0, row["bytes_total"] - row["bytes_done"]) for row in journal.images())
        finally:
            journal.close()
    why = f"{human_bytes(missing)} to fetch yet, and room to work" if missing else "room to work"
    return checks.disk_free(settings.state, missing + checks.FREE_BYTES_MIN, why)


# --- measurements -------------------------------------------------------------------------------------------------


def send_speed(mtu: int, gso: Literal["auto", "mmsg", "off"]) -> tuple[str, float]:
    """Return the path in use and its bits a second (IP level) on loopback, the system calls alone."""
    with ExitStack() as stack:
        ear = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        ear.bind(("127.0.0.1", 0))
        ear.setblocking(False)
        with suppress(OSError):  # as a receiver does; else the far end's work would be counted here
            ear.setsockopt(SOL_UDP, UDP_GRO, 1)
        link = Link(HostPort("127.0.0.1", ear.getsockname()[1]), mtu, gso=gso)
        stack.callback(link.close)
        count = datagrams_per_burst(link.datagram_bytes)
        burst = memoryview(bytearray(count * link.datagram_bytes))
        room = bytearray(65_536)

        def work() -> tuple[float, float]:
            begun = time.perf_counter()
            for _ in range(_BURSTS_TIMED):
                link.send(burst)
            taken = time.perf_counter() - begun
            with suppress(BlockingIOError):
                while True:
                    ear.recv_into(room)
            return _BURSTS_TIMED * count * (link.datagram_bytes + link.header_bytes) * 8, taken

        speed = timed_part(work)
        return link.path, speed


def seal_speed(datagram_bytes: int) -> float:
    """Return datagrams a second of writing headers and sealing, as the encoder does it."""
    count = datagrams_per_burst(datagram_bytes)
    view = BurstView(memoryview(bytearray(count * datagram_bytes)), datagram_bytes, count)
    symbols = BlockBuffer(count, symbol_bytes(datagram_bytes))
    sealing = aead.sealer(os.urandom(32))
    positions = array("I", range(count))
    number = 0

    def work() -> float:
        nonlocal number
        view.write_headers(prefix(Type.SYMBOL, b"\0\0\0\0"), number, 1, 0, positions)
        number += count  # a nonce is never used twice, not even here
        sealing.seal(view, count, symbols, 0)
        return count

    return per_second(work)


def encode_speed(profile: LinkProfile) -> float:
    """Return source bytes a second of computing a codeword's repair symbols."""
    code = erasure_code(profile.k, profile.m)
    codewords = [os.urandom(profile.k * profile.symbol_bytes) for _ in range(4)]
    turn = 0

    def work() -> float:
        nonlocal turn
        turn += 1
        code.encode(codewords[turn % len(codewords)])
        return profile.k * profile.symbol_bytes

    return per_second(work)


def compress_speed() -> float:
    """Return content bytes a second of zstd at our level, on text that compresses about threefold."""
    words = [os.urandom(3).hex() for _ in range(500)]
    text = " ".join(words[byte % 500] for byte in os.urandom(150_000)).encode()

    def work() -> float:
        for _ in coding.compress([text], len(text)):
            pass
        return len(text)

    return per_second(work)
