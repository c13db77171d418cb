"""``checkvalve-sender status``: images, releases, the queue and the wire, read from the journal.

Asks no role and no network, so it answers whatever state they are in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from oci.descriptor import short_digest
from runtime.terminal import human_bytes, human_duration, human_rate, print_json, table
from sender.candidates import pending, waiting_line
from sender.config import SenderSettings
from sender.journal import SenderJournal
from sender.repair_queue import RepairQueue

STALE_S: Final = 5.0  # transmit reports several times a second


def show(settings: SenderSettings, *, as_json: bool) -> int:
    """Print the status; 1 if an image failed, images.yaml has faults or what is queued does not go out, else 0."""
    if not settings.journal.exists():
        if as_json:
            print_json({"state": "never run", "journal": settings.journal})
        else:
            print(f"never run yet: no journal at {settings.journal}; start `checkvalve-sender run`")
        return 0
    journal = SenderJournal(settings.journal, read_only=True)
    try:
        found = {**collect(journal, time.time()), "pending": pending(settings.collections, journal)}
    finally:
        journal.close()
    if as_json:
        print_json(found)
    else:
        _print(found)
    failed = any(image["state"] in ("failed", "held") for image in found["images"])
    fetch = found["fetch"]
    return 1 if failed or found["alarms"] or fetch.get("faults") or fetch.get("held") else 0


def collect(journal: SenderJournal, now: float) -> dict[str, Any]:
    """Return everything ``status`` shows; sizes in bytes, times as RFC 3339."""
    images = [{**image, "updated": _time(image["updated"])} for image in journal.images()]
    releases = [
        {"collection": row.collection, "sequence": row.sequence, "digest": row.digest, "created": _time(row.created)}
        for row in journal.newest_releases()
    ]
    live = {
        role: {**document, "updated": _time(updated), "age_s": round(max(now - updated, 0.0), 1)}
        for role, (document, updated) in journal.live().items()
    }
    totals = {**journal.totals(), **RepairQueue(journal).totals()}
    return {
        "state": "known",
        "alarms": _alarms(live.get("transmit", {}), totals),
        "images": images,
        "releases": releases,
        "epoch": journal.epoch(),
        "fetch": live.get("fetch", {}),
        "transmit": live.get("transmit", {}),
        "storage": _storage(live.get("storage", {})),
        **totals,
    }


def _storage(live: dict[str, Any]) -> dict[str, Any]:
    last = live.get("evicted_last")
    return {
        "used_bytes": live.get("used_bytes"),
        "budget_bytes": live.get("budget_bytes"),
        "evicted_last": {**last, "time": _time(last["time"])} if last else None,
    }


def _alarms(transmit: dict[str, Any], totals: dict[str, int]) -> list[str]:
    """What nobody else would notice: a role that died without a word, or a queue that nobody sends."""
    stale = transmit.get("age_s", 0.0) > STALE_S
    if transmit and stale and transmit.get("state") != "closed":
        return [f"transmit stopped answering {human_duration(transmit['age_s'])} ago; its log says why"]
    if transmit.get("state") == "link down":
        return ["the link is down; what is queued waits"]
    waiting = totals["queued_objects"] + totals["queued_repairs"]
    if waiting and (not transmit or stale):
        return [f"{_objects(waiting)} queued and nobody sends; start `checkvalve-sender run`"]
    return []


def _print(found: dict[str, Any]) -> None:
    for alarm in found["alarms"]:
        print(f"ALARM: {alarm}")
    for fault in found["fetch"].get("faults", []):
        print(f"fault: {fault}")
    for reason in found["fetch"].get("held", []):
        print(f"held: {reason}")
    for warning in found["fetch"].get("warnings", []):
        print(f"warning: {warning}")
    if found["images"]:
        table(
            ("image", "digest", "from", "state", "bytes"),
            [
                (
                    image["reference"].partition("@")[0],
                    short_digest(image["digest"]),
                    image["source"],
                    image["state"],
                    _amount(image),
                )
                for image in found["images"]
            ],
            right=("bytes",),
        )
        for image in found["images"]:
            if image["state"] in ("failed", "held"):
                error = str(image["error"]).removeprefix("held: ")
                print(f"{image['state']}: {image['reference'].partition('@')[0]}: {error}")
    else:
        print("no images yet")
    if found["releases"]:
        table(
            ("release", "sequence", "digest", "created"),
            [
                (release["collection"], release["sequence"], short_digest(release["digest"]), release["created"])
                for release in found["releases"]
            ],
            right=("sequence",),
        )
    else:
        print("no release yet")
    for one in found["pending"]:
        print(waiting_line(one))
    print(f"fetch       {_fetching(found['fetch'])}")
    urgent = f", {found['queued_urgent']} of them urgent" if found["queued_urgent"] else ""
    for line in _registries(found["fetch"].get("registries", {}), time.time()):
        print(f"registry    {line}")
    print(f"queued      {_objects(found['queued_objects'])}, {human_bytes(found['queued_bytes'])}{urgent}")
    if found["queued_repairs"]:
        print(f"repairs     {_objects(found['queued_repairs'])}, {human_bytes(found['repair_bytes'])}, go first")
    if found["waiting_objects"]:
        waiting = f"{_objects(found['waiting_objects'])}, {human_bytes(found['waiting_bytes'])}"
        print(f"waiting     {waiting}, until a release that needs them is approved")
    print(f"on the wire {_wire(found['transmit'])}")
    if window := _window(found["transmit"]):
        print(f"window      {window}")
    print(f"sent        {_objects(found['sent_objects'])}, {human_bytes(found['sent_bytes'])}")
    if spool := _spool(found["storage"]):
        print(f"spool       {spool}")
    print(f"epoch       {found['epoch'] or 'none yet'}")


def _spool(storage: dict[str, Any]) -> str | None:
    if storage["used_bytes"] is None:
        return None
    text = human_bytes(storage["used_bytes"])
    if storage["budget_bytes"] is not None:
        text += f" of {human_bytes(storage['budget_bytes'])}"
    last = storage["evicted_last"]
    if last:
        gone = human_bytes(last["bytes"] + last["orphan_bytes"])
        text += f"; last evicted: {_objects(last['objects'])}, {gone}, {last['time']}"
    return text


def _amount(image: dict[str, Any]) -> str:
    if image["state"] == "fetching":
        return f"{human_bytes(image['bytes_done'])} of {human_bytes(image['bytes_total'])}"
    return human_bytes(image["bytes_total"]) if image["bytes_total"] else ""


def _registries(figures: dict[str, dict[str, Any]], now: float) -> Iterator[str]:
    """Yield a line for each registry of which there is something to say."""
    for host, one in figures.items():
        quota = one.get("quota")
        if one["state"] != "closed":
            yield f"{host}: left alone until {_clock(one['open_until'])}: {one['last_error']}"
        elif (one.get("paused_until") or 0) > now:
            yield f"{host}: asked us to wait until {_clock(one['paused_until'])}"
        elif quota:
            yield f"{host}: {quota['remaining']} of {quota['limit']} left for {human_duration(quota['window_s'])}"


def _clock(moment: float | None) -> str:
    return _time(moment) if moment else "its next answer"


def _fetching(live: dict[str, Any]) -> str:
    if not live:
        return "has not run yet"
    return f"{live.get('state')} since {human_duration(live['age_s'])}"


def _wire(live: dict[str, Any]) -> str:
    if not live:
        return "nothing; transmit has not run yet"
    if live.get("state") == "closed" or live["age_s"] > STALE_S:
        return f"nothing; transmit is not running (last seen {human_duration(live['age_s'])} ago)"
    now = live.get("object")
    what = "control traffic only"
    if now:
        what = f"{now.get('label')} ({human_bytes(now.get('bytes') or 0)}, pass {live.get('pass') or 1})"
    return f"{what}, {human_rate(live.get('rate_bits') or 0)}, {live.get('datagrams') or 0} datagrams this session"


def _window(live: dict[str, Any]) -> str | None:
    """What the windows say; None without windows, or a role that follows them."""
    window = live.get("window")
    if window is None or window["until"] is None or live.get("state") == "closed" or live["age_s"] > STALE_S:
        return None
    return f"{'open' if window['open'] else 'closed'} until {window['until']}, {human_rate(window['rate_bits'])}"


def _objects(count: int) -> str:
    return f"{count} object{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
