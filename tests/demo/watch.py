"""Follows a transfer through the journals of both sides: bars on a terminal, plain lines elsewhere.

Reads only; what there is to see is what `checkvalve-sender status` and `checkvalve-receiver status` read too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, Self

from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.senders import trust
from receiver.survey import Survey
from runtime.errors import UserError
from runtime.settings import load_settings
from runtime.terminal import Progress, human_bytes, human_duration
from sender.config import SenderSettings
from sender.journal import SenderJournal
from sender.releases import desired_contents
from tests.demo.site import Site

STAGES: Final = ("fetch", "send", "receive", "publish")
CONTROL: Final = "control"  # the bar of a run that has nothing else to show


@dataclass(slots=True)
class Stage:
    """How far one stage is, bytes."""

    done: int = 0
    total: int = 0
    finished_s: float | None = None  # since the start

    @property
    def complete(self) -> bool:
        """Whether there was something to do, and all of it is done."""
        return self.total > 0 and self.done >= self.total


class Watch:
    """One run, looked at from outside. Journals that are not there yet are opened as soon as they are."""

    def __init__(self, site: Site, started: float) -> None:
        """*started* is when the run began, Unix s: what is older belongs to an earlier run."""
        self._sender = load_settings(site.sender_settings, SenderSettings)
        self._receiver = load_settings(site.receiver_settings, ReceiverSettings)
        self._started = started
        self._sending: SenderJournal | None = None
        self._receiving: tuple[ReceiverJournal, Survey] | None = None
        self._base = 0  # bytes sent by earlier sessions of this run
        self._session: tuple[object, int] = (None, 0)
        self._fetched_before: set[str] | None = None
        self.stages = {name: Stage() for name in STAGES}

    def close(self) -> None:
        """Close the journals."""
        if self._sending is not None:
            self._sending.close()
        if self._receiving is not None:
            self._receiving[0].close()

    def look(self) -> tuple[int, ...]:
        """Bring ``stages`` up to date; return a value that changes while anything moves."""
        self._open()
        if self._sending is not None:
            self._look_at_sender(self._sending)
        if self._receiving is not None:
            self._look_at_receiver(*self._receiving)
        for stage in self.stages.values():
            if stage.complete and stage.finished_s is None:
                stage.finished_s = time.time() - self._started
        return tuple(stage.done for stage in self.stages.values())

    def transmit(self) -> dict[str, Any]:
        """What transmit last said of itself in this run."""
        return self._said(self._sending, "transmit")

    def capture(self) -> dict[str, Any]:
        """What capture last said of itself in this run."""
        return self._said(self._receiving[0] if self._receiving else None, "capture")

    def release(self) -> int:
        """The newest release's number, 0 before there is one."""
        rows = self._sending.newest_releases() if self._sending else []
        return rows[0].sequence if rows else 0

    def coded_bytes(self) -> int:
        """Bytes of content as coded for the link, repeats and the release itself left out."""
        if self._sending is None:
            return 0
        ids = self._sending.carriers(desired_contents(self._sending.newest_releases()))
        find = self._sending.connection.execute
        return sum(int(find("SELECT coded_size FROM objects WHERE id = ?", (each,)).fetchone()[0]) for each in ids)

    def _said(self, journal: SenderJournal | ReceiverJournal | None, role: str) -> dict[str, Any]:
        document, updated = journal.live().get(role, ({}, 0.0)) if journal else ({}, 0.0)
        return document if updated >= self._started else {}

    def _open(self) -> None:
        try:
            if self._sending is None:
                self._sending = SenderJournal(self._sender.journal, read_only=True)
            if self._receiving is None:
                journal = ReceiverJournal(self._receiver.journal, read_only=True)
                self._receiving = (journal, Survey(journal, self._receiver.spool, trust(self._receiver)))
        except UserError:
            pass  # not created yet

    def _look_at_sender(self, journal: SenderJournal) -> None:
        fetch, send = self.stages["fetch"], self.stages["send"]
        images = journal.images()
        if self._fetched_before is None:
            self._fetched_before = {
                row["reference"] for row in images if row["state"] == "ready" and row["updated"] < self._started
            }
        rows = [row for row in images if row["bytes_total"] and row["reference"] not in self._fetched_before]
        if rows:
            fetch.done, fetch.total = sum(r["bytes_done"] for r in rows), sum(r["bytes_total"] for r in rows)
        live = self.transmit()
        if live and live.get("content_bytes", 0):
            if live.get("started") != self._session[0]:
                self._base += self._session[1]
            self._session = (live.get("started"), int(live["content_bytes"]))
            send.done = self._base + int(live["content_bytes"])
            send.total = max(send.done + int(live.get("queued_bytes", 0)), send.done)

    def _look_at_receiver(self, journal: ReceiverJournal, survey: Survey) -> None:
        receive, publish = self.stages["receive"], self.stages["publish"]
        moved = {
            image["name"]: int(image["moved_bytes"]) for image in self._said(journal, "publish").get("images", [])
        }
        for view in survey.collections():
            fresh = view.published is None or view.published >= self._started
            if not fresh or (view.heard or 0.0) < self._started:
                continue
            receive.total = publish.total = sum(image.total_bytes for image in view.images)
            receive.done = sum(image.total_bytes - image.missing_bytes for image in view.images)
            publish.done = sum(
                image.total_bytes if image.state == "published" else moved.get(image.name, 0) for image in view.images
            )


class Display:
    """Shows the stages of a ``Watch``: a context manager."""

    def __init__(self, watch: Watch, *, expected: bool) -> None:
        """*expected* is whether anything is to come: then all bars are there from the start."""
        self._watch = watch
        self._progress = Progress()
        shown = STAGES if expected else (CONTROL,)
        self._bars = {name: self._progress.add(f"   {name:<9}") for name in shown}
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.refresh()
        self._progress.__exit__(*exc)

    def refresh(self) -> None:
        """Draw bars, or print a line for a stage that has ended."""
        ended = [(name, stage) for name, stage in self._watch.stages.items() if stage.complete]
        for name, stage in sorted(ended, key=lambda item: item[1].finished_s or 0.0):
            if not self._progress.shown and name not in self._told:
                self._told.add(name)
                print(f"   {name:<9}{human_bytes(stage.total):>8}  {_when(stage)}", flush=True)
        if CONTROL in self._bars:
            self._progress.update(self._bars[CONTROL], completed=self._watch.transmit().get("wire_bytes", 0))
        for name, stage in self._watch.stages.items():
            if stage.total:
                if name not in self._bars:
                    self._bars[name] = self._progress.add(f"   {name:<9}")
                self._progress.update(self._bars[name], completed=stage.done, total=stage.total)


def _when(stage: Stage) -> str:
    return f"done after {human_duration(stage.finished_s or 0.0)}"
