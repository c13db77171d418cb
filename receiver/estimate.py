"""How long an image will take: an estimate from what is being sent, at the rate of useful bytes; pure.

It never promises: what the sender sends next is not known here, only what it sends now and how much it has queued.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from receiver.survey import ImageView
from runtime.terminal import human_bytes, human_duration


@dataclass(frozen=True, slots=True)
class Estimate:
    """*seconds* at the present rate, None where there is none; *text* says it to a person."""

    text: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class OnTheLink:
    """What the link brings now: *sending* are digests of contents, *rate* in useful bytes a second."""

    alive: bool = False
    sending: Collection[str] = ()
    rate: float = 0.0
    queued_bytes: int | None = None  # of the sender, as its last beacon says

    def of(self, image: ImageView) -> Estimate:
        """Return the estimate for an image; nothing for one that lacks nothing."""
        if not image.missing:
            return Estimate()
        if not self.alive:
            return Estimate("nothing is being received")
        if self.rate > 0 and any(content.digest in self.sending for content in image.missing):
            seconds = image.missing_bytes / self.rate
            return Estimate(f"about {_rough(seconds)} at the present rate", seconds)
        queued = f"; the sender has {human_bytes(self.queued_bytes)} queued" if self.queued_bytes else ""
        return Estimate(f"not being sent now{queued}")


def on_the_link(capture: dict[str, Any], *, alive: bool) -> OnTheLink:
    """Read capture's live document."""
    beacon = capture.get("beacon") or {}
    return OnTheLink(
        alive=alive and bool(capture.get("session")),
        sending=frozenset(capture.get("sending", [])),
        rate=float(capture.get("useful_bytes_s", 0.0)),
        queued_bytes=beacon.get("queued_bytes"),
    )


def _rough(seconds: float) -> str:
    """Two units are more than an estimate knows."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return human_duration(round(seconds / 3600) * 3600)
