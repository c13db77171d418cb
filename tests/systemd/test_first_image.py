"""From two bare hosts to the first mirrored image."""

from __future__ import annotations

import pytest

from tests.systemd.conftest import Say
from tests.systemd.site import RECEIVER, SENDER, Site

pytestmark = [pytest.mark.booted, pytest.mark.timeout(900)]
UNITS = {
    "low": ("fetch.service", "transmit.service"),
    "high": ("capture.socket", "capture.service", "publish.service"),
}


def test_an_image_appears_in_low_and_can_be_pulled_in_high(site: Site, say: Say) -> None:
    tag, image = site.push(5_000_000)
    say(f"an image crossed in {site.wait_for(tag, image):.1f} s")
    site.pull(tag, image)
    for machine in (site.low, site.high):
        for unit in UNITS[machine.name]:
            shown = machine.show(f"checkvalve-{unit}")
            assert (shown["ActiveState"], shown.get("NRestarts", "0")) == ("active", "0"), unit
    assert site.lab.counts().high_sent == 0


def test_status_lines_are_worth_reading(site: Site) -> None:
    assert "1 images ready" in site.low.show("checkvalve-fetch.service")["StatusText"]
    assert "session 1, " in site.low.show("checkvalve-transmit.service")["StatusText"]
    assert "receiving: session 1 of " in site.high.show("checkvalve-capture.service")["StatusText"]
    assert "1 of 1 images in " in site.high.show("checkvalve-publish.service")["StatusText"]


def test_capture_sees_no_network_and_nobody_reads_another_role_s_key(site: Site) -> None:
    pid = site.high.main_pid("checkvalve-capture.service")
    devices = site.high.run("nsenter", f"--target={pid}", "--net", "ip", "-br", "link").split("\n")
    assert [line.split()[0] for line in devices if line] == ["lo"]
    for machine, side, key in ((site.low, "sender", "sender.pem"), (site.high, "receiver", "receiver.pem")):
        said = machine.run(
            *("runuser", "-u", f"checkvalve-{side}", "--", "cat", f"/etc/checkvalve/keys/{key}"), check=False
        )
        assert "Permission denied" in said
    assert site.high.run("ls", "/opt/checkvalve").split() == ["bin", "receiver", "share"]
    found = site.high.run("find", "/opt/checkvalve", "-path", "*/site-packages/sender*")
    assert found == ""


def test_drop_ins_are_what_the_settings_ask_for(site: Site) -> None:
    site.low.run(SENDER, "units", "--check")
    site.high.run(RECEIVER, "units", "--check")
    assert "198.51.100.1" in site.low.show("checkvalve-transmit.service")["IPAddressAllow"]


def test_the_journal_tells_the_story_in_a_dozen_lines(site: Site, say: Say) -> None:
    units = {
        site.low: ("checkvalve-fetch", "checkvalve-transmit"),
        site.high: ("checkvalve-capture", "checkvalve-publish"),
    }
    story = []
    for machine, names in units.items():
        lines = machine.journal(*names)
        story += [f"{machine.name}: {line[:150]}" for line in lines if '"event"' in line or "checkvalve" in line]
    say("\n        ".join(["the journal:", *story[:40]]))
    text = "\n".join(story)
    for event in (
        "proposed",
        "session_opened",
        "listening",
        "session_joined",
        "release_received",
        "image_published",
        "release_complete",
    ):
        assert text.count(event) == 1, event
    assert len(story) <= 40
