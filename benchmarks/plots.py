"""Draws what results/*.json say, as SVG beside them: ``.venv-bench/bin/python benchmarks/plots.py RESULTS``.

Runs in the peers' environment, where matplotlib is, and imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "checkvalve", "axes.grid": True, "font.size": 9})
BYTES_MAX = 200_000
MARKS = "osD^vPX<>"

Figures = dict[str, Any]


def goodput(figures: Figures, axes: Any) -> bool:
    """Goodput against random loss, of every contender in the lab at MTU 1500; nothing whole is drawn as 0."""
    rows = [row for row in figures["rows"] if (row["place"], row["mtu"]) == ("lab", 1500) and "not_run" not in row]
    names = list(dict.fromkeys(row["peer"] for row in rows))
    for mark, name in zip(MARKS, names, strict=False):
        mine = [row for row in rows if row["peer"] == name]
        losses = [row["loss"] * 100 for row in mine]
        middle = [row["goodput_mb_s"]["median"] if row.get("rate_mbit") else 0.0 for row in mine]
        ends = [row["goodput_mb_s"] if row.get("rate_mbit") else {"low": 0.0, "high": 0.0} for row in mine]
        low = [at - end["low"] for at, end in zip(middle, ends, strict=True)]
        high = [end["high"] - at for at, end in zip(middle, ends, strict=True)]
        axes.errorbar(losses, middle, yerr=[low, high], marker=mark, label=name, capsize=2)
    for ceiling in figures["raw"]:
        if (ceiling["place"], ceiling["mtu"]) == ("lab", 1500):
            axes.axhline(ceiling["mb_s"]["median"], linestyle="--", color="grey", label="raw datagrams, no loss")
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xticks([0, 0.1, 0.5, 1, 2, 5, 10], ["0", "0.1", "0.5", "1", "2", "5", "10"])
    axes.set(xlabel="random loss, %", ylabel="content arriving whole, MB/s", title="One-way lab, MTU 1500")
    return bool(names)


def throughput(figures: Figures, axes: Any) -> bool:
    """Throughput of every contender without loss, in each place."""
    rows = [row for row in figures["rows"] if row["loss"] == 0.0 and "not_run" not in row]
    where = [(each["place"], each["mtu"]) for each in figures["raw"]]
    names = ["raw datagrams", *dict.fromkeys(row["peer"] for row in rows)]
    speeds = {
        (row["place"], row["mtu"], row["peer"]): row.get("goodput_mb_s", {"median": 0.0})["median"] for row in rows
    }
    speeds |= {(each["place"], each["mtu"], names[0]): each["mb_s"]["median"] for each in figures["raw"]}
    width = 0.8 / len(where)
    for number, (place, mtu) in enumerate(where):
        bars = [speeds.get((place, mtu, name), 0.0) for name in names]
        positions = [at + number * width for at in range(len(names))]
        drawn = axes.barh(positions, bars, height=width, label=f"{place}, MTU {mtu}")
        axes.bar_label(drawn, fmt="%.0f", fontsize=6, padding=2)
    axes.set_yticks([at + 0.4 - width / 2 for at in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set(xlabel="MB/s arriving whole, no loss (log scale; raw: arriving at all)", title="Throughput")
    return bool(rows)


def recovered(figures: Figures, axes: Any) -> bool:
    """Share of objects recovered against the length of a burst."""
    for mark, one in zip(MARKS, figures["bursts"], strict=False):
        lengths = [row["length"] for row in one["rows"]]
        shares = [100 * row["whole"] / row["trials"] for row in one["rows"]]
        label = f"repair {one['ratio']:.0%} (k={one['k']}, m={one['m']}, depth {one['depth']})"
        axes.plot(lengths, shares, marker=mark, label=label)
    axes.axvline(834, linestyle="--", color="grey", label="10 ms at 1 Gb/s")
    axes.set(xlabel="datagrams lost in a row", ylabel="objects recovered, %", title="Bursts, MTU 1500, one pass")
    return bool(figures["bursts"])


PLOTS: dict[str, tuple[str, Callable[[Figures, Any], bool]]] = {
    "goodput-against-loss": ("peers", goodput),
    "throughput-against-peers": ("peers", throughput),
    "recovered-against-burst": ("bursts", recovered),
}


def main(results: Path) -> None:
    """Draw those plots whose results are there."""
    for name, (source, draw) in PLOTS.items():
        path = results / f"{source}.json"
        if not path.exists():
            continue
        figure, axes = pyplot.subplots(figsize=(7.5, 4.2), layout="constrained")
        if draw(json.loads(path.read_text())["figures"], axes):
            axes.legend(fontsize=7)
            target = results / f"{name}.svg"
            figure.savefig(target, metadata={"Date": None})
            if target.stat().st_size > BYTES_MAX:
                raise SystemExit(f"{target} is {target.stat().st_size} bytes; at most {BYTES_MAX} are kept")
            print(f"drawn: {target.name}", flush=True)
        pyplot.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
