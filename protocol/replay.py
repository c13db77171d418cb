"""A sliding window over packet numbers: what was accepted, what is new, what the link lost (as RFC 4303 §3.4.3).

Numbers enter only after their datagram authenticated, so a forger cannot move the window.
"""

from __future__ import annotations

from protocol.handover import Window
from protocol.limits import REPLAY_WINDOW_PACKETS


class ReplayWindow:
    """The last 65,536 packet numbers of one lane.

    The unbroken run that ends with the highest number is a count, so that a burst on a clean link costs no more than
    an addition; what lies below it are the bits of an integer, bit 0 the number just below the run.
    """

    def __init__(self, size: int = REPLAY_WINDOW_PACKETS) -> None:
        self._size = size
        self._mask = (1 << size) - 1
        self._run = 0
        self._bits = 0
        self.first = -1  # lowest number ever accepted
        self.highest = -1
        self.accepted = 0

    def fresh(self, number: int) -> bool:
        """Whether *number* was not accepted before; numbers older than the window are not fresh."""
        if number > self.highest:
            return True
        below = self.highest - self._run - number
        return below >= 0 and self.highest - number < self._size and not (self._bits >> below) & 1

    def accept_run(self, first: int, count: int) -> None:
        """Note *count* consecutive numbers from *first* as accepted; all must be fresh."""
        last = first + count - 1
        if self.highest < 0:
            self.first = first
            self._run, self.highest = count, last
        elif first == self.highest + 1:
            self._run, self.highest = self._run + count, last
        elif first > self.highest:
            gap = first - self.highest - 1
            run = min(self._run, self._size)
            bits = (self._bits << run | (1 << run) - 1) & self._mask
            self._bits = (bits << gap) & self._mask if gap < self._size else 0
            self._run, self.highest = count, last
        else:
            below = self.highest - self._run - last
            self._bits |= (((1 << count) - 1) << below) & self._mask
        self.first = min(self.first, first)
        self.accepted += count

    def hand_over(self, lane: int) -> Window:
        """Return the window as it stands; *lane* says whose it is."""
        return Window(lane, self.first, self.highest, self.accepted, self._run, self._bits)

    def take_over(self, window: Window) -> None:
        """Go on from where another one stood; ValueError if no window can stand so."""
        numbers = window.first, window.highest, window.accepted, window.run
        if min(numbers) < -1 or window.highest < window.first or window.bits > self._mask:
            raise ValueError(f"no replay window: {numbers}")
        self.first, self.highest, self.accepted, self._run = numbers
        self._bits = window.bits

    @property
    def lost(self) -> int:
        """Datagrams sent between the first and the highest number seen that have not been accepted (yet)."""
        return 0 if self.highest < 0 else self.highest - self.first + 1 - self.accepted
