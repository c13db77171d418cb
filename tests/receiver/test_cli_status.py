"""``checkvalve-receiver status`` and ``missing``: what a person sees of both roles, and the alarms."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from receiver.journal import Partial, ReceiverJournal
from tests.oci_layout.images import single_image
from tests.receiver.site import Cli, Site, hear, release_image


def test_status_before_anything_ran(made: Path, cli: Cli) -> None:
    code, _, err = cli("status", "--config", made / "receiver.yaml")
    assert (code, err) == (1, f"error: {made}/state/journal.sqlite: no journal here yet; start the service once\n")
    ReceiverJournal(made / "state" / "journal.sqlite").close()
    code, out, _ = cli("missing", "--config", made / "receiver.yaml")
    assert (code, out) == (1, "no release received or heard of yet, so what is missing is not known\n")


def test_status_and_missing_of_an_image_in_part(site: Site, cli: Cli) -> None:
    image = single_image()
    absent, partly = list(image.blobs.values())[:2]
    site.configure("{layout: published}")
    site.fill(image, without=[absent[0].digest, partly[0].digest])
    site.release(release_image("docker.io/library/nginx", ["1.27"], image))
    hear(site.journal, "default", 3, "sha256:" + "3" * 64, time.time())
    coded = "sha256:" + "c" * 64
    site.journal.open_partial(
        Partial(
            coded,
            1,
            0,
            partly[0].digest,
            partly[0].size,
            partly[0].size,
        ),
        time.time(),
    )
    site.journal.save_ranges([(coded, [(0, 16), (32, 48)])], time.time())
    site.journal.note_capture(None, {"datagrams": 1234, "lost": 5, "repaired": 4, "drop.replayed": 7}, {}, 1.0)
    code, out, err = cli("status", "--config", site.config)
    assert (code, err) == (1, "")
    assert re.search(r"default +1 +3 +2 ", out)
    assert re.search(
        r"docker.io/library/nginx:1.27 +sha256:\w+ +receiving +\d+ % .* 2 +nothing is being received *$",
        out,
        re.MULTILINE,
    )
    assert re.search(r"dropped: replayed +7", out)
    code, out, _ = cli("status", "--json", "--config", site.config)
    document = json.loads(out)
    assert (code, document["ok"]) == (1, False)
    assert document["link"]["received"]["datagrams"] == 1234
    assert document["releases"][0]["gap"] == 2
    assert document["partial_objects"][0]["missing"] == [[16, 32], [48, partly[0].size]]
    code, out, _ = cli("missing", "--json", "--config", site.config)
    assert code == 1
    found = {item["digest"]: item for item in json.loads(out)["missing"]}
    assert set(found) == {absent[0].digest, partly[0].digest, "sha256:" + "3" * 64}
    assert found[absent[0].digest]["coded"] is None
    assert found[partly[0].digest]["coded"] == {
        "digest": coded,
        "size": partly[0].size,
        "missing": [[16, 32], [48, partly[0].size]],
    }
    code, out, _ = cli("missing", "--config", site.config)
    assert code == 1
    assert f"16-31, 48-{partly[0].size - 1} of {partly[0].size}" in out


async def test_status_of_a_release_that_is_complete(site: Site, cli: Cli) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image("docker.io/library/nginx", ["1.27"], image))
    assert await site.once(site.configure("{layout: published}")) == 0
    code, out, _ = cli("status", "--config", site.config)
    assert code == 0
    assert "100 %" in out
    assert "ALARM" not in out
    assert cli("missing", "--config", site.config)[:2] == (0, "nothing is missing\n")


@pytest.mark.parametrize("capture", [None, {"state": "stopped"}])
async def test_publish_without_capture_is_an_alarm(site: Site, cli: Cli, capture: dict[str, Any] | None) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image("docker.io/library/nginx", ["1.27"], image))
    async with site.publishing(site.configure("{layout: published}")):
        await site.until("docker.io/library/nginx", "published")
        if capture is not None:
            site.journal.set_live("capture", capture, time.time() - 60)
        code, out, _ = cli("status", "--config", site.config)
        assert code == 1
        assert "ALARM: capture is not running: " + ("last heard of 1 min" if capture else "it never started") in out


async def test_status_shows_each_of_several_lanes_and_alarms_when_one_is_silent(site: Site, cli: Cli) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image("docker.io/library/nginx", ["1.27"], image))
    assert await site.once(site.configure("{layout: published}")) == 0
    now = time.time()
    lanes = [{"datagrams": 12_345, "lost": 6, "last_datagram": now, "path": "gro"} for _ in range(3)]
    state = {"state": "receiving", "last_datagram": now, "session": {"epoch": 1}, "lanes": lanes}
    site.journal.set_live("capture", state, now)
    code, out, _ = cli("status", "--config", site.config)
    assert code == 0
    assert out.count("12,345 datagrams, 6 lost") == 3
    lanes[1]["last_datagram"], lanes[2]["last_datagram"] = now - 120, 0.0
    site.journal.set_live("capture", state, now)
    code, out, _ = cli("status", "--config", site.config)
    assert code == 1
    assert "ALARM: lane 1 is silent: no datagram for 2 min" in out
    assert "ALARM: lane 2 is silent: no datagram ever" in out
    assert "lane 0 is silent" not in out


def test_a_release_that_nobody_approved_raises_an_alarm(site: Site, cli: Cli) -> None:
    site.configure("{layout: published}")
    hear(site.journal, "default", 3, "sha256:" + "a" * 64, time.time())
    state = {"state": "receiving", "last_datagram": time.time(), "session": "x", "drops": {"release_unapproved": 1}}
    site.journal.set_live("capture", state, time.time())
    code, out, _ = cli("status", "--config", site.config)
    assert code == 1
    assert "ALARM: release default 3 is heard of and not here; one came that fewer approvers have signed" in out


@pytest.mark.parametrize(
    ("age", "state", "words"),
    [
        (0, {"state": "receiving", "last_datagram": 100.0}, "ALARM: silence: no datagram for"),
        (0, {"state": "receiving", "last_datagram": 0}, "ALARM: silence: no datagram ever"),
        (60, {"state": "receiving", "last_datagram": 0}, "ALARM: capture is not running: last heard of 1 min"),
        (
            0,
            {"state": "receiving", "last_datagram": 4e9, "session": None, "drops": {"not_for_us": 3, "replayed": 1}},
            "ALARM: datagrams arrive and no session opens: dropped as not_for_us",
        ),
        (60, {"state": "stopped", "last_datagram": 100.0}, None),
    ],
)
async def test_alarms_of_the_link(site: Site, cli: Cli, age: float, state: dict[str, Any], words: str | None) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image("docker.io/library/nginx", ["1.27"], image))
    assert await site.once(site.configure("{layout: published}")) == 0
    site.journal.set_live("capture", state, time.time() - age)
    code, out, _ = cli("status", "--config", site.config)
    assert code == (1 if words else 0)
    assert words is None or words in out
