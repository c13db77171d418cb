"""``status`` and ``missing``: what this receiver has, lacks and hears, as tables for people or JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.retention import alarms as retention_alarms
from receiver.senders import trust
from receiver.survey import CollectionView, ImageView, PartialObject, Survey
from runtime.terminal import human_bytes, human_duration, human_rate, print_json, table

_ALIVE_S: Final = 10.0  # a role that has not been heard of for longer is not running
_FIGURES: Final = ("datagrams", "bytes", "symbols", "repaired", "surplus", "lost", "kernel_drops")
_PARTIALS_SHOWN: Final = 20
_REFUSALS: Final = {"not_for_us", "untrusted_sender", "bad_signature", "bad_session_key", "stale_epoch"}


def status(settings: ReceiverSettings, *, as_json: bool) -> int:
    """Print how things stand; return 0 when every newest release is published and nothing is alarming, else 1."""
    now = time.time()
    journal = ReceiverJournal(settings.journal, read_only=True)
    try:
        survey = Survey(journal, settings.spool, trust(settings))
        collections, partials = survey.collections(), survey.partials()
        link = _link(settings, journal, now)
        publishing = _publishing(journal, now)
        keeping = retention_alarms(journal, settings.retention)
    finally:
        journal.close()
    alarms = [*link["alarms"], *_alarms(collections, unapproved=link["unapproved"]), *keeping]
    good = not alarms and bool(collections) and all(view.complete for view in collections)
    if as_json:
        print_json(
            {
                "ok": good,
                "alarms": alarms,
                "releases": [_release_document(view) for view in collections],
                "partial_objects": [_partial_document(item) for item in partials],
                "link": {key: value for key, value in link.items() if key != "alarms"},
                "publish": publishing,
            }
        )
    else:
        _print(collections, partials, link, publishing, alarms, now)
    return 0 if good else 1


def missing(settings: ReceiverSettings, *, as_json: bool) -> int:
    """Print every content of the newest releases that is not here; return 1 if there is any or no release, else 0."""
    journal = ReceiverJournal(settings.journal, read_only=True)
    try:
        survey = Survey(journal, settings.spool, trust(settings))
        collections = survey.collections()
        found = _missing(collections, {item.digest: item for item in survey.partials()})
    finally:
        journal.close()
    if as_json:
        print_json({"missing": found})
    elif not collections:
        print("no release received or heard of yet, so what is missing is not known")
    elif not found:
        print("nothing is missing")
    else:
        table(
            ("digest", "size", "byte ranges not here", "needed by"),
            [
                (
                    item["digest"],
                    "" if item["size"] is None else human_bytes(item["size"]),
                    _ranges_text(item),
                    ", ".join(item["needed_by"]),
                )
                for item in found
            ],
            right=("size",),
        )
    return 1 if found or not collections else 0


def _missing(collections: list[CollectionView], partly: dict[str, PartialObject]) -> list[dict[str, Any]]:
    """Return one entry per digest; a release that only beacons know is an entry as well, of unknown size."""
    found: dict[str, dict[str, Any]] = {}

    def need(digest: str, size: int | None, by: str) -> None:
        entry = found.get(digest)
        if entry is None:
            partial = partly.get(digest)
            entry = found[digest] = {"digest": digest, "size": size, "needed_by": [], "coded": None}
            if partial is not None:
                entry["coded"] = {
                    "digest": partial.coded_digest,
                    "size": partial.coded_size,
                    "missing": [list(pair) for pair in partial.missing],
                }
        entry["needed_by"].append(by)

    for view in collections:
        if view.gap and view.heard_digest is not None:
            need(view.heard_digest, None, f"release {view.collection} {view.heard_sequence}")
        for image in view.images:
            for content in image.missing:
                need(content.digest, content.size, image.title)
    return list(found.values())


def _ranges_text(item: dict[str, Any]) -> str:
    if item["coded"] is None:
        return "all"
    ranges = [f"{start}-{end - 1}" for start, end in item["coded"]["missing"]]
    shown = ", ".join(ranges[:4]) + (f" and {len(ranges) - 4} more" if len(ranges) > 4 else "")
    return f"{shown} of {item['coded']['size']}"


def _link(settings: ReceiverSettings, journal: ReceiverJournal, now: float) -> dict[str, Any]:
    """What capture says: figures since ever (counters), and of this moment (its live document)."""
    counters = journal.counters()
    document, updated = journal.live().get("capture", ({}, 0.0))
    state = str(document.get("state", "never started"))
    stopped = state in ("stopped", "never started")
    alive = not stopped and now - updated <= _ALIVE_S
    heard = document.get("last_datagram") or 0.0
    silence = now - heard if heard else None
    alarms = []
    publishing, told = journal.live().get("publish", ({}, 0.0))
    half = publishing.get("state") != "stopped" and now - told <= _ALIVE_S  # the other role runs, so this one should
    if not alive and (half or not stopped) and now - updated > _ALIVE_S:
        since = f"last heard of {human_duration(now - updated)} ago" if updated else "it never started"
        alarms.append(f"capture is not running: {since}")
    if alive and (silence is None or silence > settings.listen.silence_alarm):
        for_long = "ever" if silence is None else f"for {human_duration(silence)}"
        alarms.append(f"silence: no datagram {for_long}; look at the sender, the diode and the cabling")
    elif alive and document.get("session") is None:
        refused = sorted(_REFUSALS & {name for name, count in document.get("drops", {}).items() if count})
        alarms += [f"datagrams arrive and no session opens: dropped as {', '.join(refused)}"] if refused else []
    lanes = document.get("lanes", []) if alive else []
    if not alarms:
        alarms += _silent_lanes(lanes, now, settings.listen.silence_alarm)
    beacon = document.get("last_beacon") or 0.0
    return {
        "capture": state if stopped or alive else "not running",
        "session": document.get("session") if alive else None,
        "path": document.get("path"),
        "lanes": lanes,
        "rate_bits": document.get("rate_bits", 0) if alive else 0,
        "last_datagram_ago": silence,
        "last_beacon_ago": now - beacon if beacon else None,
        "objects": document.get("objects", []) if alive else [],
        "received": {name: counters.get(name, 0) for name in _FIGURES},
        "drops": {
            name.removeprefix("drop."): count
            for name, count in sorted(counters.items())
            if name.startswith("drop.") and count
        },
        "unapproved": bool(document.get("drops", {}).get("release_unapproved")),
        "alarms": alarms,
    }


def _silent_lanes(lanes: list[dict[str, Any]], now: float, most: float) -> list[str]:
    """Return an alarm for each lane that hears nothing while the link is alive."""
    found = []
    for number, lane in enumerate(lanes):
        last = lane["last_datagram"]
        if now - last > most:
            ago = f"for {human_duration(now - last)}" if last else "ever"
            found.append(f"lane {number} is silent: no datagram {ago}; look at link.lanes of the sender and its port")
    return found


def _publishing(journal: ReceiverJournal, now: float) -> dict[str, Any]:
    document, updated = journal.live().get("publish", ({}, 0.0))
    state = str(document.get("state", "never started"))
    alive = now - updated <= _ALIVE_S
    return {
        "state": state if alive or state in ("stopped", "never started") else "not running",
        "target": document.get("target"),
        "images": document.get("images", []) if alive else [],
    }


def _alarms(collections: Iterable[CollectionView], *, unapproved: bool) -> list[str]:
    """Return what is wrong with releases and images; *unapproved*: a release was refused for want of approvals."""
    found = []
    for view in collections:
        if view.gap and unapproved:
            found.append(
                f"release {view.collection} {view.heard_sequence} is heard of and not here; one came that fewer "
                "approvers have signed than `approvals` asks for"
            )
        if view.error is not None:
            found.append(f"release {view.collection} {view.sequence} is not used: {view.error}")
        found += [f"{image.title}: {image.error}" for image in view.images if image.state == "failed"]
    return found


def _print(
    collections: list[CollectionView],
    partials: list[PartialObject],
    link: dict[str, Any],
    publishing: dict[str, Any],
    alarms: list[str],
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
    _print_images([image for view in collections for image in view.images])
    if partials:
        rows = [(item.kind, item.digest, human_bytes(item.coded_size), _percent(item.percent)) for item in partials]
        table(
            ("kind", "digest", "size", "here"),
            rows[:_PARTIALS_SHOWN],
            title=f"Partial objects: {len(partials)}",
            right=("size", "here"),
        )
    _print_link(link, publishing)
    for alarm in alarms:
        print(f"ALARM: {alarm}")


def _print_images(images: list[ImageView]) -> None:
    if not images:
        return
    table(
        ("image", "digest", "state", "here", "size", "missing", "why"),
        [
            (
                image.title,
                image.digest[:19],
                image.state,
                _percent(image.percent),
                human_bytes(image.total_bytes),
                len(image.missing) or "",
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


def _release_document(view: CollectionView) -> dict[str, Any]:
    document = asdict(view) | {"gap": view.gap, "complete": view.complete}
    for image, entry in zip(view.images, document["images"], strict=True):
        entry["percent"] = round(image.percent, 2)
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
