"""Cells and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def spread(value: dict[str, Any], digits: int = 0) -> str:
    """Return the median, with the lowest and the highest run in brackets."""
    if digits == 0 and value["median"] < 10:
        digits = 1
    median, low, high = (f"{value[name]:,.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})" if value["runs"] > 1 else median


def percent(share: float) -> str:
    """Return 0.01 as ``1 %``."""
    return f"{share * 100:.3g} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
