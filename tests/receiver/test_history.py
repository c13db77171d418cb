"""``history``, and what ``status`` shows besides: loss with advice, estimates, alarms as a program reads them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from receiver.alarms import Alarm
from receiver.estimate import OnTheLink
from receiver.incidents import KEPT, Incident, Incidents
from receiver.journal import ReceiverJournal
from receiver.margin import Meter
from receiver.meters import Meters
from receiver.survey import ImageView
from receiver.watch import StandingAlarms
from tests.oci_layout.images import single_image
from tests.receiver.site import Cli, Site, content, hear, release_image


def sent(site: Site, cli: Cli, *arguments: object) -> Any:
    code, out, err = cli("history", "--json", *arguments, "--config", site.config)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_releases_with_gaps_a_broken_chain_and_what_was_only_heard_of(site: Site, cli: Cli) -> None:
    image = release_image("docker.io/library/nginx", ["1.27"], single_image())
    site.configure("{layout: published}")
    for sequence in (1, 2, 6, 8):
        site.release(image, sequence=sequence)
    site._digests["default", 8] = "sha256:" + "9" * 64
    site.release(image, sequence=9)
    hear(site.journal, "default", 11, "sha256:" + "b" * 64, time.time())
    document = sent(site, cli)
    found = {row["sequence"]: row for row in document["releases"]}
    assert [row["sequence"] for row in document["releases"]] == [9, 8, 6, 2, 1]
    assert {sequence: row["skipped"] for sequence, row in found.items()} == {
        1: None,
        2: None,
        6: [3, 5],
        8: [7, 7],
        9: None,
    }
    assert found[9]["note"] == "does not follow the 8 that is here"
    assert {row["images"] for row in found.values()} == {1}
    assert [(row["collection"], row["sequence"]) for row in document["not_received"]] == [("default", 11)]
    code, out, _ = cli("history", "--config", site.config)
    assert code == 0
    assert "3 to 5 never received" in out
    assert "7 never received" in out
    assert "release default 11 is heard of and has not been received" in out
    assert len(sent(site, cli, "--limit", "2")["releases"]) == 2


def test_releases_are_in_the_order_in_which_they_came_though_the_clock_was_set_back(site: Site, cli: Cli) -> None:
    site.configure("{layout: published}")
    image = release_image("docker.io/library/nginx", ["1.27"], single_image())
    for sequence, year in ((1, 2040), (2, 2026), (3, 1999)):
        site.release(image, sequence=sequence)
        moment = time.mktime((year, 1, 1, 0, 0, 0, 0, 0, 0))
        site.journal.connection.execute("UPDATE releases SET received = ? WHERE sequence = ?", (moment, sequence))
    assert [row["sequence"] for row in sent(site, cli)["releases"]] == [3, 2, 1]


def test_what_was_dropped_and_how_the_link_did(site: Site, cli: Cli) -> None:
    site.configure("{layout: published}")
    now = time.time()
    lost = Incident("partial_given_up", "sha256:" + "a" * 64, "limits.partial_space", bytes=5_000_000)
    Incidents(site.journal).note([lost], now - 7_200)
    Incidents(site.journal).note([Incident("alarm_raised", "", "silence", "silence: no datagram for 31 s")], now)
    meter = Meter(datagrams=98_800, bytes=10**8, lost=1_200, blocks=90, worst=11, worst_of=20, worst_k=200)
    Meters(site.journal).add(meter, now - 7_200)
    Meters(site.journal).add(meter, now)
    document = sent(site, cli)
    assert [row["event"] for row in document["incidents"]] == ["alarm_raised", "partial_given_up"]
    assert [row["span_s"] for row in document["loss"]] == [3_600, 3_600]
    assert {row["loss_ppm"] for row in document["loss"]} == {12_000}
    recent = sent(site, cli, "--since", "1h", "--limit", "100")
    assert [row["event"] for row in recent["incidents"]] == ["alarm_raised"]
    assert [row["span_s"] for row in recent["loss"]] == [60]
    assert sent(site, cli, "--since", "400d")["loss"][0]["span_s"] == 86_400
    code, out, _ = cli("history", "--config", site.config)
    assert code == 0
    assert "limits.partial_space" in out
    assert "11 of 20" in out
    assert "1.2 %" in out


@pytest.mark.parametrize("since", ["soon", "2026-13-45"])
def test_a_wrong_since_is_one_line(site: Site, cli: Cli, since: str) -> None:
    site.configure("{layout: published}")
    code, out, err = cli("history", "--since", since, "--config", site.config)
    assert (code, out) == (2, "")
    assert (
        err == f"error: --since: {since!r} is neither a duration nor a time; give e.g. 2d, 6h or 2026-01-31T08:00\n"
    )


def test_a_date_counts_from_midnight_utc(site: Site, cli: Cli) -> None:
    site.configure("{layout: published}")
    Incidents(site.journal).note([Incident("before", "x")], 1_769_817_599.0)
    Incidents(site.journal).note([Incident("after", "x")], 1_769_817_600.0)
    assert [row["event"] for row in sent(site, cli, "--since", "2026-01-31")["incidents"]] == ["after"]


def test_incidents_are_bounded_and_in_the_order_in_which_they_happened(site: Site) -> None:
    incidents = Incidents(site.journal)
    incidents.note([Incident("x", f"{number}") for number in range(KEPT)], 2e9)
    incidents.note([Incident("x", "last")], 1.0)  # the clock was set back
    assert incidents.newest(1)[0].subject == "last"
    assert len(incidents.newest(KEPT * 2)) == KEPT


def view(**changes: Any) -> ImageView:
    part = next(iter(single_image().blobs.values()))[0]
    given = {"name": "a", "tags": ("1",), "digest": "sha256:" + "a" * 64, "state": "receiving", "error": None}
    return ImageView(**(given | {"total_bytes": 500, "missing_bytes": 240, "missing": [content(part)]} | changes))


def test_estimates_say_what_is_known_and_no_more() -> None:
    image = view()
    digest = image.missing[0].digest
    wire = OnTheLink(alive=True, sending=[digest], rate=1.0)
    assert wire.of(image).text == "about 4 min at the present rate"
    assert wire.of(image).seconds == 240
    assert wire.of(view(missing_bytes=2)).text == "about 2 s at the present rate"
    assert wire.of(view(missing_bytes=40 * 3600)).text == "about 1 d 16 h at the present rate"
    idle = OnTheLink(alive=True, sending=["sha256:" + "0" * 64], rate=1.0, queued_bytes=12_000_000_000)
    assert (idle.of(image).text, idle.of(image).seconds) == ("not being sent now; the sender has 12 GB queued", None)
    assert OnTheLink(alive=True, sending=[digest], rate=0.0).of(image).text == "not being sent now"
    assert OnTheLink().of(image).text == "nothing is being received"
    assert wire.of(view(missing=[], missing_bytes=0)).text == ""


def capture(now: float, **changes: Any) -> dict[str, Any]:
    return {"state": "receiving", "silent_s": 0.1, "session": {"epoch": 1}, "last_datagram": now, **changes}


async def test_status_tells_the_margin_and_a_warning_is_no_failure(site: Site, cli: Cli) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image("docker.io/library/nginx", ["1.27"], image))
    assert await site.once(site.configure("{layout: published}")) == 0
    now = time.time()
    site.journal.set_live("capture", capture(now), now)
    Meters(site.journal).add(Meter(datagrams=98_800, lost=1_200, blocks=90, worst=17, worst_of=20, worst_k=200), now)
    code, out, _ = cli("status", "--config", site.config)
    assert code == 0, out
    assert "1.2 % lost, worst block used 17 of 20 repair symbols" in out
    assert "raise link.repair on the sender to 15 %" in out
    assert "WARNING: in the last hour 1.2 % lost" in out
    assert "[margin_low]" in out
    code, out, _ = cli("status", "--json", "--config", site.config)
    document = json.loads(out)
    assert (code, document["ok"]) == (0, True)
    assert [(alarm["code"], alarm["severity"]) for alarm in document["alarms"]] == [("margin_low", "warning")]
    assert document["loss"]["hour"]["worst_used"] == 17
    assert document["loss"]["advice"]["repair"] == 0.15


async def test_status_knows_since_when_and_what_takes_time_to_tell_from_capture(site: Site, cli: Cli) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image("docker.io/library/nginx", ["1.27"], image))
    assert await site.once(site.configure("{layout: published}")) == 0
    now = time.time()
    hear(site.journal, "default", 2, "sha256:" + "2" * 64, now)
    site.journal.set_live("capture", capture(now, silent_s=99.0), now)
    behind = Alarm("release_behind", "release default 2 was heard of 11 min ago and has not come", "default")
    stale = Alarm("release_behind", "of a collection that caught up", "edge")
    silent = Alarm("silence", "as it was")
    StandingAlarms(site.journal).settle([silent], now - 3_600)
    StandingAlarms(site.journal).settle([silent, behind, stale], now - 60)
    cli("status", "--config", site.config)  # takes what publish has logged
    code, out, _ = cli("status", "--json", "--config", site.config)
    found = {alarm["code"]: alarm for alarm in json.loads(out)["alarms"]}
    assert code == 1
    assert set(found) == {"silence", "release_behind"}
    assert found["silence"]["since"] == now - 3_600
    assert found["silence"]["text"].startswith("silence: no datagram for 1 min 39 s")
    site.journal.set_live("capture", capture(now) | {"state": "stopped"}, now)
    assert json.loads(cli("status", "--json", "--config", site.config)[1])["alarms"] == []


def test_a_damaged_journal_is_one_line_that_says_who_mends_it(site: Site, cli: Cli) -> None:
    site.configure("{layout: published}")
    site.journal.close()
    path = site.folder / "state" / "journal.sqlite"
    path.write_bytes(b"rot" * 10_000)
    for command in ("status", "history"):
        code, out, err = cli(command, "--config", site.config)
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert err.endswith("capture sets it aside and begins a new one when it starts\n")


async def test_publish_starts_again_when_the_journal_was_set_aside(site: Site) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image("docker.io/library/nginx", ["1.27"], image))
    async with site.publishing(site.configure("{layout: published}")) as task:
        await site.until("docker.io/library/nginx", "published")
        site.journal.close()
        path = site.folder / "state" / "journal.sqlite"
        path.rename(path.with_name("aside"))
        site.journal = ReceiverJournal(path)
        with pytest.raises(Exception, match="starts again with the new one"):
            await task
