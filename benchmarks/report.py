"""From figures to Markdown: one table for each measurement, put between its markers in benchmarks/README.md.

A table shows what was measured and nothing else: medians with the lowest and highest run in brackets, what failed,
and where a measurement could not be taken the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from benchmarks import report_costs, report_links, report_publish, report_repair, report_upstream
from benchmarks.tables import percent, spread, table

Figures = dict[str, Any]


def replaced(readme: str, name: str, body: str) -> str:
    """Return *readme* with *body* between the markers of *name*; ValueError if it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = readme.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"benchmarks/README.md has no markers {begin} and {end}")
    return f"{before}{begin}\n{body.strip()}\n{end}{after}"


def section(name: str, document: Figures) -> str:
    """Return the Markdown of one measurement: where and when, then its tables."""
    figures = document["figures"]
    if "skipped" in figures:
        return f"Not measured: {figures['skipped']}."
    return f"{_provenance(document)}\n\n{_RENDERERS[name](figures)}"


def _provenance(document: Figures) -> str:
    machine = document["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    kept = " (none given back to the host meanwhile)" if machine["keeps_free_memory"] else ""
    return (
        f"`{document['command']}`, {document['when']}, {document['seconds']:.0f} s; "
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB{kept}, "
        f"Linux {machine['kernel']}, Python {machine['python']}, "
        f"{libraries}; load before: {machine['load_before'][0]}."
    )


def _codec(figures: Figures) -> str:
    names = list(figures["implementations"])
    rows = [["encode", *(spread(figures["implementations"][name]["encode_mb_s"]) for name in names)]]
    recover = {name: figures["implementations"][name]["recover"] for name in names}
    for at, first in enumerate(recover[names[0]]):
        cells = []
        for name in names:
            row = recover[name][at]
            beyond = row["codewords_beyond_repair"]
            note = f"; {beyond} of {row['codewords']} codewords beyond repair" if beyond else ""
            cells.append("nothing to restore" if not row["symbols_restored"] else spread(row["mb_s"]) + note)
        rows.append([f"recover at {percent(first['loss'])} loss", *cells])
    fec = table([f"MB/s of source data, k={figures['k']}, m={figures['m']}", *names], rows)
    aead = figures["aead"]
    backends = aead["backends"]
    seals = [
        [f"{what} {aead['payload_bytes']} bytes in place", *(spread(found[key], 2) for found in backends.values())]
        for what, key in (("seal", "seal_us"), ("open", "open_us"))
    ]
    return f"{fec}\n\n{table(['µs a datagram, AES-256-GCM, row by row of a block', *backends], seals)}"


def _pipeline(figures: Figures) -> str:
    rows = [
        [
            str(row["mtu"]),
            percent(row["loss"]),
            spread(row["encode_mb_s"]),
            spread(row["decode_mb_s"]),
            "nothing to restore" if row["loss"] == 0 else spread(row["restore_mb_s"]),
            percent(row["wire_overhead"]),
            f"{row['whole']} of {row['runs']}",
        ]
        for row in figures["rows"]
    ]
    head = ["MTU", "loss", "encoder MB/s", "decoder MB/s", "restoring MB/s", "wire overhead", "whole"]
    return table(head, rows)


def _memory(figures: Figures) -> str:
    roles = list(figures["rows"][0]["peak_mb"])
    rows = [
        [
            f"{row['layer_bytes'] / 1e6:.0f} MB",
            *(f"{row['peak_mb'][role]:.0f}" for role in roles),
            f"{row['seconds']}",
        ]
        for row in figures["rows"]
    ]
    note = f"Goal: at most {figures['goal_mb']} MB each; link at {figures['rate']}."
    return f"{note}\n\n{table(['layer', *(f'{role} MB' for role in roles), 'seconds'], rows)}"


_PEER_PLOTS: Final = (
    "![Goodput against loss](results/goodput-against-loss.svg)\n\n"
    "![Throughput without loss](results/throughput-against-peers.svg)"
)
_RENDERERS: Final[dict[str, Callable[[Figures], str]]] = {
    "codec": _codec,
    "pipeline": _pipeline,
    "bursts": report_links.bursts,
    "peers": lambda figures: f"{_PEER_PLOTS}\n\n{report_links.peers(figures)}",
    "profile": report_costs.profile,
    "registry": report_costs.registry,
    "sizes": report_costs.sizes,
    "pacing": report_costs.pacing,
    "memory": _memory,
    "fetch": report_upstream.fetch,
    "publish": report_publish.publish,
    "landing": report_publish.landing,
    "poll": report_upstream.poll,
    "urgent": report_upstream.urgent,
    "repair": report_repair.repair,
    "converge": report_repair.converge,
}
