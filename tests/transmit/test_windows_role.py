"""The transmit role while no window is open, and urgent objects beside a long queue."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from protocol.objects import Kind
from runtime.settings import load_settings
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.status import show
from tests.support.content import digest_of, some_bytes
from tests.support.waits import wait_for
from tests.transmit.rig import Ear, Side, end, images_of

Start = Callable[..., "subprocess.Popen[bytes]"]


def window(hours_from_now: int, more: str = "") -> str:
    start = (datetime.now(UTC).hour + hours_from_now) % 24
    windows = f"[{{start: 0 {start} * * *, for: 3h, rate: 50Mbit}}]"
    return f"schedule: {{timezone: UTC, windows: {windows}{more}}}\n"


@pytest.mark.parametrize("ignores", [False, True])
def test_outside_windows_only_releases_go_and_status_says_until_when(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str], ignores: bool
) -> None:
    side = Side(tmp_path, more=window(12, f", urgent_ignores_windows: {str(ignores).lower()}"))
    bulk = side.queue(some_bytes(3_000))
    urgent = side.queue(some_bytes(900_000, 1), urgent=True)
    journal = side.journal()
    Decisions(journal).propose("default", images_of("1"), "", time.time())
    with Ear(side) as ear:
        role = start(side, once=True)
        wait_for(lambda: Kind.RELEASE in ear.kinds.values() and (urgent in ear.objects or not ignores))
        wait_for(lambda: len(ear.beacons) > 3)
        assert role.poll() is None, "it waits for the window"
        assert bulk not in ear.objects
        assert (urgent in ear.objects) is ignores
        live = wait_for(lambda: (found := journal.live()["transmit"][0])["queued_urgent"] == (not ignores) and found)
        assert live["window"]["open"] is False
        assert f"{live['window']['until']}".endswith(":00:00+00:00")
        assert live["window"]["rate_bits"] == 2_000_000
        assert "window_closed" in side.told()
        assert show(load_settings(side.config, SenderSettings), as_json=False) == 0
        said = capsys.readouterr().out
        assert f"window      closed until {live['window']['until']}, 2.0 Mbit/s\n" in said
        assert (", 1 of them urgent\n" in said) is not ignores
        assert end(role)[0] == 0


def test_within_a_window_all_goes_at_its_rate(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, more=window(-1), lanes=2)
    data = some_bytes(3_000_000)
    bulk = side.queue(data)
    with Ear(side) as ear:
        assert start(side, once=True).wait(20) == 0, side.told()
        wait_for(lambda: bulk in ear.objects)
    window_now = side.journal().live()["transmit"][0]["window"]
    assert (window_now["open"], window_now["rate_bits"]) == (True, 50_000_000)


def test_an_urgent_object_passes_a_large_one_on_its_way_and_a_long_queue(tmp_path: Path, start: Start) -> None:
    side = Side(tmp_path, rate="40Mbit")
    side.queue(some_bytes(40_000_000), label="large")
    for number in range(30):
        side.queue(some_bytes(2_000, 100 + number), label="more")
    with Ear(side) as ear:
        role = start(side)
        wait_for(lambda: ear.decoder.counters.symbols > 500)
        urgent = side.queue(some_bytes(300_000, 1), passes=2, label="urgent", urgent=True)
        wait_for(lambda: urgent in ear.objects)
        wait_for(lambda: side.passes().count("urgent") == 2)
        assert side.passes() == ["urgent", "urgent"]
        assert end(role)[0] == 0
    assert side.journal().urgent() == [], "it is urgent no more"


def test_the_carousel_takes_its_share_and_no_more(tmp_path: Path, start: Start) -> None:
    repeats = "repeats: {carousel: 1ms, spacing: 1ms}\nschedule: {carousel_share: 1%}\n"
    side = Side(tmp_path, rate="2Mbit", more=repeats)
    Decisions(side.journal()).propose("default", images_of("a"), "", time.time())
    side.queue(some_bytes(20_000), label="one", contents=(digest_of(b"a"),))  # 0.1 s of the link: once in 10 s
    with Ear(side) as ear:
        role = start(side)
        wait_for(lambda: side.passes().count("one") == 2)
        heard = len(ear.beacons)
        wait_for(lambda: len(ear.beacons) >= heard + 3)  # one a second
        assert end(role)[0] == 0
    assert side.passes().count("one") == 2
