"""What is told of the link by watching it go on, with a clock of the test's."""

from __future__ import annotations

from typing import Any

from protocol.beacon import Beacon
from receiver.pulse import RECENT_S, Pulse

SESSION = b"s" * 16


class Link:
    """Half a second at a time."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pulse = Pulse(lambda: self.now)
        self.counts = {"datagrams": 0, "symbols": 0}
        self.drops: dict[str, int] = {}

    def run(self, seconds: float, datagrams: int = 0, symbols: int = 0) -> None:
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            self.counts["datagrams"] += datagrams
            self.counts["symbols"] += symbols
            self.pulse.turn(self.counts, self.drops)

    def beacon(self, sequence: int, clock_ms: int = 0) -> None:
        self.pulse.beacon(SESSION, Beacon(sequence, clock_ms or sequence, 0, 0, 0, False, 0, ()))

    def told(self) -> dict[str, Any]:
        return self.pulse.document(self.drops, 1_000)


def test_silence_is_none_before_the_first_datagram_and_grows_after_the_last() -> None:
    link = Link()
    link.run(20)
    assert (link.told()["silent_s"], link.told()["running_s"]) == (None, 20.0)
    link.run(5, datagrams=3)
    assert link.told()["silent_s"] == 0.0
    link.run(40)
    assert link.told()["silent_s"] == 40.0


def test_beacons_that_stop_and_a_sender_whose_clock_stops() -> None:
    link = Link()
    for sequence in range(1, 11):
        link.run(1, datagrams=9)
        link.beacon(sequence)
    assert (link.told()["beacon"]["age_s"], link.told()["beacon"]["clock_age_s"]) == (0.0, 0.0)
    for sequence in range(11, 21):
        link.run(1, datagrams=9)
        link.beacon(sequence, clock_ms=10)
    assert (link.told()["beacon"]["age_s"], link.told()["beacon"]["clock_age_s"]) == (0.0, 10.0)
    link.run(30, datagrams=9)
    assert (link.told()["beacon"]["age_s"], link.told()["silent_s"]) == (30.0, 0.0)


def test_a_link_is_alive_while_datagrams_come_and_a_stopped_process_saw_nothing() -> None:
    link = Link()
    link.run(10, datagrams=1)
    link.run(100)
    assert link.pulse.live_s == 10.0
    link.now += 3_600  # SIGSTOP, or the host slept
    link.run(1, datagrams=1)
    assert link.pulse.live_s <= 16.0


def test_the_rate_is_of_symbols_that_were_of_use_in_the_last_seconds() -> None:
    link = Link()
    link.run(60, datagrams=100, symbols=50)
    assert link.told()["useful_bytes_s"] == 100_000
    link.run(20, datagrams=100)
    assert link.told()["useful_bytes_s"] == 0


def test_refusals_are_recent_for_some_minutes() -> None:
    link = Link()
    link.run(30)
    link.drops["stale_epoch"] = 9
    link.run(60)
    assert link.told()["drops_recent"] == {"stale_epoch": 9}
    link.run(RECENT_S + 60)
    assert link.told()["drops_recent"] == {}


def test_what_is_being_sent_is_forgotten_when_it_is_not_any_more() -> None:
    link = Link()
    link.pulse.sending("sha256:a")
    link.run(10)
    link.pulse.sending("sha256:b")
    assert link.told()["sending"] == ["sha256:a", "sha256:b"]
    link.run(10)
    assert link.told()["sending"] == ["sha256:b"]
