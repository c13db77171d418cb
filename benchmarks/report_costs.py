"""Tables of what crossing costs: registry to registry, by size, and by rate."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.tables import percent, spread, table

_STAGES: Final = {
    "fetch": "fetching: upstream registry to the low spool",
    "cross": "crossing: low spool to high spool",
    "publish": "publishing: high spool to the internal registry",
}


def registry(figures: dict[str, Any]) -> str:
    """Both ways and their ratio."""
    rows = [
        ["checkvalve across the diode, registry to registry", spread(figures["diode_s"], 1)],
        *(["- of which " + what, spread(figures["stages_s"][key], 1)] for key, what in _STAGES.items()),
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


_WORK: Final = {
    ("transmit", "transmit"): "seal, send, pace, schedule",
    ("transmit", "blocks"): "read, encode",
    ("capture", "capture"): "receive, open, place",
    ("capture", "write_loop"): "restore, write",
    ("capture", "intake_loop"): "check, into the spool",
    ("capture", "digests"): "hash behind the writer",
    ("capture", "ledger"): "counters to the journal",
}


def profile(figures: dict[str, Any]) -> str:
    """A row for each thread, columns for each place."""
    rows, per_gb = figures["rows"], figures["bytes"] / 1e9
    found = [{(each["role"], each["thread"]): each for each in row["threads"]} for row in rows]
    lines = []
    for key in dict.fromkeys(key for threads in found for key in threads):
        used = [threads.get(key, {"user_s": 0.0, "system_s": 0.0}) for threads in found]
        cells = [f"{each['user_s'] / per_gb:.2f} + {each['system_s'] / per_gb:.2f}" for each in used]
        lines.append([key[0], key[1], _WORK.get(key, ""), *cells])
    sums = [sum(each["user_s"] + each["system_s"] for each in row["threads"]) / per_gb for row in rows]
    lines.append(["both", "all", "", *(f"{each:.2f}" for each in sums)])
    taken = [f"{row['seconds']:.2f} s" if row["seconds"] else f"not whole: {row['note']}" for row in rows]
    lines.append(["", "", "from first data to verified object", *taken])
    head = ["role", "thread", "work", *(f"{r['place']} {r['mtu']}, {percent(r['loss'])} loss" for r in rows)]
    note = f"CPU seconds a GB, user + system; {per_gb:g} GB, link.rate {figures['rate_mbit']:,} Mbit/s."
    return f"{note}\n\n{table(head, lines)}"


def pacing(figures: dict[str, Any]) -> str:
    """A row for each rate, and idling."""
    rows = []
    for row in figures["rows"]:
        burst = "default" if row["burst_kb"] is None else f"{row['burst_kb']:,}"
        worst, share = f"{row['worst_percent']:+.2f} %", f"{100 * row['core_share']:.0f} %"
        rows.append([f"{row['rate_mbit']:,}", burst, spread(row["mbit_s"], 1), worst, share])
    rows.append(["nothing queued", "-", "beacons", "-", f"{100 * figures['idle_core_share']:.1f} %"])
    head = ["link.rate, Mbit/s", "link.burst, kB", "sent, Mbit/s", "worst window", "of a core"]
    return f"Windows of {figures['window_s']:g} s, MTU {figures['mtu']}.\n\n{table(head, rows)}"


def _bytes(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size:g} B"
