"""The shipped units are clean, harden every service, and say what the manual says of them."""

from __future__ import annotations

import pytest

from tests.systemd_units.rig import SHIPPED, Units

EXPOSURE_MAX = 1.5
ROLES = ("fetch", "transmit", "capture", "publish")


def _lines(name: str) -> list[str]:
    return (SHIPPED / name).read_text().splitlines()


def _value(name: str, key: str) -> str:
    return [line.partition("=")[2] for line in _lines(name) if line.startswith(f"{key}=")][-1]


def test_verify_finds_nothing(units: Units) -> None:
    assert units.verify() == ""


def test_verify_would_find_an_unknown_key(units: Units) -> None:
    unit = units.folder / "checkvalve-fetch.service"
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in units.verify(unit.name)


@pytest.mark.parametrize("role", ROLES)
def test_exposure(units: Units, role: str) -> None:
    assert units.exposure(f"checkvalve-{role}.service") <= EXPOSURE_MAX


def test_every_service_is_judged() -> None:
    names = {path.name for path in SHIPPED.glob("*.service") if "@" not in path.name}
    assert names == {f"checkvalve-{role}.service" for role in ROLES}


@pytest.mark.parametrize("role", ROLES)
def test_a_failing_service_is_tried_for_ever_but_not_with_wrong_settings(role: str) -> None:
    name = f"checkvalve-{role}.service"
    assert "StartLimitIntervalSec=0" in _lines(name)
    assert "Restart=on-failure" in _lines(name)
    assert "RestartPreventExitStatus=2" in _lines(name)


@pytest.mark.parametrize(("link", "bulk"), [("transmit", "fetch"), ("capture", "publish")])
def test_the_link_wins(link: str, bulk: str) -> None:
    for key in ("CPUWeight", "IOWeight"):
        near, far = (int(_value(f"checkvalve-{role}.service", key)) for role in (link, bulk))
        assert near >= 10 * far
    same = [_value(f"checkvalve-{role}.service", "Slice") for role in (link, bulk)]
    assert same[0] == same[1]  # weights count among siblings only


def test_each_private_key_is_one_roles() -> None:
    for role, key in {"transmit": "signing_key", "capture": "hpke_key"}.items():
        assert _value(f"checkvalve-{role}.service", "LoadCredential").startswith(f"{key}:/etc/checkvalve/keys/")
    for role in ("fetch", "publish"):
        text = (SHIPPED / f"checkvalve-{role}.service").read_text()
        assert "LoadCredential" not in text
        assert "InaccessiblePaths=-/etc/checkvalve/keys/" in text


def test_capture_has_no_network_and_its_socket_never_closes_for_good() -> None:
    assert "PrivateNetwork=yes" in _lines("checkvalve-capture.service")
    assert "TriggerLimitIntervalSec=0" in _lines("checkvalve-capture.socket")
    assert "FlushPending=no" in _lines("checkvalve-capture.socket")
