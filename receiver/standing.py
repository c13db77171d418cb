"""All alarms that stand now, judged from the journal alone: for ``status``, and for publish's part of them."""

from __future__ import annotations

from dataclasses import replace

from receiver.alarms import BY_CAPTURE, Alarm, Facts, judge
from receiver.config import ReceiverSettings
from receiver.deciding import border_alarms
from receiver.journal import ReceiverJournal
from receiver.meters import MINUTE, Meters
from receiver.retention import alarms as retention_alarms
from receiver.survey import CollectionView
from receiver.watch import StandingAlarms
from runtime.alone import at_work


def standing(
    settings: ReceiverSettings, journal: ReceiverJournal, collections: list[CollectionView], now: float
) -> list[Alarm]:
    """Return what is wrong at *now* (Unix s), the gravest of the link first.

    Since when it is, and what takes time to tell, are as the roles have noted. *collections* are a survey's.
    """
    live, stood = journal.live(), StandingAlarms(journal).all()
    images = [image for view in collections for image in view.images]
    facts = Facts(
        now,
        *live.get("capture", ({}, 0.0)),
        at_work(settings.state, "capture"),
        *live.get("publish", ({}, 0.0)),
        gaps={view.collection: view.heard_sequence or 0 for view in collections if view.gap},
        unusable={f"{view.collection} {view.sequence}": view.error for view in collections if view.error is not None},
        failed={
            f"{image.name}@{image.digest}": (image.title, str(image.error))
            for image in images
            if image.state == "failed"
        },
        hour=Meters(journal).total(MINUTE, 60),
    )
    found = judge(facts, settings.alarms)
    if facts.capture_alive:
        behind = [each for each in stood.values() if each.code == "release_behind" and each.subject in facts.gaps]
        found = [*behind, *found]
    found = [*found, *border_alarms(settings, images), *retention_alarms(journal, settings.retention)]
    present = {
        "capture": facts.capture_alive,
        "publish": facts.publish_alive,
    }
    return [_dated(each, stood, noted=present["capture" if each.code in BY_CAPTURE else "publish"]) for each in found]


def _dated(alarm: Alarm, stood: dict[tuple[str, str], Alarm], *, noted: bool) -> Alarm:
    """Return *alarm* with its beginning, if the role that notes it runs (*noted*)."""
    former = stood.get((alarm.code, alarm.subject)) if noted else None
    return alarm if former is None else replace(alarm, since=former.since)
