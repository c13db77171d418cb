"""Every measurement at the smallest size, and how its figures become the tables of the README."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.__main__ import HERE, MEASUREMENTS, keep, main, measured
from benchmarks.measure import Spread
from tests.lab.oneway import missing
from tests.lab.world import missing_programs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what the program rewrites."""
    shutil.copy(HERE / "README.md", tmp_path)
    return tmp_path


def taken(name: str, folder: Path) -> dict[str, Any]:
    """Measure *name*, keep it in *folder*; return its figures."""
    document = measured(name, "tiny")
    keep(document, folder)
    assert json.loads((folder / f"results/{name}.json").read_text()) == document
    assert report.section(name, document) in (folder / "README.md").read_text()
    return dict(document["figures"])


def test_codec(folder: Path) -> None:
    figures = taken("codec", folder)
    assert {"isal", "portable"} >= set(figures["implementations"]) >= {"portable"}
    for implementation in figures["implementations"].values():
        assert implementation["encode_mb_s"]["low"] > 0
        assert [row["loss"] for row in implementation["recover"]] == [0, 0.005, 0.01, 0.02, 0.05]
        assert implementation["recover"][0]["symbols_restored"] == 0
        assert implementation["recover"][-1]["symbols_restored"] > 0
    for backend in figures["aead"]["backends"].values():
        assert 0 < backend["seal_us"]["median"] < 1000


def test_pipeline(folder: Path) -> None:
    rows = taken("pipeline", folder)["rows"]
    assert [row["whole"] for row in rows] == [row["runs"] for row in rows]
    assert all(0.1 < row["wire_overhead"] < 1.5 for row in rows)


def test_memory(folder: Path) -> None:
    (row,) = taken("memory", folder)["rows"]
    assert set(row["peak_mb"]) == {"fetch", "transmit", "capture", "publish"}
    assert all(20 < peak < 300 for peak in row["peak_mb"].values())


def test_repair(folder: Path) -> None:
    figures = taken("repair", folder)
    lengths = {row["case"]: row["printed"] for row in figures["rows"]}
    assert lengths["3 blocks of the layer"] <= 60
    assert all(row["misread"] == 0 for row in figures["mistyped"])
    assert all(row["mended"] == row["tries"] for row in figures["mistyped"][:3])


def test_converge(folder: Path) -> None:
    (row,) = taken("converge", folder)["rows"]
    assert row["whole"] == 1
    assert row["wire_bytes"]["median"] > 3_000_000


def test_what_cannot_be_measured_says_why() -> None:
    document = {"figures": {"skipped": "the one-way lab needs root"}}
    assert report.section("peers", document) == "Not measured: the one-way lab needs root."


def test_the_readme_has_a_place_for_every_measurement_and_keeps_the_rest() -> None:
    readme = (HERE / "README.md").read_text()
    for name in MEASUREMENTS:
        once = report.replaced(readme, name, "| a |")
        assert report.replaced(once, name, "| a |") == once
        assert f"<!-- {name}: begin -->\n| a |\n<!-- {name}: end -->" in once
        assert readme.partition(f"<!-- {name}")[0] == once.partition(f"<!-- {name}")[0]
    with pytest.raises(ValueError, match="no markers <!-- other: begin -->"):
        report.replaced(readme, "other", "")


def test_a_spread_is_the_median_with_both_ends() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0, 3)


def test_an_unknown_measurement_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["speed"])
    assert ended.value.code == 2
    assert "'speed' is no measurement" in capsys.readouterr().err


@pytest.mark.lab
def test_the_connected_side(folder: Path) -> None:
    if reason := missing() or missing_programs():
        pytest.skip(reason)
    (row,) = taken("fetch", folder)["rows"]
    assert row["bytes"] > 2_000_000
    assert 0 < row["fetch"]["spooled_s"]["median"] < row["fetch"]["seconds"]["median"]
    assert 0 < row["starting"]["seconds"]["median"] < row["fetch"]["seconds"]["median"]
    rows = taken("poll", folder)["rows"]
    assert [each["requests"] for each in rows] == [100, 101, 1, 0, 100, 100], "HEAD for each tag, GET for each list"
    steps = list(taken("urgent", folder)["urgent_s"].values())
    assert [each["median"] for each in steps[:3]] == sorted(each["median"] for each in steps[:3])


@pytest.mark.lab
def test_the_isolated_side(folder: Path) -> None:
    if reason := missing() or missing_programs():
        pytest.skip(reason)
    (row,) = taken("publish", folder)["rows"]
    assert row["bytes"] > 2_000_000
    assert all(row[way]["seconds"]["median"] > 0 for way in ("daemon", "once", "skopeo"))
    steps = taken("landing", folder)["steps_s"]
    # two processes' log lines: the sender's may be written some milliseconds after its datagram was received
    assert abs(steps["received"]["median"]) < steps["tag"]["median"] < 20
