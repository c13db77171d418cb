"""What the host's kernel is told: settings that exist, each with its reason, and the diode's neighbour for good."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.lab.oneway import OneWay, missing
from tests.systemd_units.rig import SHIPPED, Units

SETTINGS = sorted(SHIPPED.glob("sysctl.d/*.conf"))
OF_A_NAMESPACE = "net.core."  # of the host alone: not there in a container


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.name)
def test_each_setting_exists_and_says_why(path: Path) -> None:
    reason, found = False, 0
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            reason = True
        elif line:
            name, _, value = (part.strip() for part in line.partition("="))
            assert reason, f"{name}: without a reason"
            place = Path("/proc/sys") / name.replace(".", "/")
            assert place.exists() or name.startswith(OF_A_NAMESPACE), name
            if place.exists():
                assert len(place.read_text().split()) == len(value.split()), name
            found += 1
        else:
            reason = False
    assert found >= 2


def test_both_sides_have_theirs() -> None:
    assert [path.name for path in SETTINGS] == ["90-checkvalve-receiver.conf", "90-checkvalve-sender.conf"]


def test_the_neighbour_s_unit_is_clean(units: Units) -> None:
    instance = units.folder / "checkvalve-neighbour@eth1.service"
    (units.folder / "checkvalve-neighbour@.service").rename(instance)
    assert units.verify(instance.name) == ""
    assert units.exposure(instance.name) <= 2.0  # it has CAP_NET_ADMIN, for a moment


@pytest.mark.lab
@pytest.mark.skipif(bool(missing()), reason=str(missing()))
def test_the_neighbour_s_command_writes_it_down_for_good() -> None:
    text = (SHIPPED / "checkvalve-neighbour@.service").read_text()
    (start,) = [line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")]
    values = {"%I": "lowtx", "${ADDRESS}": "192.0.2.77", "${MAC}": "02:00:00:00:00:77"}
    argv = [values.get(word, word) for word in start.split()]
    with OneWay() as lab:
        for _ in range(2):  # also when it is there already
            subprocess.run(lab.in_low(*argv), check=True)
        shown = subprocess.run(
            lab.in_low("ip", "neighbour", "show", "192.0.2.77"), capture_output=True, text=True, check=True
        )
        assert "02:00:00:00:00:77 PERMANENT" in shown.stdout
