"""``units`` of both sides: drop-ins that systemd takes, that say what the settings say, and may be written twice."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from receiver.cli import app as receiver_app
from runtime.addresses import allow
from runtime.errors import UserError
from sender.cli import app as sender_app
from tests.systemd_units.rig import SHIPPED, Units
from tests.systemd_units.test_shipped import EXPOSURE_MAX

ETC = "/etc/checkvalve/keys"
SENDER: dict[str, Any] = {
    "state": "/var/lib/checkvalve-sender",
    "images": "/etc/checkvalve/images.yaml",
    "lock": "/var/lib/checkvalve-sender/images.lock",
    "signing_key": f"{ETC}/sender.pem",
    "receivers": [f"{ETC}/receiver.pub"],
    "link": {"to": "192.0.2.10:4433", "rate": "1Gbit"},
}
RECEIVER: dict[str, Any] = {
    "state": "/var/lib/checkvalve-receiver",
    "hpke_key": f"{ETC}/receiver.pem",
    "senders": [f"{ETC}/sender.pub"],
    "listen": {"on": "192.0.2.20:4433"},
    "publish": {"registry": {"url": "https://192.0.2.30:5000"}},
}
SIDES = [(sender_app, SENDER), (receiver_app, RECEIVER)]


class Site:
    """A settings file and the folder that its drop-ins go to."""

    def __init__(self, app: Any, folder: Path, settings: dict[str, Any]) -> None:
        self.app, self.folder, self.file = app, folder, folder.parent / "settings.yaml"
        self.file.write_text(json.dumps(settings))

    def units(self, *options: str) -> tuple[int, str]:
        done = CliRunner().invoke(self.app, ["units", str(self.folder), "--config", str(self.file), *options])
        if isinstance(done.exception, UserError):
            raise done.exception
        return done.exit_code, done.output

    def lines(self, unit: str) -> list[str]:
        """What the drop-in of *unit* sets, without comments."""
        text = (self.folder / f"{unit}.d" / "50-checkvalve.conf").read_text()
        return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "system").mkdir()
    return tmp_path / "system"


@pytest.mark.parametrize(("app", "settings"), SIDES, ids=["sender", "receiver"])
def test_units_with_their_drop_ins_are_clean_and_hardened(units: Units, app: Any, settings: dict[str, Any]) -> None:
    lanes = "link" if app is sender_app else "listen"
    full = {**settings, lanes: {**settings[lanes], "lanes": 16}, "state": "/srv/check valve"}
    if app is receiver_app:
        full["publish"] = {
            "targets": {
                "main": {"registry": {"url": "https://192.0.2.30:5000"}},
                "shelf": {"layout": "/srv/50%", "serve": {"on": "127.0.0.1:5000"}},
            }
        }
    Site(app, units.folder, full).units("--write")
    assert len(list(units.folder.glob("*.d/50-checkvalve.conf"))) == (2 if app is sender_app else 3)
    assert units.verify() == ""
    for drop_in in units.folder.glob("*.service.d"):
        assert units.exposure(drop_in.name.removesuffix(".d")) <= EXPOSURE_MAX, drop_in.name


@pytest.mark.parametrize(("app", "settings"), SIDES, ids=["sender", "receiver"])
def test_write_is_idempotent_and_check_sees_a_change(folder: Path, app: Any, settings: dict[str, Any]) -> None:
    site = Site(app, folder, settings)
    assert site.units("--check")[0] == 1
    assert not list(folder.iterdir())  # --check writes nothing
    code, said = site.units("--write")
    assert (code, "systemctl daemon-reload" in said) == (0, True)
    written = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.conf")}
    assert site.units("--check")[0] == 0
    assert "daemon-reload" not in site.units("--write")[1]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.conf")} == written
    first = next(iter(written))
    first.write_text("[Service]\n")
    assert site.units("--check")[0] == 1
    site.units("--write")
    assert first.read_bytes() == written[first][0]


def test_transmit_reaches_the_diode_and_no_other_place(folder: Path) -> None:
    site = Site(sender_app, folder, SENDER)
    site.units("--write")
    assert site.lines("checkvalve-transmit.service") == ["[Service]", "IPAddressAllow=192.0.2.10"]


def test_a_socket_for_each_lane_with_the_configured_buffer(folder: Path) -> None:
    listen = {"on": "[2001:db8::1]:4000", "lanes": 2, "receive_buffer": "64MiB"}
    site = Site(receiver_app, folder, {**RECEIVER, "listen": listen})
    site.units("--write", "--interface", "eth1")
    assert site.lines("checkvalve-capture.socket") == [
        "[Socket]",
        "ListenDatagram=",
        "ListenDatagram=[2001:db8::1]:4000",
        "ListenDatagram=[2001:db8::1]:4001",
        "ReceiveBuffer=67108864",
        "BindToDevice=eth1",
    ]


def test_the_shipped_socket_is_what_init_configures() -> None:
    assert "ListenDatagram=0.0.0.0:4433\n" in (SHIPPED / "checkvalve-capture.socket").read_text()


@pytest.mark.parametrize(("lanes", "limits"), [(4, []), (6, ["MemoryMax=1342177280", "TasksMax=80"])])
def test_more_than_four_lanes_get_more_memory(folder: Path, lanes: int, limits: list[str]) -> None:
    site = Site(sender_app, folder, {**SENDER, "link": {**SENDER["link"], "lanes": lanes}})
    site.units("--write")
    assert site.lines("checkvalve-transmit.service")[2:] == limits


def test_publish_may_write_to_every_target_outside_the_state(folder: Path) -> None:
    targets = {
        "one": {"layout": "/srv/a b"},
        "two": {"images": {"path": "/srv/100%"}},
        "three": {"layout": "/var/lib/checkvalve-receiver/layout"},
    }
    site = Site(receiver_app, folder, {**RECEIVER, "publish": {"targets": targets}})
    site.units("--write")
    lines = site.lines("checkvalve-publish.service")
    assert [line for line in lines if line.startswith("ReadWritePaths")] == [
        "ReadWritePaths=/srv/100%%",
        'ReadWritePaths="/srv/a b"',
    ]
    assert not any(line.startswith("IPAddressAllow") for line in lines)


def test_what_is_not_needed_any_more_goes_and_the_operators_file_stays(folder: Path) -> None:
    Site(receiver_app, folder, {**RECEIVER, "publish": {"layout": "/srv/a"}}).units("--write")
    drop_in = folder / "checkvalve-publish.service.d" / "50-checkvalve.conf"
    own = drop_in.with_name("60-site.conf")
    own.write_text("[Service]\nNice=1\n")
    site = Site(receiver_app, folder, {**RECEIVER, "publish": {"layout": "/var/lib/checkvalve-receiver/layout"}})
    assert site.units("--check")[0] == 1
    site.units("--write")
    assert (drop_in.exists(), own.exists()) == (False, True)


def test_a_key_elsewhere_takes_the_place_of_the_shipped_one(folder: Path) -> None:
    site = Site(receiver_app, folder, {**RECEIVER, "hpke_key": "/srv/keys/receiver.pem"})
    site.units("--write")
    assert site.lines("checkvalve-capture.service") == [
        "[Service]",
        "LoadCredential=",
        "LoadCredential=hpke_key:/srv/keys/receiver.pem",
    ]


def test_names_are_resolved_with_the_servers_that_are_asked(tmp_path: Path) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("# local\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch internal\n")
    lines = allow("localhost", "publish.registry.url", "checkvalve-receiver units", resolver)
    assert "again when that changes" in lines[0]
    assert "IPAddressAllow=127.0.0.1" in lines
    assert lines[-1] == "IPAddressAllow=192.0.2.53"
    assert "IPAddressAllow=127.0.0.53" not in lines


def test_a_name_that_means_nothing_is_an_error_that_names_the_setting(folder: Path) -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("registry.invalid", None)  # RFC 6761: never exists
    site = Site(receiver_app, folder, {**RECEIVER, "publish": {"registry": {"url": "https://registry.invalid"}}})
    with pytest.raises(UserError, match=r"^publish\.registry\.url: registry\.invalid: "):
        site.units("--write")
    assert not list(folder.iterdir())


def test_json_and_usage(folder: Path) -> None:
    site = Site(sender_app, folder, SENDER)
    rows = json.loads(site.units("--json")[1])["drop_ins"]
    assert [(row["unit"], row["state"]) for row in rows] == [
        ("checkvalve-fetch.service", "missing"),
        ("checkvalve-transmit.service", "missing"),
    ]
    with pytest.raises(UserError, match="--write and --check"):
        site.units("--write", "--check")
