"""Against the peers at the smallest size: what was run is whole, what was not says why, tables show who loses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import places, report, report_links, sizes
from benchmarks.__main__ import HERE, measured
from benchmarks.contenders import Checkvalve, Contender, Flute, Pydiode, Udpcast
from benchmarks.crossing import Content
from benchmarks.places import Place
from benchmarks.search import Run, highest
from tests.lab.oneway import missing
from tests.lab.world import missing_programs

SIZE = 2_000_000


@pytest.fixture(scope="module", params=["lab", "loopback"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if reason := missing():
        pytest.skip(reason)
    with getattr(places, request.param)(1500) as built:
        yield built


@pytest.mark.lab
@pytest.mark.parametrize(
    ("contender", "rate", "wire"),
    [
        (Checkvalve("checkvalve", (200,), 0.10), 200, (0.1, 0.6)),
        (Pydiode(1, (500,)), 500, (0.02, 9)),  # its last chunks are filled up by repeats
        (Udpcast((800,)), 800, (0.05, 0.4)),
        (Flute((200,)), 200, (0.1, 0.4)),
    ],
    ids=["checkvalve", "pydiode", "udpcast", "flute"],
)
def test_each_contender_brings_the_bytes_across(
    contender: Contender, rate: int, wire: tuple[float, float], place: Place, tmp_path: Path
) -> None:
    if reason := contender.missing():
        pytest.skip(reason)
    content = Content.random(tmp_path / "content", SIZE)
    place.set_loss(0)
    run = contender.carry(place, rate, content, tmp_path / "run")
    assert run.seconds is not None, run.note
    assert 0 < run.seconds < 10
    if run.wire_bytes is not None:
        assert wire[0] < run.wire_bytes / SIZE - 1 < wire[1]


@pytest.mark.lab
def test_what_the_diode_swallows_is_not_whole(place: Place, tmp_path: Path) -> None:
    contender = Pydiode(2, (500,))
    if reason := contender.missing():
        pytest.skip(reason)
    if place.name == "loopback":
        with pytest.raises(ValueError, match="nothing is lost on loopback"):
            place.set_loss(0.5)
        return
    place.set_loss(0.5)
    run = contender.carry(place, 500, Content.random(tmp_path / "content", SIZE), tmp_path / "run")
    assert run.seconds is None
    assert "of 2 MB arrived" in run.note


@pytest.mark.lab
def test_registry_to_registry() -> None:
    if reason := missing() or missing_programs():
        pytest.skip(reason)
    figures = measured("registry", "tiny")["figures"]
    assert "skipped" not in figures, figures
    assert figures["ratio"] == pytest.approx(figures["diode_s"]["median"] / figures["skopeo_s"]["median"], rel=0.05)
    assert "skopeo copy, no diode" in report._RENDERERS["registry"](figures)


@pytest.mark.lab
def test_sizes() -> None:
    if reason := missing():
        pytest.skip(reason)
    document = measured("sizes", "tiny")
    rows = document["figures"]["rows"]
    assert [row["objects"] for row in rows] == [1, 1, sizes.TINY.small]
    for row in rows:
        assert row["seconds"] > 0, row
        assert all(20 < used["peak_mb"] < 300 and used["cpu_s"] > 0 for used in row["used"].values())
    assert "| 20 × 2 kB | random, in 1 batches |" in report.section("sizes", document)


def test_the_search_goes_up_until_nothing_is_gained_and_down_until_all_are_whole() -> None:
    asked: list[int] = []

    def carry(rate: int) -> Run:
        """A link that is whole up to 300, only the first time at 400, and never above."""
        asked.append(rate)
        whole = rate <= 300 or (rate == 400 and asked.count(rate) == 1)
        return Run(20 / (rate * 1e6), 40) if whole else Run(None, None, "lost")

    row = highest(carry, (100, 200, 300, 400, 500, 600, 700), 20, runs=3, start=1)
    assert row["rate_mbit"] == 300
    assert row["goodput_mb_s"]["median"] == pytest.approx(300)
    assert row["wire_overhead"]["median"] == 1
    assert row["failed"] == {"500": "0 of 1 whole, lost", "600": "0 of 1 whole, lost", "400": "1 of 2 whole, lost"}
    assert asked == [200, 300, 400, 500, 600, 400, 300, 300]


def test_a_search_that_finds_nothing_has_tried_the_lowest_rate() -> None:
    row = highest(lambda rate: Run(None), range(1, 9), 1, runs=3, start=5)
    assert row["rate_mbit"] is None
    assert list(row["failed"]) == ["6", "3", "2", "1"]


def test_losing_cases_are_shown() -> None:
    spread = {"median": 50.0, "low": 49.0, "high": 51.0, "runs": 5}
    at = {"place": "lab", "mtu": 1500, "loss": 0.01}
    ours: dict[str, Any] = {**at, "peer": "checkvalve", "rate_mbit": None, "failed": {"100": "4 of 5 whole"}}
    theirs = {**at, "peer": "UDPcast", "rate_mbit": 800, "goodput_mb_s": spread, "failed": {}, "content_bytes": 10**8}
    raw = {"place": "lab", "mtu": 1500, "mb_s": spread, "lost_percent": spread}
    figures = {"peers": {}, "missing": {"flute": "not installed"}, "not_comparable": {}, "raw": [raw]}
    text = report_links.peers({**figures, "rows": [ours, theirs]})
    assert "| 1 % | none whole | **50 (49 to 51)** MB/s |" in text
    assert "| lab | 1500 | 1 % | checkvalve | 100: 4 of 5 whole |" in text
    assert "Not measured: flute: not installed." in text


@pytest.mark.lab
def test_pacing_is_read_off_the_interface() -> None:
    document = measured("pacing", "tiny")
    figures = document["figures"]
    if "skipped" in figures:
        pytest.skip(figures["skipped"])
    (row,) = figures["rows"]
    assert 50 < row["mbit_s"]["median"] < 150
    assert 0 < row["core_share"] < 2
    assert 0 <= figures["idle_core_share"] < 1
    assert "| 100 |" in report.section("pacing", document)


def test_plots_are_drawn_from_results(tmp_path: Path) -> None:
    python = HERE.parent / ".venv-bench/bin/python"
    if not python.exists():
        pytest.skip("matplotlib is not installed (run: benchmarks/make-venv)")
    results = [HERE / "results" / f"{name}.json" for name in ("peers", "bursts")]
    if not all(path.exists() for path in results):
        pytest.skip("no full run has left its results")
    for path in results:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    subprocess.run([python, HERE / "plots.py", tmp_path], check=True)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 3
    assert all(5_000 < path.stat().st_size < 200_000 for path in drawn)
