"""``doctor`` as a person meets it, on this machine: real kernel, real code, loopback for a link."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import receiver.cli
import receiver.doctor
import sender.cli
import sender.doctor
from protocol import aead
from protocol.fec import BACKENDS
from receiver.doctor import LinkFacts, link_rate, listening_interface
from runtime import netlink
from runtime.host import Host
from runtime.keys import create_hpke_key, create_signing_key

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
SENDER_CHECKS = [
    *(
        "route",
        "mtu",
        "interface speed",
        "neighbour",
        "transmit ring",
        "cpu",
        "frequency governor",
        "GSO",
        "sendmmsg",
        "send buffer",
    ),
    *("net.core.wmem_max", "send", "seal", "encode", "transmit loop", "SHA-256", "zstd", "disk write", "disk free"),
]
RECEIVER_CHECKS = [
    *(
        "interface",
        "mtu",
        "interface speed",
        "receive ring",
        "receive queues",
        "rp_filter",
        "cpu",
        "frequency governor",
        "GRO",
        "recvmmsg",
        "receive buffer",
    ),
    *("net.core.rmem_max", "net.core.rmem_default", "net.core.netdev_max_backlog", "net.ipv4.udp_mem"),
    *("receive", "open", "receive loop", "decode", "SHA-256", "zstd", "disk write", "disk free"),
]
KEYS = {"check", "found", "needed", "verdict", "mend", "value", "unit"}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """``cli(sender, "doctor", ...)`` -> (exit code, stdout, stderr)."""

    def call(side: Any, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["checkvalve", *map(str, arguments)])
        try:
            code: Any = side.cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def configs(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    create_signing_key(tmp_path / "sender.pem")
    create_hpke_key(tmp_path / "receiver.pem")

    def write(
        to: str = "127.0.0.1:9", rate: str = "10Mbit", on: str = "127.0.0.1:0", more: str = ""
    ) -> tuple[Path, Path]:
        low, high = tmp_path / "sender.yaml", tmp_path / "receiver.yaml"
        low.write_text(
            f"state: low\nimages: images.yaml\nsigning_key: sender.pem\nreceivers: [receiver.pub]\n"
            f"link: {{to: '{to}', rate: {rate}{more}}}\n"
        )
        high.write_text(
            f"state: high\nhpke_key: receiver.pem\nsenders: [sender.pub]\n"
            f"listen: {{on: '{on}', rate: {rate}}}\npublish: {{layout: out}}\nlimits: {{partial_space: 1MiB}}\n"
        )
        return low, high

    return write


def rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in document["findings"]}


def test_a_machine_that_meets_the_rate(cli: Cli, configs: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as diode:
        diode.bind(("127.0.0.1", 0))
        diode.setblocking(False)
        low, high = configs(to=f"127.0.0.1:{diode.getsockname()[1]}")
        before = sorted(tmp_path.rglob("*"))
        for side, config, names in ((sender, low, SENDER_CHECKS), (receiver, high, RECEIVER_CHECKS)):
            begun = time.monotonic()
            code, out, err = cli(side, "doctor", "--json", "--config", config)
            assert time.monotonic() - begun < 10
            document = json.loads(out)
            assert (code, err, document["ok"]) == (0, "", True), out
            assert set(document) == {"side", "ok", "rate_bits", "rate_from", "findings"}
            assert (document["side"], document["rate_bits"]) == (side.__name__, 10_000_000)
            assert [row["check"] for row in document["findings"]] == names
            for row in document["findings"]:
                assert set(row) == KEYS
                assert row["verdict"] in ("ok", "warn")
                assert not (row["mend"] and row["verdict"] == "ok")
            for name in ("SHA-256", "zstd", "disk write"):
                assert rows(document)[name]["value"] > 10_000_000
        assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
        with pytest.raises(BlockingIOError):  # and nothing is sent
            diode.recv(1)


def test_an_impossible_rate_names_what_cannot_and_what_mends_it(
    quick: None, cli: Cli, configs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aead, "PACKAGE", "")
    low, high = configs(rate="40Tbit")
    code, out, err = cli(sender, "doctor", "--config", low)
    assert (code, err) == (1, "")
    assert re.search(r"^40 Tbit/s \(link\.rate\) cannot be met: .*\bseal, encode, transmit loop$", out, re.MULTILINE)
    seal = r"^ seal +[\d.]+ [MG]bit/s \(AES-256-GCM by .*\) +40 Tbit/s +fail +link\.rate: \d+Mbit"
    assert re.search(seal, out, re.MULTILINE)
    assert re.search(r"^ disk write .* warn ", out, re.M), "a slow disk delays the fetch, it loses nothing"
    code, out, err = cli(receiver, "doctor", "--config", high, "--json")
    document = json.loads(out)
    assert (code, err, document["ok"]) == (1, "", False)
    failed = [row for row in document["findings"] if row["verdict"] == "fail"]
    assert {"receive buffer", "receive", "open", "receive loop", "decode", "SHA-256", "disk write"} <= {
        row["check"] for row in failed
    }
    assert all(row["mend"] for row in failed)


def test_where_a_package_would_make_the_cipher_faster_it_is_named(
    quick: None, cli: Cli, configs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aead, "PACKAGE", "libipsec-mb1")
    monkeypatch.setattr(aead, "CHOICE", "OpenSSL, as this system has no libIPSec_MB.so.1")
    low, high = configs(rate="40Tbit")
    for side, config, check in ((sender, low, "seal"), (receiver, high, "open")):
        _, out, _ = cli(side, "doctor", "--json", "--config", config)
        row = rows(json.loads(out))[check]
        assert "apt-get install libipsec-mb1; or " in row["mend"]
        assert "(AES-256-GCM by OpenSSL, as this system has no libIPSec_MB.so.1, " in row["found"]


def test_without_pyeclib_the_slow_code_is_measured_and_named(
    quick: None, cli: Cli, configs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(BACKENDS, "isal", raising=False)
    low, high = configs(rate="10Gbit")
    for side, config, check in ((sender, low, "encode"), (receiver, high, "decode")):
        code, out, _ = cli(side, "doctor", "--json", "--config", config)
        row = rows(json.loads(out))[check]
        assert (code, row["verdict"], row["mend"]) == (1, "fail", "pip install pyeclib")
        assert "portable code, no pyeclib" in row["found"]


def test_what_cannot_be_read_stops_nothing(
    quick: None, cli: Cli, configs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> Any:
        raise PermissionError(1, "Operation not permitted")

    for name in ("neighbours", "addresses"):
        monkeypatch.setattr(netlink, name, refuse)
    monkeypatch.setattr(Host, "sysctl", refuse)
    monkeypatch.setattr(Host, "cpu_flags", refuse)
    monkeypatch.setattr(Host, "mtu", refuse)
    low, high = configs()
    code, out, err = cli(sender, "doctor", "--json", "--config", low)
    found = rows(json.loads(out))
    assert (code, err) == (0, "")
    for name in ("mtu", "cpu", "net.core.wmem_max"):
        assert (found[name]["found"], found[name]["verdict"]) == ("not readable: Operation not permitted", "warn")
    code, out, err = cli(receiver, "doctor", "--json", "--config", high)
    found = rows(json.loads(out))
    assert (code, err) == (0, "")
    assert found["interface"]["found"] == "not readable: Operation not permitted"
    assert (found["interface"]["verdict"], found["interface"]["mend"]) == ("warn", "--interface NAME")
    assert found["receive buffer"]["verdict"] == "ok"


def test_no_route_to_the_diode_fails(quick: None, cli: Cli, configs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> Any:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(netlink, "route_to", refuse)
    low, _ = configs(to="203.0.113.9:4000")
    code, out, _ = cli(sender, "doctor", "--json", "--config", low)
    row = json.loads(out)["findings"][0]
    assert (code, row["verdict"], row["mend"]) == (1, "fail", "ip route add 203.0.113.9 dev INTERFACE")
    assert row["found"] == "none to 203.0.113.9 (Network is unreachable)"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--rate", "fast"], "error: --rate: 'fast' is not a rate; give e.g. 1Gbit or 800Mbit\n"),
        (["--repair", "20"], "error: --repair: '20' is not a ratio; give e.g. 0.1 or 10%\n"),
        (["--outage", "long"], "error: --outage: 'long' is not a duration; give e.g. 10ms, 5s or 1h\n"),
        (["--mtu", "100"], "error: --mtu: 100 is not from 624 to 9216\n"),
    ],
)
def test_mistakes_on_the_receivers_command_line(cli: Cli, configs: Any, arguments: list[str], line: str) -> None:
    assert cli(receiver, "doctor", *arguments, "--config", configs()[1]) == (2, "", line)


def test_a_name_instead_of_an_address(cli: Cli, configs: Any) -> None:
    low, _ = configs(to="diode:4000")
    code, out, err = cli(sender, "doctor", "--config", low)
    assert (code, out) == (1, "")
    assert err.startswith("error: link.to: 'diode' is not an IP address; a diode has no DNS")


def test_the_interface_that_listens(host: Host) -> None:
    assert listening_interface(host, "127.0.0.1", None) == ("lo", "has 127.0.0.1")
    assert listening_interface(host, "203.0.113.9", None) == (None, "no interface has 203.0.113.9 of listen.on")
    assert listening_interface(host, "203.0.113.9", "eth0") == ("eth0", "--interface")
    assert listening_interface(host, "0.0.0.0", None) == (
        None,
        "listen.on: 0.0.0.0 is every one of eth0, tun0, wlan0",
    )
    for name in ("tun0", "wlan0"):
        (host.sys / "class/net" / name / "flags").write_text("0x1002")
    assert listening_interface(host, "::", None) == ("eth0", "the only one that is up")


def test_who_names_the_rate(host: Host, configs: Any) -> None:
    settings = receiver.cli.settings_of(configs()[1])
    assert link_rate(host, settings, LinkFacts(rate=5e9), "eth0") == (5e9, "--rate")
    assert link_rate(host, settings, LinkFacts(), "eth0") == (10_000_000, "listen.rate")
    silent = settings.model_copy(update={"listen": settings.listen.model_copy(update={"rate": None})})
    rate, by = link_rate(host, silent, LinkFacts(), "eth0")
    assert (rate, by) == (10e9, "the speed of eth0; listen.rate says it better")
    for interface in ("wlan0", "eth7", None):
        assert link_rate(host, silent, LinkFacts(), interface) == (1e9, "assumed; say it in listen.rate or --rate")


def test_every_path_is_measured_as_it_is_configured(quick: None) -> None:
    assert [sender.doctor.send_speed(1500, gso)[0] for gso in ("mmsg", "off")] == ["sendmmsg", "plain"]
    for gro, path in (("mmsg", "recvmmsg"), ("off", "plain")):
        found, bits = receiver.doctor.receive_speed(1472, 1500, gro)  # type: ignore[arg-type]
        assert found == path
        assert bits > 1e7


@pytest.mark.parametrize("side", [sender, receiver])
def test_help_has_an_example(cli: Cli, side: Any) -> None:
    code, out, _ = cli(side, "doctor", "--help")
    assert code == 0
    assert re.search(rf"Examples:\s+checkvalve-{side.__name__} doctor", out)
    assert "  doctor " in cli(side, "--help")[1]


def test_without_loopback_the_rest_is_measured(
    quick: None, cli: Cli, configs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> Any:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(sender.doctor, "send_speed", refuse)
    monkeypatch.setattr(receiver.doctor, "receive_speed", refuse)
    low, high = configs()
    for side, config, row, loop in (
        (sender, low, "send", "transmit loop"),
        (receiver, high, "receive", "receive loop"),
    ):
        code, out, _ = cli(side, "doctor", "--json", "--config", config)
        found = rows(json.loads(out))
        assert (code, found[row]["found"]) == (0, "not readable: Network is unreachable")
        assert found[loop]["value"] > 10_000_000


BECOME_NOBODY = """
import contextlib, io, os, sys
import receiver.cli, sender.cli
from runtime import measure
measure.SECONDS, measure.DISK_SECONDS = 0.02, 0.05
main = {"sender": sender.cli, "receiver": receiver.cli}[sys.argv[1]].main
sys.argv = sys.argv[1:]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()  # loads all that it needs while the interpreter's own files may still be read
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; for all others the tests above do")
def test_an_ordinary_user_gets_the_same_rows(configs: Any, tmp_path: Path) -> None:
    configs()
    with tempfile.TemporaryDirectory(prefix="checkvalve-doctor-") as name:  # tmp_path is closed to others
        folder = Path(shutil.copytree(tmp_path, name, dirs_exist_ok=True))
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65_534, 65_534)
        for side, checks in (("sender", SENDER_CHECKS), ("receiver", RECEIVER_CHECKS)):
            done = subprocess.run(
                [sys.executable, "-c", BECOME_NOBODY, side, "doctor", "--json", "--config", folder / f"{side}.yaml"],
                cwd=folder,
                env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": name},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert (done.returncode, done.stderr) == (0, "")
            found = rows(json.loads(done.stdout))
            assert list(found) == checks
            assert not [row for row in found.values() if row["found"].startswith("not ")]
