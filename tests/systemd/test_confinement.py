"""What each service can reach, from within its own sandbox: another program runs under the very same unit."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.lab.oneway import HIGH, HIGH_GATEWAY, LOW_GATEWAY
from tests.systemd.machine import Machine
from tests.systemd.site import RECEIVER, SENDER, Site

pytestmark = [pytest.mark.booted, pytest.mark.timeout(900)]

PROBE = "checkvalve-probe.service"
KEYS = {"sender": "/etc/checkvalve/keys/sender.pem", "receiver": "/etc/checkvalve/keys/receiver.pem"}
_PROGRAM = """\
import json, os, socket, sys
def tried(what):
    try: what()
    except OSError as error: return type(error).__name__
    return "done"
def udp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one: one.sendto(b"x", (address, 9))
def tcp(address):
    with socket.create_connection((address, 5000), timeout=2): pass
credentials = os.environ.get("CREDENTIALS_DIRECTORY")
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")),
    "udp": {address: tried(lambda: udp(address)) for address in sys.argv[2:]},
    "tcp": tried(lambda: tcp("127.0.0.1")),
    "key": tried(lambda: open(sys.argv[1]).read()),
    "credentials": {name: tried(lambda: open(f"{credentials}/{name}").read()) for name in os.listdir(credentials)}
        if credentials else {},
    "writable": [path for path in ("/etc/checkvalve", "/opt/checkvalve", "/usr") if os.access(path, os.W_OK)],
}))
"""
# What belongs to the service and not to its sandbox, or would start the service itself.
_LEFT_OUT = re.compile(
    r"^(Exec|Type|NotifyAccess|Restart|Watchdog|Timeout|Requires|After|Wants|PartOf|Sockets|StartLimit|Also|WantedBy|Slice)"
)


def within(machine: Machine, unit: str, *addresses: str) -> dict[str, Any]:
    """Run the probe under *unit*'s settings, drop-ins and all; return what it could do."""
    text = machine.run("systemctl", "cat", f"{unit}.service")
    lines = [line for line in text.splitlines() if not _LEFT_OUT.match(line)]
    key = KEYS["sender" if unit in SENDER else "receiver"]
    lines += ["[Service]", "Type=oneshot", f"ExecStart=/usr/bin/python3 /opt/probe.py {key} {' '.join(addresses)}"]
    machine.write("/opt/probe.py", _PROGRAM)
    machine.write(f"/etc/systemd/system/{PROBE}", "\n".join(lines) + "\n")
    try:
        machine.systemctl("daemon-reload")
        place = machine.cursor()
        machine.systemctl("start", PROBE)
        said = [line for line in machine.journal(PROBE, after=place) if line.startswith("{")]
        return dict(json.loads(said[-1]))
    finally:
        (machine.root / "etc/systemd/system" / PROBE).unlink()
        (machine.root / "opt/probe.py").unlink()
        machine.systemctl("daemon-reload")


@pytest.fixture(scope="module")
def filtered(site: Site) -> None:
    """Skip where addresses are not filtered: systemd says nothing when a kernel or a container does not let it."""
    for machine in (site.low, site.high):
        code = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
        argv = ["systemd-run", "--quiet", "--pipe", "--wait", "--property=IPAddressDeny=any"]
        if "PermissionError" not in machine.run(*argv, "python3", "-c", code, check=False):
            pytest.skip(f"{machine.name}: IPAddressDeny= has no effect here (no BPF for control groups)")


@pytest.mark.usefixtures("filtered")
def test_transmit_reaches_the_diode_and_nothing_else(site: Site) -> None:
    seen = within(site.low, "checkvalve-transmit", HIGH, LOW_GATEWAY)
    assert seen["udp"] == {HIGH: "done", LOW_GATEWAY: "PermissionError"}


@pytest.mark.usefixtures("filtered")
def test_publish_reaches_its_registry_and_nothing_else(site: Site) -> None:
    seen = within(site.high, "checkvalve-publish", HIGH_GATEWAY)
    assert seen["udp"] == {HIGH_GATEWAY: "PermissionError"}
    assert seen["tcp"] == "done"


def test_capture_has_no_network(site: Site) -> None:
    seen = within(site.high, "checkvalve-capture", "127.0.0.1")
    assert seen["udp"] == {"127.0.0.1": "OSError"}  # there is not even the family of addresses
    assert seen["tcp"] == "OSError"
    pid = site.high.main_pid("checkvalve-capture")
    listed = site.high.run("nsenter", f"--target={pid}", "--net", "ip", "-br", "link").splitlines()
    assert [line.split()[0] for line in listed] == ["lo"]


@pytest.mark.parametrize("unit", [*SENDER, *RECEIVER])
def test_the_key_is_a_credential_of_the_one_role_and_its_file_is_closed_to_both(site: Site, unit: str) -> None:
    seen = within(site.machine(unit), unit)
    assert seen["uid"] != 0
    assert int(seen["capabilities"], 16) == 0
    assert seen["key"] == "PermissionError"
    assert seen["writable"] == []
    credential = {"checkvalve-transmit": "signing_key", "checkvalve-capture": "hpke_key"}.get(unit)
    assert seen["credentials"] == ({credential: "done"} if credential else {})


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_drop_ins_are_what_the_settings_ask_for(site: Site, side: str) -> None:
    machine = site.low if side == "sender" else site.high
    machine.run(f"/opt/checkvalve/bin/checkvalve-{side}", "units", "--check")
