"""What publish has to tell of by itself: alarms of border, retention and the other role, logged once each way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog.testing

from receiver.alarms import CATALOGUE
from receiver.desired import activate
from receiver.gc_command import confirm
from receiver.incidents import Incidents
from receiver.watch import StandingAlarms
from tests.border.rig import APP, border
from tests.oci_layout.images import single_image
from tests.receiver.site import Cli, Site, release_image
from tests.receiver.test_retention import NGINX


async def told(logs: Any, event: str, code: str) -> dict[str, Any]:
    """Wait for the log's line; return it."""
    async with asyncio.timeout(10):
        while not (found := [each for each in logs if each["event"] == event and each.get("code") == code]):
            await asyncio.sleep(0.02)
    assert len(found) == 1, found
    return dict(found[0])


async def test_a_held_image_is_an_alarm_in_the_log_until_it_is_released(site: Site, cli: Cli) -> None:
    image = single_image("one")
    site.fill(image)
    site.release(release_image(APP, ["1"], image))
    settings = border(site, "{layout: published}", hold="all")
    with structlog.testing.capture_logs() as logs:
        async with site.publishing(settings):
            raised = await told(logs, "alarm_raised", "image_held")
            assert raised["subject"] == f"{APP}@{image.root.descriptor.digest}"
            assert (raised["severity"], raised["log_level"]) == ("error", "warning")
            assert "waits for a person: border.hold" in raised["text"]
            assert raised["remedy"] == CATALOGUE["image_held"].remedy
            arguments = ("release", f"{APP}:1", "--reason", "looked at", "--config", site.config)
            assert (await asyncio.to_thread(cli, *arguments))[0] == 0
            await told(logs, "alarm_cleared", "image_held")
    kept = [each.event for each in Incidents(site.journal).newest(99) if each.reason == "image_held"]
    assert kept == ["alarm_cleared", "alarm_raised"]


async def test_what_a_person_has_to_decide_or_mend_is_in_the_log_and_dated_in_status(site: Site, cli: Cli) -> None:
    one, other = single_image("one"), single_image("other")
    site.fill(one, other)
    settings = site.configure("{layout: published}", more="retention: {releases: 1}\n")
    site.release(*(release_image(f"{NGINX}-{n}", ["1"], one) for n in range(4)))
    with structlog.testing.capture_logs() as logs:
        async with site.publishing(settings):
            await site.until(f"{NGINX}-3", "published")
            site.release(release_image(f"{NGINX}-0", ["1"], other), sequence=2)
            shrunk = await told(logs, "alarm_raised", "release_shrinks")
            assert shrunk["subject"] == "default"
            code, out, _ = await asyncio.to_thread(cli, "status", "--json", "--config", site.config)
            assert code == 1
            assert '"code": "release_shrinks"' in out
            # capture does not run here, and nobody but publish could say so
            assert (await told(logs, "alarm_raised", "capture_down"))["remedy"].startswith("systemctl status")
            await asyncio.to_thread(confirm, settings, "default", 2)  # the command would quieten this process's log
            await told(logs, "alarm_cleared", "release_shrinks")
            first = site.journal.release("default", 1)
            assert first is not None
            activate(site.journal, first, time.time())
            await told(logs, "alarm_raised", "release_waits")
            settings.audit.write_bytes(settings.audit.read_bytes() + b'{"of": "somebody else"}\n')
            await told(logs, "alarm_raised", "audit_broken")
    standing = StandingAlarms(site.journal).all()
    assert {code for code, _ in standing} == {"capture_down", "release_waits", "audit_broken"}
    assert all(alarm.since for alarm in standing.values())
