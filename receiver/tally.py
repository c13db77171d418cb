"""The counters of one lane by the names that journal and status use."""

from __future__ import annotations

from protocol.decoder import Decoder
from receiver.link import Link


def tally(decoder: Decoder, link: Link) -> dict[str, int]:
    """Return them; drops are under ``drop.<reason>``."""
    counters = decoder.counters
    return {
        "datagrams": counters.datagrams,
        "bytes": counters.bytes,
        "symbols": counters.symbols,
        "surplus": counters.surplus,
        "repaired": counters.repaired,
        "blocks": counters.blocks,
        "lost": decoder.lost,
        "kernel_drops": link.kernel_drops,
        **{f"drop.{drop.value}": count for drop, count in counters.drops.items()},
    }
