"""Tables of what crossing costs: registry to registry, by size, and by rate."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import spread, table


def registry(figures: dict[str, Any]) -> str:
    """Both ways and their ratio."""
    rows = [
        ["checkvalve across the diode, registry to registry", spread(figures["diode_s"], 1)],
        ["skopeo copy, no diode", spread(figures["skopeo_s"], 1)],
        ["ratio of the medians (goal: at most 1)", f"{figures['ratio']:g}"],
    ]
    used = [[side, f"{used['cpu_s']:.1f}", f"{used['peak_mb']:.0f}"] for side, used in figures["used"].items()]
    note = f"One layer of {figures['layer_bytes'] / 1e6:.0f} MB, link at {figures['rate']}, no loss."
    cost = table(["side, all rounds", "CPU s", "peak MB of its largest process"], used)
    return f"{note}\n\n{table(['', 'seconds'], rows)}\n\n{cost}"


def sizes(figures: dict[str, Any]) -> str:
    """A row for each size."""
    roles = ("transmit", "capture")
    rows = []
    for row in figures["rows"]:
        size = f"{row['objects']:,} × {_bytes(row['bytes'] / row['objects'])}"
        if "not_run" in row:
            rows.append([size, row["content"], f"not measured: {row['not_run']}", *["-"] * 5])
            continue
        used = [row["used"][role] for role in roles]
        per_gb = row["bytes"] / 1e9
        rows.append([
            size, row["content"], f"{row['seconds']:.2f}", f"{row['bytes'] / row['seconds'] / 1e6:.0f}",
            *(f"{each['cpu_s']:.2f} ({each['cpu_s'] / per_gb:.2f})" for each in used),
            *(f"{each['peak_mb']:.0f}" for each in used),
        ])  # fmt: skip
    head = [
        "objects", "content", "seconds", "MB/s", *(f"{role} CPU s (per GB)" for role in roles),
        *(f"{role} peak MB" for role in roles),
    ]  # fmt: skip
    note = f"Link at {figures['rate_mbit']} Mbit/s, MTU {figures['mtu']}, no loss; CPU includes starting and ending."
    return f"{note}\n\n{table(head, rows)}"


def pacing(figures: dict[str, Any]) -> str:
    """A row for each rate, and idling."""
    rows = [
        [
            f"{row['rate_mbit']:,}", spread(row["mbit_s"], 1), f"{row['worst_percent']:+.2f} %",
            f"{100 * row['core_share']:.0f} %",
        ]
        for row in figures["rows"]
    ]  # fmt: skip
    rows.append(["nothing queued", "beacons", "-", f"{100 * figures['idle_core_share']:.1f} %"])
    head = ["link.rate, Mbit/s", "sent, Mbit/s", "worst window", "of a core"]
    return f"Windows of {figures['window_s']:g} s, MTU {figures['mtu']}.\n\n{table(head, rows)}"


def _bytes(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size:g} B"
