"""checkvalve on both machines, installed from the offline file, its settings written and its services enabled."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from oci.descriptor import OCI_MANIFEST
from tests.lab.oneway import HIGH, OneWay
from tests.lab.world import until
from tests.oci_layout.images import CONFIG, LAYER, Image, as_json, layer_tar, layout_files, write_files
from tests.support.content import digest_of, some_bytes
from tests.systemd.machine import Machine

SENDER: Final = "/opt/checkvalve/bin/checkvalve-sender"
RECEIVER: Final = "/opt/checkvalve/bin/checkvalve-receiver"
RATE: Final = 200_000_000
PORT: Final = 4433
_REGISTRY_YAML: Final = """\
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/docker-registry}}
http: {addr: '127.0.0.1:5000'}
"""
_SENDER_YAML: Final = f"""\
state: /var/lib/checkvalve-sender
images: images.yaml
lock: /var/lib/checkvalve-sender/images.lock
signing_key: keys/sender.pem
receivers: [keys/receiver.pub]
link: {{to: '{HIGH}:{PORT}', rate: {RATE}, interface: lowtx}}
fetch: {{registries: {{'127.0.0.1:5000': {{plain_http: true, requests: 200/s}}}}, settle: 0.2s}}
"""
_RECEIVER_YAML: Final = f"""\
state: /var/lib/checkvalve-receiver
hpke_key: keys/receiver.pem
senders: [keys/sender.pub]
listen: {{on: '{HIGH}:{PORT}', receive_buffer: 64MiB}}
publish: {{layout: /var/lib/checkvalve-receiver/published, serve: {{on: '127.0.0.1:5001'}}}}
"""
_IMAGES_YAML: Final = """\
rename: [{from: '127.0.0.1:5000/', to: hub.internal/}]
images:
  - {image: '127.0.0.1:5000/app', tags: {regex: '.*'}, follow: digest, interval: 1s}
"""


class Site:
    """Both sides. Images are pushed into the registry of low, and looked for in that of high."""

    def __init__(self, low: Machine, high: Machine, lab: OneWay, run_file: Path, folder: Path) -> None:
        self.low, self.high, self.lab = low, high, lab
        self._folder = folder
        self._run_file = run_file
        self._pushed = 0

    def prepare(self) -> None:
        """Let low have a registry, without the login that Debian asks for, and high none of its own."""
        self.low.write("/etc/docker/registry/config.yml", _REGISTRY_YAML)
        self.low.systemctl("restart", "docker-registry")
        self.high.systemctl("disable", "--now", "docker-registry")

    def install(self) -> None:
        """Install both from the file, each on a machine that reaches nobody, and exchange the keys."""
        for machine, side in ((self.low, "sender"), (self.high, "receiver")):
            place = machine.root / "root" / self._run_file.name
            place.write_bytes(self._run_file.read_bytes())
            said = machine.run("sh", f"/root/{place.name}", "install", "--side", side, timeout_s=240)
            assert f"checkvalve {side} " in said, said
        keys = "/etc/checkvalve/keys"
        self.low.write(f"{keys}/receiver.pub", self.high.read(f"{keys}/receiver.pub"))
        self.high.write(f"{keys}/sender.pub", self.low.read(f"{keys}/sender.pub"))

    def configure(self) -> None:
        """Write the settings, have the units adapted to them, enable and start everything."""
        self.low.write("/etc/checkvalve/sender.yaml", _SENDER_YAML)
        self.low.write("/etc/checkvalve/images.yaml", _IMAGES_YAML)
        self.high.write("/etc/checkvalve/receiver.yaml", _RECEIVER_YAML)
        for machine, program, side in ((self.high, RECEIVER, "receiver"), (self.low, SENDER, "sender")):
            machine.run(program, "units", "--write")
            machine.systemctl("daemon-reload")
            machine.systemctl("enable", "--now", f"checkvalve-{side}.target")

    def push(self, size: int = 500_000) -> tuple[str, Image]:
        """Let a new image appear in the registry of low; return its tag and what it is."""
        self._pushed += 1
        tag = f"v{self._pushed}"
        image = Image()
        data = layer_tar("data", some_bytes(size, 1_000 + self._pushed))
        rootfs = {"type": "layers", "diff_ids": [digest_of(data)]}
        document = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
        config, layer = image.add_blob(CONFIG, json.dumps(document).encode()), image.add_blob(LAYER, data)
        image.add_manifest(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": as_json(config),
                "layers": [as_json(layer)],
            }
        )
        place = write_files(self._folder / tag, layout_files(image))
        self._skopeo(self.lab.in_low(), "copy", f"oci:{place}:latest", f"docker://127.0.0.1:5000/app:{tag}")
        return tag, image

    def has(self, tag: str, image: Image) -> bool:
        """Whether the registry of high has *tag*, and it leads to *image*."""
        name = f"docker://127.0.0.1:5001/internal/hub.internal/app:{tag}"
        done = subprocess.run(
            [*self.lab.in_high(), "skopeo", "inspect", "--tls-verify=false", "--raw", name],
            capture_output=True,
            check=False,
            timeout=60,
        )
        return done.returncode == 0 and done.stdout == image.root.raw

    def pull(self, tag: str, image: Image) -> None:
        """Pull *tag* on the high side and compare every blob."""
        place = self._folder / f"pulled-{tag}"
        name = f"docker://127.0.0.1:5001/internal/hub.internal/app:{tag}"
        self._skopeo(self.lab.in_high(), "copy", name, f"dir:{place}")
        for digest, data in image.all_files().items():
            if digest != image.root.descriptor.digest:
                assert (place / digest.partition(":")[2]).read_bytes() == data

    def wait_for(self, tag: str, image: Image, within: float = 60.0) -> float:
        """Wait until high has it; return the seconds that took."""
        began = time.monotonic()
        try:
            until(lambda: self.has(tag, image), within, f"{tag} is in the registry of high")
        except AssertionError as error:
            logs = [*self.low.journal("checkvalve-*")[-25:], *self.high.journal("checkvalve-*")[-25:]]
            raise AssertionError("\n".join([f"{error}; {self.states()}", *logs])) from None
        return time.monotonic() - began

    def states(self) -> str:
        """What systemctl shows of all services, for a failure."""
        units = {self.low: ("fetch", "transmit"), self.high: ("capture", "publish")}
        lines = []
        for machine, names in units.items():
            for name in names:
                shown = machine.show(f"checkvalve-{name}.service")
                lines.append(f"{name}: {shown.get('ActiveState')} {shown.get('Result')}: {shown.get('StatusText')}")
        return "; ".join(lines)

    def status(self) -> dict[str, Any]:
        """``checkvalve-receiver status --json``, as the service's user."""
        said = self.high.run("runuser", "-u", "checkvalve-receiver", "--", RECEIVER, "status", "--json", check=False)
        return dict(json.loads(said))

    def on_wire(self) -> bool:
        """Whether content leaves low at this moment."""
        return "object" not in self.low.show("checkvalve-transmit.service").get("StatusText", "") and bool(
            self.status()["link"]["objects"]
        )

    def _skopeo(self, prefix: list[str], verb: str, source: str, target: str) -> None:
        options = [
            f"--{side}-tls-verify=false" for side, name in (("src", source), ("dest", target)) if "docker:" in name
        ]
        argv = [*prefix, "skopeo", "--insecure-policy", verb, *options, source, target]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}\n{self.low.journal('docker-registry')[-12:]}"
