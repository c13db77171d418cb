"""What goes on the wire next: releases first, then objects by passes made and age. Pure; the journal feeds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocol.geometry import BlockShape, Geometry
from protocol.objects import Kind
from sender.journal import QueuedObject


@dataclass(slots=True)
class _Pass:
    """A pass of which blocks are being handed out."""

    queued: QueuedObject
    geometry: Geometry
    sbn: int = 0


class Schedule:
    """Orders passes over objects; *geometry_of* cuts a coded size (bytes) into blocks.

    Passes of one object are *spacing* seconds apart, so that one outage cannot swallow two of them. A release does
    not wait for the end of a large object: its pass goes between two blocks of it.
    """

    def __init__(self, geometry_of: Callable[[int], Geometry], spacing: float) -> None:
        self._geometry_of = geometry_of
        self._spacing = spacing
        self._waiting: list[QueuedObject] = []
        self._going: list[_Pass] = []  # the last one is handed out; one before it is interrupted by a release
        self._begun: dict[int, int] = {}  # object id -> passes begun, in all sessions
        self._ready_at: dict[int, float] = {}  # object id -> when its next pass may begin; inf while one goes on

    def refresh(self, queue: Iterable[QueuedObject]) -> None:
        """Take the journal's queue as it is now: the objects with passes to go."""
        queue = list(queue)
        keep = {queued.id for queued in queue} | {going.queued.id for going in self._going}
        self._begun = {each: begun for each, begun in self._begun.items() if each in keep}
        self._ready_at = {each: at for each, at in self._ready_at.items() if each in keep}
        waiting = []
        for queued in queue:
            begun = self._begun.setdefault(queued.id, queued.passes_done)
            if begun < queued.passes_done + queued.passes_left:
                waiting.append(queued)
        waiting.sort(key=lambda queued: (queued.kind != Kind.RELEASE, self._begun[queued.id], queued.id))
        self._waiting = waiting

    def next_block(self, now: float) -> tuple[QueuedObject, BlockShape] | None:
        """Return the next object and its block; None when nothing may be sent at *now*."""
        self._begin(now)
        if not self._going:
            return None
        going = self._going[-1]
        shape = going.geometry.block(going.sbn)
        going.sbn += 1
        if going.sbn >= going.geometry.blocks:
            self._going.pop()
        return going.queued, shape

    def _begin(self, now: float) -> None:
        """Begin the next pass if none is going, or if a release may interrupt the one that is."""
        if self._going and self._going[-1].queued.kind == Kind.RELEASE:
            return
        for at, queued in enumerate(self._waiting):
            if self._going and queued.kind != Kind.RELEASE:
                return  # releases come first in this list
            if self._ready_at.get(queued.id, now) <= now:
                del self._waiting[at]
                self._begun[queued.id] += 1
                self._ready_at[queued.id] = float("inf")
                self._going.append(_Pass(queued, self._geometry_of(queued.coded_size)))
                return

    def upcoming(self, most: int) -> list[QueuedObject]:
        """Return the objects that follow those being read, at most *most*."""
        found = [going.queued for going in reversed(self._going)]
        return (found + self._waiting[:most])[:most]

    def pass_ended(self, queued: QueuedObject, now: float) -> None:
        """Note that the last symbol of a pass has left."""
        self._ready_at[queued.id] = now + self._spacing

    def abandon(self, queued: QueuedObject) -> None:
        """Forget an object whose bytes cannot be read; the journal may give its id to another one."""
        self._going = [going for going in self._going if going.queued.id != queued.id]
        self._waiting = [other for other in self._waiting if other.id != queued.id]
        self._begun.pop(queued.id, None)
        self._ready_at.pop(queued.id, None)

    @property
    def empty(self) -> bool:
        """Whether every known pass has been handed out."""
        return not self._going and not self._waiting
