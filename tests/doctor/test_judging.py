"""How ``doctor`` judges what it read: verdicts, and lines that mend."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from receiver.doctor import reverse_path
from runtime import checks
from runtime.findings import Finding, Report, unreadable
from runtime.host import Host, Rings
from runtime.measure import disk_speed, nearest_folder, per_second, timed_part
from runtime.netlink import Neighbour
from runtime.offload import Trial
from sender.doctor import neighbour

GIGABIT = 1e9


def said(finding: Finding) -> tuple[str, str]:
    return finding.verdict, finding.mend


def test_queues_and_governors(host: Host) -> None:
    folder = host.sys / "class/net/eth0/queues"
    for name in ("rx-0", "rx-1", "tx-0"):
        (folder / name).mkdir(parents=True)
    assert said(checks.queues(host, "eth0", 1, 8)) == ("ok", "")
    assert said(checks.queues(host, "eth0", 4, 8)) == ("warn", "ethtool -L eth0 combined 4")
    assert said(checks.queues(host, "eth0", 4, 2)) == ("ok", "")  # no processor to serve them
    assert host.governors() == {}
    assert said(checks.governor({})) == ("ok", "")
    for number, (governor, driver) in enumerate([("powersave", "acpi-cpufreq"), ("powersave", "intel_pstate")]):
        place = host.sys / f"devices/system/cpu/cpu{number}/cpufreq"
        place.mkdir(parents=True)
        (place / "scaling_governor").write_text(f"{governor}\n")
        (place / "scaling_driver").write_text(f"{driver}\n")
    assert said(checks.governor(host.governors())) == ("warn", "cpupower frequency-set -g performance")
    assert said(checks.governor({"cpu1": host.governors()["cpu1"]})) == ("ok", "")


@pytest.mark.parametrize(
    ("found", "essential", "verdict"),
    [(2e9, True, "ok"), (1.1e9, True, "warn"), (0.9e9, True, "fail"), (0.9e9, False, "warn")],
)
def test_throughput(found: float, essential: bool, verdict: str) -> None:
    finding = checks.throughput("seal", found, GIGABIT, mend="link.rate: 700Mbit", what="AES", essential=essential)
    assert said(finding) == (verdict, "" if verdict == "ok" else "link.rate: 700Mbit")
    assert (finding.value, finding.unit, finding.needed) == (found, "bit/s", "1.0 Gbit/s")
    assert finding.found.endswith("bit/s (AES)")


@pytest.mark.parametrize(("lanes", "cores", "verdict", "share"), [(4, 8, "ok", 1 / 4), (4, 2, "warn", 1 / 2)])
def test_lanes_share_the_rate_as_far_as_there_are_cores(lanes: int, cores: int, verdict: str, share: float) -> None:
    finding = checks.lanes(lanes, cores, "link.lanes")
    assert finding.verdict == verdict
    assert finding.mend == ("" if verdict == "ok" else "link.lanes: 2, on both sides, or more cores")
    assert checks.lane_share(lanes, cores) == share
    assert checks.lane_share(1, cores) == 1


def test_the_rate_that_is_proposed_can_be_met() -> None:
    assert checks.lower_rate("link.rate", 5e8, 1e9, 1e9) == "link.rate: 400Mbit"
    assert checks.lower_rate("link.rate", 1, 1e9, 1e9) == "link.rate: 1Mbit"


def test_mtu(host: Host) -> None:
    assert said(checks.interface_mtu(host, "eth0", 9000)) == ("ok", "")
    assert said(checks.interface_mtu(host, "tun0", 1500)) == ("fail", "ip link set dev tun0 mtu 1500")
    assert said(checks.interface_mtu(host, "eth0", 9000, route=1500)) == ("fail", "link.mtu: 1500")
    assert said(checks.interface_mtu(host, "eth0", 1500, route=9000)) == ("ok", "")


def test_speed(host: Host) -> None:
    assert said(checks.interface_speed(host, "eth0", 10e9)) == ("ok", "")
    slow = checks.interface_speed(host, "eth0", 25e9)
    assert slow.verdict == "fail"
    assert slow.mend == "ethtool eth0  # cable and negotiated speed; or set the rate to 10000Mbit"
    assert checks.interface_speed(host, "wlan0", 25e9).found == "wlan0: the driver tells none"
    assert checks.interface_speed(host, "lo", 25e9).verdict == "ok"


def test_rings(host: Host) -> None:
    def read(interface: str) -> Rings:
        return Rings(512, 4096, 256, 4096)

    def refuse(interface: str) -> Rings:
        raise OSError(95, "Operation not supported")

    assert said(checks.ring(host, "eth0", read, receiving=True)) == ("warn", "ethtool -G eth0 rx 4096")
    assert said(checks.ring(host, "eth0", read, receiving=False)) == ("ok", "")
    assert "Operation not supported" in checks.ring(host, "eth0", refuse, receiving=True).found


@pytest.mark.parametrize(
    ("flags", "machine", "verdict", "found"),
    [
        ({"aes", "sha_ni", "avx2", "gfni"}, "x86_64", "ok", "AES, SHA, AVX2, GFNI"),
        ({"aes", "sha_ni", "avx2"}, "x86_64", "ok", "AES, SHA, AVX2; not GFNI"),
        ({"avx2"}, "x86_64", "warn", "AVX2; not AES, SHA, GFNI"),
        ({"aes", "sha2", "asimd"}, "aarch64", "ok", "AES, SHA, SIMD"),
        (set(), "aarch64", "warn", "none; not AES, SHA, SIMD"),
        ({"aes"}, "riscv64", "warn", "riscv64: nothing known about it"),
    ],
)
def test_cpu(flags: set[str], machine: str, verdict: str, found: str) -> None:
    finding = checks.cpu(frozenset(flags), machine)
    assert (finding.verdict, finding.found) == (verdict, found)


def test_offloads_matter_only_when_all_are_missing() -> None:
    works, refused, untold = Trial(True), Trial(False, "Operation not permitted"), Trial(None, "no loopback")
    rows = checks.offloads([("GSO", refused), ("sendmmsg", works)])
    assert [(row.found, row.verdict) for row in rows] == [("Operation not permitted", "ok"), ("works", "ok")]
    rows = checks.offloads([("GSO", refused), ("sendmmsg", untold)])
    assert [(row.found, row.verdict) for row in rows] == [
        ("Operation not permitted", "warn"),
        ("not tried: no loopback", "warn"),
    ]


def test_sysctl(host: Host) -> None:
    short = checks.sysctl(host, "net.core.rmem_max", 25_000_000, "the buffer")
    assert said(short) == ("warn", "sysctl -w net.core.rmem_max=25000000")
    assert said(checks.sysctl(host, "net.core.rmem_max", 100_000, "the buffer")) == ("ok", "")
    pages = checks.sysctl(host, "net.ipv4.udp_mem", 12_208, "pages", index=2)
    assert said(pages) == ("warn", 'sysctl -w net.ipv4.udp_mem="769 1027 12208"')
    with pytest.raises(ValueError, match="has 1 numbers"):
        checks.sysctl(host, "net.core.rmem_max", 1, "", index=2)


@pytest.mark.parametrize(
    ("plain", "forced", "asked", "allowed", "verdict", "mend"),
    [
        (32 << 20, None, 32 << 20, 64 << 20, "ok", ""),
        (212_992, None, 32 << 20, 212_992, "fail", "sysctl -w net.core.rmem_max=25000000"),
        (212_992, 32 << 20, 32 << 20, 212_992, "warn", "sysctl -w net.core.rmem_max=25000000"),
        (8 << 20, None, 8 << 20, 64 << 20, "warn", "listen.receive_buffer: 24MiB"),
        (
            1 << 20,
            None,
            8 << 20,
            1 << 20,
            "fail",
            "listen.receive_buffer: 24MiB and sysctl -w net.core.rmem_max=25000000",
        ),
    ],
)
def test_receive_buffer(plain: int, forced: int | None, asked: int, allowed: int, verdict: str, mend: str) -> None:
    finding = checks.receive_buffer(plain, forced, asked, GIGABIT, allowed)
    assert said(finding) == (verdict, mend)
    assert ("CAP_NET_ADMIN" in finding.found) == (forced is not None)


def test_send_buffer() -> None:
    assert said(checks.send_buffer(212_992, 128_000)) == ("ok", "")
    assert said(checks.send_buffer(64_000, 128_000)) == ("warn", "sysctl -w net.core.wmem_max=128000")


@pytest.mark.parametrize(
    ("state", "verdict"),
    [("permanent", "ok"), ("reachable", "warn"), ("stale", "warn"), ("failed", "fail"), ("incomplete", "fail")],
)
def test_neighbour(host: Host, state: str, verdict: str) -> None:
    known = [
        Neighbour("10.0.0.1", "wlan0", None, "permanent"),
        Neighbour("10.0.0.1", "eth0", "02:00:00:00:00:01", state),
    ]
    finding = neighbour(host, "eth0", "10.0.0.1", known)
    line = "ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent"
    assert said(finding) == (verdict, "" if verdict == "ok" else line)


def test_a_neighbour_nobody_knows_and_an_interface_without_any(host: Host) -> None:
    assert said(neighbour(host, "eth0", "10.0.0.1", [])) == (
        "warn",
        "ip neigh replace 10.0.0.1 lladdr MAC dev eth0 nud permanent",
    )
    assert said(neighbour(host, "tun0", "10.0.0.1", [])) == ("ok", "")


@pytest.mark.parametrize(
    ("everywhere", "here", "verdict", "mend"),
    [
        ("0", "0", "ok", ""),
        ("1", "0", "warn", "sysctl -w net.ipv4.conf.all.rp_filter=0"),
        ("2", "1", "warn", "sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0"),
    ],
)
def test_reverse_path(host: Host, everywhere: str, here: str, verdict: str, mend: str) -> None:
    for name, value in (("all", everywhere), ("eth0", here)):
        folder = host.proc / "sys/net/ipv4/conf" / name
        folder.mkdir(parents=True)
        (folder / "rp_filter").write_text(f"{value}\n")
    assert said(reverse_path(host, "eth0")) == (verdict, mend)


def test_disk_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(free: int) -> Any:
        return lambda folder: type("Usage", (), {"free": free})

    for free, verdict, mend in (
        (500 << 30, "ok", ""),
        (100 << 30, "warn", "limits.partial_space: 90GiB"),
        (1 << 20, "fail", f"a disk with 215 GB for {tmp_path}"),
    ):
        monkeypatch.setattr(checks.shutil, "disk_usage", usage(free))  # type: ignore[attr-defined]
        finding = checks.disk_free(tmp_path / "not" / "yet", 200 << 30, "why", key="limits.partial_space")
        assert said(finding) == (verdict, mend)


def test_disk_write_leaves_nothing(quick: None, tmp_path: Path) -> None:
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert disk_speed(tmp_path) > 1e5
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(quick: None, tmp_path: Path) -> None:
    report = Report("receiver", GIGABIT, "--rate")
    report.add("disk write", lambda: checks.disk_write(Path("/proc/nowhere"), 1e6, essential=True, mend="x"))
    (row,) = report.findings
    assert row.verdict == "warn"
    assert row.found.startswith("not " + ("readable" if os.geteuid() == 0 else "measured"))


def test_what_cannot_be_read_is_a_warning_with_the_reason(tmp_path: Path) -> None:
    report = Report("sender", GIGABIT, "link.rate")
    blind = Host(tmp_path / "proc", tmp_path / "sys")
    report.add("mtu", lambda: checks.interface_mtu(blind, "eth0", 1500))
    report.add("cpu", lambda: checks.cpu(blind.cpu_flags(), "x86_64"))
    report.add("net.core.rmem_max", lambda: checks.sysctl(blind, "net.core.rmem_max", 1, ""))
    assert [row.verdict for row in report.findings] == ["warn"] * 3
    assert report.findings[0].found == f"not readable: {tmp_path}/sys/class/net/eth0/mtu: No such file or directory"
    assert report.ok
    assert unreadable("x", ValueError("no sense")).found == "not readable: no sense"


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("sender", GIGABIT, "link.rate")
    report.findings += [Finding("mtu", "9000", "1500"), Finding("ring", "5", "9", "warn", "ethtool -G eth0 rx 9")]
    assert report.show(as_json=False) == 0
    assert "1.0 Gbit/s (link.rate) can be met; 1 warning\n" in capsys.readouterr().out
    report.findings.append(Finding("seal", "1 kbit/s", "1.0 Gbit/s", "fail", "link.rate: 1Mbit", 1000.0, "bit/s"))
    assert report.show(as_json=False) == 1
    out = capsys.readouterr().out
    assert "1.0 Gbit/s (link.rate) cannot be met: seal\n" in out
    assert "ethtool -G eth0 rx 9" in out
    assert report.show(as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert {key: document[key] for key in ("side", "ok", "rate_bits", "rate_from")} == {
        "side": "sender",
        "ok": False,
        "rate_bits": 1_000_000_000,
        "rate_from": "link.rate",
    }
    assert document["findings"][2] == {
        "check": "seal",
        "found": "1 kbit/s",
        "needed": "1.0 Gbit/s",
        "verdict": "fail",
        "mend": "link.rate: 1Mbit",
        "value": 1000.0,
        "unit": "bit/s",
    }


def test_measuring_counts_units_and_takes_the_fastest(quick: None) -> None:
    def work() -> float:
        time.sleep(0.001)
        return 10.0

    assert 1_000 < per_second(work) <= 10_000
    parts = iter([(1.0, 9.0), (10.0, 2.0), (10.0, 1.0)])  # the first is to warm up
    assert timed_part(lambda: next(parts, (10.0, 4.0))) == 10.0
