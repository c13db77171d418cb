"""Tables of what links do to content: every contender against rising loss, bursts against the repair ratio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.tables import percent, spread, table

Row = dict[str, Any]


def peers(figures: Row) -> str:
    """A table for each place and MTU, then the goals, then every rate that failed."""
    parts = [f"Versions: {', '.join(f'{name} {version}' for name, version in figures['peers'].items())}."]
    parts += [f"Not measured: {name}: {reason}." for name, reason in figures["missing"].items()]
    parts.append(table(["cannot be compared so", "why"], [list(each) for each in figures["not_comparable"].items()]))
    for ceiling in figures["raw"]:
        rows = [row for row in figures["rows"] if _at(row) == _at(ceiling)]
        parts.append(_place(ceiling, rows))
    if goals := list(_goals(figures)):
        parts.append(table(["in this run", "measured", "goal"], goals))
    if failures := list(_failures(figures["rows"])):
        parts.append(
            f"<details><summary>What did not arrive whole, by rate (Mbit/s)</summary>\n\n{_failed(failures)}"
        )
        parts.append("</details>")
    return "\n\n".join(parts)


def _at(row: Row) -> tuple[str, int]:
    return row["place"], row["mtu"]


def _place(ceiling: Row, rows: list[Row]) -> str:
    names = list(dict.fromkeys(row["peer"] for row in rows))
    losses = sorted({row["loss"] for row in rows})
    lines = []
    for loss in losses:
        found = {row["peer"]: row for row in rows if row["loss"] == loss}
        lines.append([percent(loss), *(_cell(found.get(name)) for name in names)])
    where = "one-way lab" if ceiling["place"] == "lab" else ceiling["place"]
    raw = f"raw datagrams {spread(ceiling['mb_s'])} MB/s received, {spread(ceiling['lost_percent'], 1)} % lost"
    sizes = ", ".join(f"{name} {sizes}" for name, sizes in _sizes(rows).items())
    title = f"**{where}, MTU {ceiling['mtu']}**: {raw}. MB of content: {sizes}."
    return f"{title}\n\n{table(['loss', *names], lines)}"


def _sizes(rows: list[Row]) -> dict[str, str]:
    """Return how much each contender carried, in MB: once, or for each loss."""
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        if "content_bytes" in row:
            found.setdefault(row["peer"], {})[row["loss"]] = row["content_bytes"] / 1e6
    return {
        name: f"{max(sizes.values()):g}"
        + "".join(f" ({size:g} at {percent(loss)})" for loss, size in sizes.items() if size < max(sizes.values()))
        for name, sizes in found.items()
    }


def _cell(row: Row | None) -> str:
    """Throughput, the rate it was set to, and what the wire carried beyond the content."""
    if row is None:
        return "-"
    if "not_run" in row:
        return f"not run: {row['not_run']}"
    if row["rate_mbit"] is None:
        return "none whole"
    wire = f", wire +{row['wire_overhead']['median'] * 100:.1f} %" if "wire_overhead" in row else ""
    return f"**{spread(row['goodput_mb_s'])}** MB/s{wire}"


def _failures(rows: list[Row]) -> Iterator[list[str]]:
    for row in rows:
        if failed := row.get("failed"):
            how = "; ".join(f"{rate}: {what}" for rate, what in failed.items())
            yield [row["place"], str(row["mtu"]), percent(row["loss"]), row["peer"], how]


def _failed(failures: list[list[str]]) -> str:
    return table(["place", "MTU", "loss", "who", "rates"], failures)


def _goals(figures: Row) -> Iterator[list[str]]:
    """Yield those ratios that this run measured both parts of."""

    def best(place: str, mtu: int, loss: float, who: str) -> float | None:
        found = [
            row["goodput_mb_s"]["median"]
            for row in figures["rows"]
            if _at(row) == (place, mtu)
            and row["loss"] == loss
            and row["peer"].startswith(who)
            and row.get("rate_mbit")
        ]
        return max(found, default=None)

    for mtu, goal in ((1500, 5), (9000, 9)):
        if ours := best("loopback", mtu, 0.0, "checkvalve"):
            yield [f"loopback, MTU {mtu}, verified content", f"{ours * 8 / 1e3:.2f} Gb/s", f"≥ {goal} Gb/s"]
    raw = {_at(row): row["mb_s"]["median"] for row in figures["raw"]}
    lossy = best("lab", 1500, 0.01, "checkvalve")
    if lossy and ("lab", 1500) in raw:
        yield ["lab, MTU 1500, 1 % loss, of raw UDP", f"{lossy / raw['lab', 1500]:.0%}", "≥ 50 %"]
    for loss, who, goal_times in (
        (0.0, "pydiode", 1.3),
        (0.01, "UDPcast", 7),
        (0.0, "UDPcast", 0),
        (0.01, "flute", 0),
    ):
        ours, theirs = best("lab", 1500, loss, "checkvalve"), best("lab", 1500, loss, who)
        if ours and theirs:
            what = f"lab, MTU 1500, {percent(loss)} loss, against {who}'s highest"
            yield [what, f"{ours / theirs:.2f} ×", f"≥ {goal_times} ×" if goal_times else "-"]


def bursts(figures: Row) -> str:
    """Bursts recovered, residual failure computed and checked, and the parameters for a bound on wire bytes."""
    each = figures["bursts"]
    head = ["lost in a row", *(f"repair {percent(one['ratio'])}" for one in each)]
    lines = [
        [f"{row['length']:,}", *(f"{one['rows'][at]['whole']} of {row['trials']}" for one in each)]
        for at, row in enumerate(each[0]["rows"])
    ]
    of = [["k, m, depth", *(f"{one['k']}, {one['m']}, {one['depth']}" for one in each)]]
    of.append(["MiB a block", *(f"{one['block_mib']:g}" for one in each)])
    of.append(["wire bytes beyond content", *(percent(one["wire_overhead"]) for one in each)])
    note = (
        f"MTU {figures['mtu']}, profile for {figures['link_gbit']:g} Gb/s, outages of {figures['outage_ms']:g} ms; "
        "whole objects of those tried, each with one burst."
    )
    losses = list(figures["random"][0]["failure"])
    residual = [
        [percent(float(loss)), *(f"{one['failure'][loss]:.2g}" for one in figures["random"])] for loss in losses
    ]
    checks = [
        [percent(one["ratio"]), f"{one['k']}, {one['m']}, {one['depth']}", percent(one["loss"]), str(one["blocks"]),
         str(one["failed"]), f"{one['expected']:g}", f"{one['sigmas']:+.1f}"]
        for one in figures["checks"]
    ]  # fmt: skip
    check_head = ["repair", "k, m, depth", "loss", "blocks", "not restored", "expected", "standard deviations"]
    residual_head = ["random loss", *(f"repair {percent(one['ratio'])}" for one in each)]
    return "\n\n".join([
        note, table(head, of + lines),
        "Share of blocks not whole after one pass with random loss alone, by the exact binomial distribution:",
        table(residual_head, residual),
        "The same formula against the real decoder, where blocks fail often enough to be counted:",
        table(check_head, checks), _parameters(figures["parameters"]), _alternating(figures["alternating"]),
    ])  # fmt: skip


def _parameters(figures: Row) -> str:
    """Parameters for the bound on wire bytes, and what stands against it."""
    head = [
        "parameters",
        "k, m, depth + outer",
        "wire bytes per content byte",
        "block fails",
        "MiB a block",
        "allowed today",
    ]
    lines = []
    for name, code in figures["choices"].items():
        if code is None:
            lines.append([name, "none", *["-"] * 4])
            continue
        lines.append([
            name, f"{code['k']}, {code['m']}, {code['depth']} + {code['outer']}", f"{code['wire']:.3f}",
            f"{code['failure']:.1g}", f"{code['block_mib']:g}", "yes" if code["allowed"] else "no",
        ])  # fmt: skip
    alone = figures["least_random_failure_within_wire_max"]
    limits = (
        f"Bound: {figures['wire_max']} wire bytes (IP) per content byte and fewer than {figures['failure_max']:g} "
        f"blocks failing, with {percent(figures['loss'])} random loss and one outage of "
        f"{figures['burst_datagrams']} datagrams in each block. Codewords of 255 symbols cannot keep to it: with "
        f"k={alone['k']}, m={alone['m']} (wire {alone['wire']}) a codeword fails by random loss alone with "
        f"{alone['codeword_failure']:.1g}. An ideal erasure code would need blocks of "
        f"{figures['any_code_block_mib']:g} MiB; the limit is {figures['block_limit_mib']:g}. What an outer code of "
        "parity codewords over each block would do is computed; the protocol has none."
    )
    checks = [
        [f"{one['k']}, {one['m']}, {one['depth']} + {one['outer']}", percent(one["loss"]), str(one["blocks"]),
         str(one["failed"]), f"{one['expected']:g}", f"{one['sigmas']:+.1f}"]
        for one in figures["checks"]
    ]  # fmt: skip
    check_head = ["k, m, depth + outer", "loss", "blocks", "failed", "expected", "standard deviations"]
    told = "Simulated datagram by datagram, an outage in each block, at a loss where failures can be counted:"
    return f"{limits}\n\n{table(head, lines)}\n\n{told}\n\n{table(check_head, checks)}"


def _alternating(code: Row) -> str:
    """What one XOR codeword for each block would do, if rows and columns were decoded in turn."""
    counted = "; ".join(f"{one['failed']} of {one['blocks']} at {percent(one['loss'])}" for one in code["checks"])
    return (
        "With one more codeword, the XOR of the others, and rows and columns restored in turn, "
        f"k={code['k']}, m={code['m']}, depth {code['depth']} + {code['outer']} would keep to it: wire "
        f"{code['wire']:.3f}, blocks of {code['block_mib']:g} MiB, failure by the union bound {code['failure']:.1g}; "
        f"simulated blocks with an outage that failed: {counted}. The protocol has no such codeword."
    )
