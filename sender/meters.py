"""How far images have been fetched: on the terminal, and a few times a second in the journal."""

from __future__ import annotations

import asyncio
from typing import Final

from runtime.terminal import Progress
from sender.images import PinnedImage
from sender.journal import SenderJournal

NOTE_S: Final = 0.3  # how often progress goes into the journal


class Meter:
    """Bytes of one image, done and to do."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.noted = (0, 0)

    def advance(self, count: int) -> None:
        """Count bytes that have arrived, or were there already."""
        self.done += count


class Meters:
    """The images that are on their way."""

    def __init__(self, journal: SenderJournal, progress: Progress) -> None:
        self._journal = journal
        self._progress = progress
        self._meters: dict[PinnedImage, Meter] = {}
        self._bars: dict[PinnedImage, int] = {}

    def begin(self, pin: PinnedImage) -> Meter:
        """Return a new meter of an image that is being fetched from now on."""
        meter = self._meters[pin] = Meter()
        return meter

    def end(self, pin: PinnedImage) -> None:
        """Show an image no longer, once its last state is noted."""
        meter = self._meters.pop(pin, None)
        if meter is not None:
            self._note(pin, meter)
        if pin in self._bars:
            self._progress.remove(self._bars.pop(pin))

    async def run(self) -> None:
        """Show and note until cancelled, the last state included."""
        try:
            while True:
                self._note_all()
                await asyncio.sleep(NOTE_S)
        finally:
            self._note_all()
            for pin in list(self._meters):
                self.end(pin)

    def _note_all(self) -> None:
        for pin, meter in self._meters.items():
            self._note(pin, meter)

    def _note(self, pin: PinnedImage, meter: Meter) -> None:
        now = (meter.done, meter.total)
        if now == meter.noted:
            return
        meter.noted = now
        self._journal.note_progress(pin.options.collection, str(pin.reference), *now)
        if pin not in self._bars:
            self._bars[pin] = self._progress.add(f"fetch {pin.label}")
        self._progress.update(self._bars[pin], completed=meter.done, total=meter.total)
