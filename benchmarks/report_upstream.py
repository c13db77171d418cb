"""Tables of the fetch role: polling, fetching, and a moved tag on its way to the wire."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.tables import spread, table

_STEPS: Final = {
    "noticed": "noticed: hint taken, tag asked for",
    "fetched": "in the spool, verified",
    "queued": "in the queue",
    "first_block": "first block on the far side",
    "last_block": "last block of the image has left",
    "received": "all of it verified on the far side",
}


def poll(figures: dict[str, Any]) -> str:
    """A row for each registry and rule, then the peers."""
    rows = [
        [
            row["registry"],
            row["rule"],
            f"{row['tags']:,}",
            f"{row['rate']:g}/s (default)" if row["rate"] else "unbounded",
            f"{row['requests']:,}",
            spread(row["seconds"], 1),
            spread(row["cpu_s"], 1),
            f"{row['peak_mb']:.0f}",
        ]
        for row in figures["rows"]
    ]
    head = ["registry", "rule", "tags", "requests allowed", "requests", "seconds", "CPU s", "peak MB"]
    asked = [
        [each["name"], f"{each['tags']:,}", f"{each['requests']:,}", f"{each['seconds']:.1f}"]
        for each in figures["peers"]
    ]
    beside = table(["beside it, docker-registry", "tags", "requests", "seconds"], asked)
    rate = figures["rate_default"]
    note = f"At {rate:g} requests a second, the default, 10,000 requests take {10_000 / rate:.0f} s by design."
    return f"{table(head, rows)}\n\n{note}\n\n{beside}"


def fetch(figures: dict[str, Any]) -> str:
    """A row for each set of images."""
    rows = []
    for row in figures["rows"]:
        shape = f"{row['images']} × {row['layers']} layers, {row['bytes'] / 1e6:,.0f} MB"
        for way, name in (("fetch", "fetch, 20 requests/s (default)"), ("fetch_unbounded", "fetch, unbounded")):
            used = row[way]
            rows.append([
                shape, name, spread(used["seconds"], 2), spread(used["spooled_s"], 2), spread(used["cpu_s"], 2),
                f"{used['peak_mb']['high']:.0f}", f"{row['ratios'][way]:g}",
            ])  # fmt: skip
        rows.append([shape, "skopeo copy to dir:", spread(row["skopeo"]["seconds"], 2), "-", "-", "-", "1"])
        rows.append([shape, "starting: fetch, no images", spread(row["starting"]["seconds"], 2), "-", "-", "-", "-"])
    head = ["images", "", "seconds", "last blob in the spool after", "CPU s", "peak MB", "ratio (goal: at most 1)"]
    return table(head, rows)


def urgent(figures: dict[str, Any]) -> str:
    """A row for each step."""
    moved, other = figures["urgent_s"], figures["other_s"]
    rows = [[what, spread(moved[step], 2), f"{other[step]:.2f}"] for step, what in _STEPS.items()]
    ratio = other["last_block"] / moved["last_block"]["median"]
    going = "still going" if figures["bulk_was_going"] else "over"
    note = (
        f"Bulk object of {figures['bulk_bytes'] / 1e9:g} GB at {figures['rate']}, {figures['bulk_seconds']:g} s from "
        f"queued to sent and {going} after the last of {moved['noticed']['runs']:g} urgent moves; images of "
        f"{figures['image_bytes'] / 1e6:g} MB. To the last block {ratio:.0f} times as fast as without urgent."
    )
    return f"{note}\n\n{table(['seconds after the push', 'urgent', 'not urgent, one move'], rows)}"
