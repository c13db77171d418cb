"""What contents cost on the wire: bytes of IP packets and seconds at the link's rate, before anything is coded.

An upper bound: what compresses takes less. Beacons and announcements are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.geometry import profile_for_link
from protocol.wire import datagram_bytes_for_mtu, symbol_bytes
from runtime.units import HostPort
from sender.config import SenderSettings
from sender.prepare import SMALL_BYTES_MAX, swallowed_bytes

_IPV4_HEADER, _IPV6_HEADER, _UDP_HEADER = 20, 40, 8


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes as they are, bytes on the wire, and how long they take (seconds)."""

    content_bytes: int
    wire_bytes: int
    seconds: float


def cost_of(settings: SenderSettings, sizes: Iterable[int]) -> Cost:
    """Return what contents of these *sizes* (bytes) cost, with all their passes."""
    link = settings.link
    header = _ip_header(link.to)
    datagram = datagram_bytes_for_mtu(link.mtu, header)
    symbol = symbol_bytes(datagram)
    packet = datagram + header + _UDP_HEADER
    profile = profile_for_link(symbol, link.lane_rate / 8 / packet, link.repair, link.outage)
    swallowed = swallowed_bytes(link)
    content = wire = small = 0
    for size in sizes:
        content += size
        if size <= SMALL_BYTES_MAX:
            small += size
            continue
        passes = settings.repeats.passes if size > swallowed else settings.repeats.passes_small
        wire += profile.geometry(size).datagrams() * packet * passes
    if small:  # these travel together
        wire += profile.geometry(small).datagrams() * packet * settings.repeats.passes_small
    return Cost(content, wire, wire * 8 / link.rate)


def _ip_header(to: HostPort) -> int:
    return _IPV6_HEADER if ":" in to.host else _IPV4_HEADER
