"""Our own goodput through the one-way lab against raw datagrams: benchmarks.peers, of nobody but ourselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from benchmarks import peers

_LOSSES: Final = (0.0, 0.01, 0.03)
FULL: Final = replace(peers.FULL, places=(("lab", 1500, _LOSSES), ("lab", 9000, _LOSSES)))
QUICK: Final = replace(peers.QUICK, places=(("lab", 1500, _LOSSES),))
TINY: Final = peers.TINY


def measure(effort: peers.Effort) -> dict[str, Any]:
    """Return what :func:`benchmarks.peers.measure` does, of nobody but ourselves."""
    return peers.measure(effort, only_ours=True)
