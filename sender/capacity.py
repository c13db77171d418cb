"""``capacity``: what a link carries, how long content takes on it, and what both sides need for it. Asks nobody.

Bounds from above where content decides: nothing is taken to compress, and nothing to be shared between images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from protocol.geometry import LinkProfile, profile_for_link
from protocol.wire import symbol_bytes
from runtime.terminal import human_bytes, human_duration, human_rate, print_json, table

HEADER_BYTES: Final = 28  # IPv4 and UDP; 20 more with IPv6
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """The link and what shall cross it. Bits per second, bytes, seconds, shares."""

    rate: int
    mtu: int
    repair: float
    outage: float
    passes: int
    content: int  # of all newest releases
    change: int  # new content a day
    keep: float  # how long old releases stay
    largest: int  # object
    hold: float  # how long the kernel shall hold what arrives while capture restarts


@dataclass(frozen=True, slots=True)
class Capacity:
    """What follows; bytes, seconds, shares, bytes of content a second."""

    symbol_bytes: int
    codeword: str  # source + repair symbols
    depth: int
    block_bytes: int
    survived: float  # longest outage that one pass repairs
    overhead: float  # wire bytes for one of content, one pass, less 1
    content_rate: float
    content_s: float  # all content, once
    change_s: float  # a day's change, all passes
    change_share: float  # of the link
    largest_s: float
    sender_disk: int
    receiver_disk: int
    target_disk: int
    partial_space: int
    receive_buffer: int

    @property
    def enough(self) -> bool:
        """Whether a day's change crosses within a day."""
        return self.change_share <= 1.0


def capacity(wishes: Wishes) -> Capacity:
    """Compute it with the geometry that the sender would choose."""
    datagram = wishes.mtu - HEADER_BYTES
    symbol = symbol_bytes(datagram)
    per_second = wishes.rate / 8 / wishes.mtu
    profile = profile_for_link(symbol, per_second, wishes.repair, wishes.outage)
    wire = (profile.k + profile.m) / profile.k * wishes.mtu / symbol
    content_rate = wishes.rate / 8 / wire
    kept = wishes.content + round(wishes.change * wishes.keep / DAY_S)
    change_s = wishes.change * wishes.passes / content_rate
    partial = max(wishes.largest * 2, 2**30)
    return Capacity(
        symbol_bytes=symbol,
        codeword=f"{profile.k} + {profile.m}",
        depth=profile.depth,
        block_bytes=_block_bytes(profile),
        survived=profile.outage / per_second,
        overhead=wire - 1,
        content_rate=content_rate,
        content_s=wishes.content / content_rate,
        change_s=change_s,
        change_share=change_s / DAY_S,
        largest_s=wishes.largest / content_rate,
        sender_disk=kept + wishes.content,
        receiver_disk=kept + partial,
        target_disk=kept,
        partial_space=partial,
        receive_buffer=round(wishes.rate / 8 * wishes.hold),
    )


def _block_bytes(profile: LinkProfile) -> int:
    return profile.k * profile.depth * profile.symbol_bytes


def report(wishes: Wishes, *, as_json: bool) -> int:
    """Print it; 1 if the link cannot carry the change, else 0."""
    found = capacity(wishes)
    if as_json:
        print_json({"enough": found.enough, "given": asdict(wishes), "found": asdict(found)})
    else:
        table(("", "", ""), _rows(wishes, found), title=f"{human_rate(wishes.rate)}, MTU {wishes.mtu}")
        if not found.enough:
            print("the link is too slow: a day's change takes longer than a day")
    return 0 if found.enough else 1


def _rows(wishes: Wishes, found: Capacity) -> list[tuple[Any, ...]]:
    return [
        ("content rate", f"{human_bytes(found.content_rate)}/s", f"{found.overhead:.0%} more on the wire"),
        ("code", found.codeword, f"symbols of {found.symbol_bytes} bytes, {found.depth} codewords a block"),
        ("outage repaired", f"{found.survived * 1000:.1f} ms", "in one pass, with no other loss"),
        ("all content", human_duration(found.content_s), f"{human_bytes(wishes.content)}, as the carousel sends it"),
        (
            "a day's change",
            human_duration(found.change_s),
            f"{found.change_share:.1%} of the link, {wishes.passes} pass{'es' if wishes.passes > 1 else ''}",
        ),
        ("largest object", human_duration(found.largest_s), human_bytes(wishes.largest)),
        ("sender's disk", human_bytes(found.sender_disk), "spool, and coded files of what is current"),
        ("receiver's disk", human_bytes(found.receiver_disk), "spool and limits.partial_space"),
        ("target's disk", human_bytes(found.target_disk), "beside it, where layout or registry are on that host"),
        ("limits.partial_space", human_bytes(found.partial_space), "the largest object twice, at least 1 GiB"),
        (
            "listen.receive_buffer",
            human_bytes(found.receive_buffer),
            f"holds {human_duration(wishes.hold)} of the link while capture restarts",
        ),
    ]
