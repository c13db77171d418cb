"""Virtual time: moves only when told, so that hours pass in milliseconds and every run is the same."""

from __future__ import annotations


class VirtualClock:
    """Seconds since the world began."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, "time does not run backwards"
        self.now += seconds

    def advance_to(self, moment: float) -> None:
        self.now = max(self.now, moment)
