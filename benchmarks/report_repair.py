"""The tables of what a receiver lacks and how it gets it: repair codes, and convergence by the carousel."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import MEGA
from benchmarks.tables import percent, spread, table

Figures = dict[str, Any]


def repair(figures: Figures) -> str:
    """Return the lengths of codes, and what becomes of mistyped ones."""
    rows = [
        [
            row["case"],
            str(row["characters"]),
            f"{row['printed']} in {row['lines']} line{'' if row['lines'] == 1 else 's'}",
            spread(row["encode_ms"], 1),
            spread(row["decode_ms"], 1),
        ]
        for row in figures["rows"]
    ]
    lengths = table(["lacking", "characters", "as printed", "ms to make", "ms to read"], rows)
    mistyped, tries = figures["mistyped"], figures["mistyped"][0]["tries"]
    wrong = [
        [str(row["wrong"]), percent(row["mended"] / tries), percent(row["refused"] / tries), str(row["misread"])]
        for row in mistyped
    ]
    head = ["wrong characters, in 3 blocks' code", "mended", "refused", f"misread, of {tries:,}"]
    note = f"A layer of {figures['layer_bytes'] / MEGA:,.0f} MB has {figures['blocks']} blocks."
    return f"{note}\n\n{lengths}\n\n{table(head, wrong)}"


def converge(figures: Figures) -> str:
    """Return time and bytes for each loss."""
    size = figures["content_bytes"]
    rows = []
    for row in figures["rows"]:
        whole = f"{row['whole']} of {row['runs']}"
        if not row["whole"]:
            rows.append([percent(row["loss"]), "", "", "", "", whole])
            continue
        wire = row["wire_bytes"]
        rows.append(
            [
                percent(row["loss"]),
                spread(row["seconds"], 1),
                spread({**wire, **{key: wire[key] / MEGA for key in ("median", "low", "high")}}),
                f"{wire['median'] / size:.2f}",
                spread(row["rounds"], 2),
                whole,
            ]
        )
    note = f"{size / MEGA:,.0f} MB in {figures['objects']} objects, link at {figures['rate']}."
    head = ["loss", "seconds", "MB on the wire", "of the content", "rounds of the carousel", "whole"]
    return f"{note}\n\n{table(head, rows)}"
