"""Tables of the publish role: throughput beside skopeo, and the way from the last datagram to the tag."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.tables import spread, table

_STEPS: Final = {"received": "all of it verified in the spool", "tag": "the tag in the internal registry"}


def publish(figures: dict[str, Any]) -> str:
    """A row for each way and set of images."""
    rows = []
    for row in figures["rows"]:
        mega = row["bytes"] / 1e6
        shape = f"{row['images']} × {row['layers']} layers, {mega:,.0f} MB"
        rates = {way: f"{mega / row[way]['seconds']['median']:,.0f}" for way in ("daemon", "once", "skopeo")}
        for way, name in (("daemon", "publish, waiting"), ("once", "publish --once")):
            used = row[way]
            rows.append([
                shape, name, spread(used["seconds"], 2), rates[way], spread(used["cpu_s"], 2),
                f"{used['peak_mb']['high']:.0f}", f"{row['ratios'][way]:g}",
            ])  # fmt: skip
        skopeo = spread(row["skopeo"]["seconds"], 2)
        rows.append([shape, "skopeo copy from oci:", skopeo, rates["skopeo"], "-", "-", "1"])
    return table(["images", "", "seconds", "MB/s", "CPU s", "peak MB", "ratio (goal: at most 1)"], rows)


def landing(figures: dict[str, Any]) -> str:
    """A row for each step."""
    note = f"Images of {figures['image_bytes'] / 1e6:g} MB, one layer, over a link of {figures['rate']}."
    rows = [[what, spread(figures["steps_s"][step], 2)] for step, what in _STEPS.items()]
    return f"{note}\n\n{table(['seconds after the last datagram of the image', ''], rows)}"
