"""``status``: what this receiver has, lacks and hears, as tables for people or JSON for programs."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Final

from receiver.alarms import Facts, Severity, alive
from receiver.config import ReceiverSettings
from receiver.estimate import OnTheLink, on_the_link
from receiver.incidents import Incidents
from receiver.journal import ReceiverJournal
from receiver.margin import Meter, advise, summary
from receiver.meters import HOUR, MINUTE, Meters
from receiver.senders import trust
from receiver.standing import standing
from receiver.survey import CollectionView, ImageView, PartialObject, Survey
from receiver.target_journal import TargetJournal
from receiver.target_views import print_targets, target_documents
from runtime.terminal import human_bytes, human_duration, human_rate, print_json, table

_FIGURES: Final = ("datagrams", "bytes", "symbols", "repaired", "surplus", "lost", "kernel_drops")
_PARTIALS_SHOWN: Final = 20
_INCIDENTS_SHOWN: Final = 20


def status(settings: ReceiverSettings, *, as_json: bool) -> int:
    """Print how things stand; return 0 when every newest release is published and nothing is alarming, else 1.

    Warnings do not count: then all does what it should, with little to spare.
    """
    now = time.time()
    journal = ReceiverJournal(settings.journal, read_only=True)
    try:
        survey = Survey(journal, settings.spool, trust(settings))
        collections, partials = survey.collections(), survey.partials()
        live = journal.live()
        capture, told = live.get("capture", ({}, 0.0))
        link = _link(capture, told, journal.counters(), now)
        publishing = _publishing(*live.get("publish", ({}, 0.0)), now)
        publishing["targets"] = target_documents(collections, TargetJournal(journal).targets())
        meters, incidents = Meters(journal), Incidents(journal).newest(_INCIDENTS_SHOWN)
        hour, day = meters.total(MINUTE, 60), meters.total(HOUR, 24)
        alarms = standing(settings, journal, collections, now)
    finally:
        journal.close()
    wire = on_the_link(capture, alive=alive(capture, told, now))
    good = all(each.severity is Severity.WARNING for each in alarms)
    good = good and bool(collections) and all(view.complete for view in collections)
    if as_json:
        print_json(
            {
                "ok": good,
                "alarms": [each.document() for each in alarms],
                "releases": [_release_document(view, wire) for view in collections],
                "partial_objects": [_partial_document(item) for item in partials],
                "link": link,
                "loss": {"hour": hour.document(), "day": day.document(), "advice": asdict(advise(day))},
                "incidents": [asdict(each) for each in incidents],
                "publish": publishing,
            }
        )
    else:
        _print(collections, partials, link, publishing, wire, now)
        _print_loss(hour, day)
        for each in alarms:
            name = "ALARM" if each.severity is Severity.ERROR else "WARNING"
            since = f" (for {human_duration(max(0.0, now - each.since))})" if each.since is not None else ""
            print(f"{name}: {each.text}; {each.remedy}{since} [{each.code}]")
    return 0 if good else 1


def _link(document: dict[str, Any], updated: float, counters: dict[str, int], now: float) -> dict[str, Any]:
    """What capture says: figures since ever (counters), and of this moment (its live *document*)."""
    state = str(document.get("state", "never started"))
    running = alive(document, updated, now)
    ago = max(0.0, now - document["last_beacon"]) if document.get("last_beacon") else None
    if running and document.get("beacon"):  # by the role's own monotonic clock
        ago = document["beacon"]["age_s"] + max(0.0, now - updated)
    return {
        "capture": state if running or state in ("stopped", "never started") else "not running",
        "session": document.get("session") if running else None,
        "path": document.get("path"),
        "lanes": document.get("lanes", []) if running else [],
        "rate_bits": document.get("rate_bits", 0) if running else 0,
        "last_datagram_ago": Facts(now, document, updated).silence,
        "last_beacon_ago": ago,
        "beacon": document.get("beacon") if running else None,
        "objects": document.get("objects", []) if running else [],
        "received": {name: counters.get(name, 0) for name in _FIGURES},
        "drops": {
            name.removeprefix("drop."): count
            for name, count in sorted(counters.items())
            if name.startswith("drop.") and count
        },
    }


def _publishing(document: dict[str, Any], updated: float, now: float) -> dict[str, Any]:
    state = str(document.get("state", "never started"))
    running = alive(document, updated, now)
    return {
        "state": state if running or state in ("stopped", "never started") else "not running",
        "target": document.get("target"),
        "images": document.get("images", []) if running else [],
    }


def _print(
    collections: list[CollectionView],
    partials: list[PartialObject],
    link: dict[str, Any],
    publishing: dict[str, Any],
    wire: OnTheLink,
    now: float,
) -> None:
    table(
        ("collection", "release", "newest heard", "behind", "received", "published"),
        [
            (
                view.collection,
                view.sequence,
                view.heard_sequence,
                view.gap or "",
                _ago(view.received, now),
                _ago(view.published, now) if view.complete else _progress(view),
            )
            for view in collections
        ],
        title="Releases",
        right=("release", "newest heard", "behind"),
    )
    if not collections:
        print("no release received or heard of yet\n")
    _print_images([image for view in collections for image in view.images], wire)
    if partials:
        rows = [(item.kind, item.digest, human_bytes(item.coded_size), _percent(item.percent)) for item in partials]
        table(
            ("kind", "digest", "size", "here"),
            rows[:_PARTIALS_SHOWN],
            title=f"Partial objects: {len(partials)}",
            right=("size", "here"),
        )
    print_targets(publishing["targets"])
    _print_link(link, publishing)


def _print_loss(hour: Meter, day: Meter) -> None:
    table(
        ("loss", ""),
        [("last hour", summary(hour)), ("last day", summary(day)), ("advice", advise(day).text)],
    )


def _print_images(images: list[ImageView], wire: OnTheLink) -> None:
    if not images:
        return
    table(
        ("image", "digest", "state", "here", "size", "missing", "estimate", "why"),
        [
            (
                image.title,
                image.digest[:19],
                image.state,
                _percent(image.percent),
                human_bytes(image.total_bytes),
                len(image.missing) or "",
                wire.of(image).text,
                image.error,
            )
            for image in images
        ],
        title="Images",
        right=("here", "size", "missing"),
    )


def _print_link(link: dict[str, Any], publishing: dict[str, Any]) -> None:
    received = link["received"]
    rows = [
        ("capture", link["capture"]),
        ("publish", " to ".join(filter(None, (publishing["state"], publishing["target"])))),
        ("rate", human_rate(link["rate_bits"])),
        ("last datagram", _since(link["last_datagram_ago"])),
        ("last beacon", _since(link["last_beacon_ago"])),
        ("datagrams received", f"{received['datagrams']:,} ({human_bytes(received['bytes'])})"),
        ("datagrams lost", f"{received['lost']:,}"),
        ("dropped by this kernel", _kernel_drops(received["kernel_drops"], link["path"])),
        ("symbols repaired", f"{received['repaired']:,}"),
        ("symbols not needed", f"{received['surplus']:,}"),
    ]
    for number, lane in enumerate(link["lanes"]):
        rows.append((f"lane {number}", f"{lane['datagrams']:,} datagrams, {lane['lost']:,} lost"))
    rows += [(f"dropped: {reason}", f"{count:,}") for reason, count in link["drops"].items()]
    table(("link", ""), rows)


def _kernel_drops(count: int, path: str | None) -> str:
    """With GRO the kernel queues and drops bursts of up to 64 datagrams, and counts each burst once."""
    return f"{count:,} {'bursts of datagrams' if path == 'gro' else 'datagrams'}" if count else "0"


def _release_document(view: CollectionView, wire: OnTheLink) -> dict[str, Any]:
    document = asdict(view) | {"gap": view.gap, "complete": view.complete}
    for image, entry in zip(view.images, document["images"], strict=True):
        entry["percent"] = round(image.percent, 2)
        entry["estimate_s"], entry["estimate"] = wire.of(image).seconds, wire.of(image).text
        entry["missing"] = [content.digest for content in image.missing]
    return document


def _partial_document(item: PartialObject) -> dict[str, Any]:
    return asdict(item) | {"percent": round(item.percent, 2)}


def _progress(view: CollectionView) -> str:
    done = sum(image.state == "published" for image in view.images)
    return f"{done} of {len(view.images)} images" if view.images else ""


def _percent(value: float) -> str:
    """Whole percent, rounded down: 100 % is only what is whole."""
    return f"{int(value)} %"


def _ago(moment: float | None, now: float) -> str:
    return "" if moment is None else f"{human_duration(max(0.0, now - moment))} ago"


def _since(seconds: float | None) -> str:
    return "never" if seconds is None else f"{human_duration(max(0.0, seconds))} ago"
