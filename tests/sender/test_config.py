"""sender.yaml: what each mistake looks like to the person who made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from runtime.settings import load_settings
from sender import setup
from sender.config import SenderSettings
from tests.sender.conftest import Site


def refusal(site: Site, **top: Any) -> str:
    site.write(**top)
    with pytest.raises(UserError) as caught:
        site.settings()
    assert caught.value.exit_code == 2
    return str(caught.value).removeprefix(f"{site.config}:1: ")


LINK = {"to": "127.0.0.1:9", "rate": "1Gbit"}


@pytest.mark.parametrize(
    ("top", "line"),
    [
        ({"stat": "x"}, "stat: unknown key; did you mean state?"),
        ({"link": LINK | {"rat": 1}}, "link.rat: unknown key; did you mean rate?"),
        ({"link": LINK | {"rate": "10G"}}, "link.rate: '10G' is not a rate; give e.g. 1Gbit or 800Mbit"),
        (
            {"link": LINK | {"to": "10.0.0.1"}},
            "link.to: '10.0.0.1' is not host:port; give e.g. 10.0.0.1:4000 or [::1]:4000",
        ),
        (
            {"link": LINK | {"to": "10.0.0.1:65534", "lanes": 3}},
            "link: to: 10.0.0.1:65534 leaves no ports for 3 lanes, one each; give port 1 to 65533",
        ),
        ({"link": LINK | {"lanes": 17}}, "link.lanes: 17 is too large; give at most 16"),
        ({"link": LINK | {"mtu": 100}}, "link.mtu: 100 is too small; give at least 624"),
        ({"link": {"to": "127.0.0.1:9"}}, "link.rate: is missing; add this key"),
        ({"link": LINK | {"repair": 10}}, "link.repair: 10 is not a ratio; give e.g. 0.1 or 10%"),
        (
            {"collection": "Team A"},
            "collection: 'Team A' is not a name; give 1 to 64 of a-z 0-9 . _ - that begin and end with a letter or "
            "digit",
        ),
        ({"receivers": []}, "receivers: [] has too few items; give at least 1"),
        ({"receivers": "x.pem"}, "receivers: 'x.pem' is not a list; start each item with '- '"),
        ({"repeats": {"passes": "two"}}, "repeats.passes: 'two' is not a whole number"),
        ({"fetch": {"interval": "often"}}, "fetch.interval: 'often' is not a duration; give e.g. 10ms, 5s or 1h"),
        (
            {"fetch": {"foreign_layers": "maybe"}},
            "fetch.foreign_layers: 'maybe' is not allowed; give 'leave' or 'fetch'",
        ),
        (
            {"fetch": {"registries": {"my registry": {}}}},
            "fetch.registries: registry 'my registry': expected a host name or address, optionally with a port, such "
            "as registry.example:5000 or [fd00::1]:5000",
        ),
        (
            {"fetch": {"registries": {"a.example": {"plainhttp": True}}}},
            "fetch.registries.a.example.plainhttp: unknown key; did you mean plain_http?",
        ),
        (
            {"fetch": {"registries": {"a.example": {"requests": "20"}}}},
            "fetch.registries.a.example.requests: '20' is not a frequency; give e.g. 20/s or 300/min",
        ),
        (
            {"fetch": {"registries": {"a.example": {"requests": "0/s"}}}},
            "fetch.registries.a.example.requests: '0/s' is not a frequency above zero; give e.g. 20/s or 300/min",
        ),
        (
            {"fetch": {"registries": {"a.example": {"key": "k.pem"}}}},
            "fetch.registries.a.example: key: needs its certificate; add cert (or remove key)",
        ),
        (
            {"fetch": {"registries": {"a.example": {"plain_http": True, "ca": "c.pem"}}}},
            "fetch.registries.a.example: plain_http: leaves ca and cert without use; remove it (or them)",
        ),
        (
            {"fetch": {"registries": {"a.example": {"username": "me"}}}},
            "fetch.registries.a.example: username: is of no use alone; add password_file or password_env",
        ),
        (
            {"fetch": {"registries": {"a.example": {"username": "me:pw", "password_env": "PW"}}}},
            "fetch.registries.a.example.username: is empty or holds a colon; give the user name only, and its "
            "password in password_file",
        ),
        (
            {"fetch": {"registries": {"a.example": {"password_env": "PW"}}}},
            "fetch.registries.a.example: password_env: is of no use alone; add username",
        ),
        (
            {"fetch": {"registries": {"a.example": {"username": "me", "password_env": "PW", "password_file": "f"}}}},
            "fetch.registries.a.example: password_file and password_env: only one can be the password's place; "
            "remove the other",
        ),
        (
            {"fetch": {"registries": {"a.example": {"mirrors": ["m.example", "M.example"]}}}},
            "fetch.registries.a.example.mirrors: names a mirror twice; give each once",
        ),
        (
            {"fetch": {"registries": {"a.example": {"mirrors": ["https://m.example"]}}}},
            "fetch.registries.a.example.mirrors: registry 'https:': port '': expected a number from 1 to 65535; "
            "a mirror is HOST[:PORT][/PATH]",
        ),
        (
            {"fetch": {"registries": {"a.example": {"mirrors": ["m.example"], "location": "l.example"}}}},
            "fetch.registries.a.example: location: replaces the registry, so mirrors of it are never asked; remove "
            "one of them",
        ),
        ({"webhook": {"listen": "127.0.0.1:1"}}, "webhook.secret_file: is missing; add this key"),
        (
            {"logs": {"level": "loud"}},
            "logs.level: 'loud' is not allowed; give 'debug', 'info', 'warning' or 'error'",
        ),
    ],
)
def test_a_fault_is_one_line(site: Site, top: dict[str, Any], line: str) -> None:
    assert refusal(site, **top) == line


@pytest.mark.parametrize(
    ("rate", "burst", "expected"),
    [("100Mbit", None, 128_000), ("1Gbit", None, 500_000), ("10Gbit", None, 5_000_000), ("10Gbit", "64kB", 64_000)],
)
def test_a_burst_is_four_milliseconds_of_the_rate_unless_said(
    site: Site, rate: str, burst: str | None, expected: int
) -> None:
    site.write(link=LINK | {"rate": rate} | ({"burst": burst} if burst else {}))
    assert site.settings().link.burst_bytes == expected


def test_hosts_are_spelt_as_in_references(site: Site) -> None:
    site.registries.update({"Registry.Example:5000": {"plain_http": True}, "index.docker.io": {}})
    site.write()
    assert set(site.settings().fetch.registries) == {"registry.example:5000", "docker.io"}


def test_the_environment_wins(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write()
    monkeypatch.setenv("CHECKVALVE_SENDER__LINK__RATE", "5Mbit")
    assert site.settings().link.rate == 5_000_000


def test_what_init_writes_is_valid_also_with_every_key_in_use(tmp_path: Path) -> None:
    setup.make(tmp_path, to="10.0.0.1:4000", rate="2.5Gbit", receivers=[])
    path = tmp_path / "sender.yaml"
    settings = load_settings(path, SenderSettings)
    assert (str(settings.link.to), settings.link.rate) == ("10.0.0.1:4000", 2_500_000_000)
    assert settings.receivers == [tmp_path / "keys" / "receiver.pub"]
    lines = []
    for line in path.read_text().splitlines()[2:]:
        lines.append(line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line)
    path.write_text("\n".join(lines))
    full = load_settings(path, SenderSettings)
    assert full.fetch.registries["registry.example:5000"].ca == tmp_path / "ca.pem"
    # what the comments call the default is the default
    ignore: dict[str, Any] = {
        "fetch": {"registries", "docker_config"},
        "link": {"interface", "burst"},
        "webhook": True,  # off unless it is there
        "schedule": {"timezone", "windows"},
        "storage": {"budget"},
    }
    assert full.model_dump(exclude=ignore) == settings.model_dump(exclude=ignore)
    dumped = json.loads(full.model_dump_json())
    unsaid = [
        f"{section}.{key}"
        for section in ("link", "repeats", "schedule", "fetch", "logs")
        for key in dumped[section]
        if f" {key}:" not in path.read_text()
    ]
    assert unsaid == []
