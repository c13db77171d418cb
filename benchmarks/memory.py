"""Peak memory of each role while one big layer crosses, from registry to registry over loopback.

Upstream and internal registry are the embedded one, in processes of their own. Both sides run as daemons with their
defaults; read is VmHWM of each role (proc(5)) once the image is published. The layer does not compress.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import MEGA, timed
from oci.client import Registry
from oci.errors import OciError
from oci.layout import Layout
from tests.support.images import random_image
from tests.support.processes import Processes, command, module, run

GOAL_MB: Final = 300
NAME: Final = "bench/layer"
_ROLES: Final = {"sender": ("fetch", "transmit"), "receiver": ("capture", "publish")}
_HWM: Final = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Effort:
    """The sizes of the layer (bytes), smallest first, and the link's rate."""

    sizes: tuple[int, ...] = (200 * MEGA, 600 * MEGA)
    rate: str = "800Mbit"
    timeout_s: float = 300.0


FULL: Final = Effort()
QUICK: Final = Effort((50 * MEGA, 200 * MEGA), timeout_s=120.0)
TINY: Final = Effort((MEGA,), timeout_s=60.0)


def measure(effort: Effort) -> dict[str, Any]:
    """Return the peak of each role in MB for each size."""
    return {"goal_mb": GOAL_MB, "rate": effort.rate, "rows": [_row(size, effort) for size in effort.sizes]}


def _row(size: int, effort: Effort) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="memory-") as scratch:
        folder = Path(scratch)
        image = asyncio.run(random_image(Layout(folder / "upstream"), NAME, "1", [size], seed=size))
        with Processes(folder / "logs") as processes:
            hosts = {}
            for name in ("upstream", "internal"):
                server = processes.start(name, [*module("tests.support.registry"), "--layout", str(folder / name)])
                hosts[name] = json.loads(server.wait_line("url"))["url"].removeprefix("http://")
            target = f"internal/{hosts['upstream'].replace(':', '_')}/{NAME}"
            _configure(folder, hosts, image.root.digest, effort.rate)
            running = {
                role: processes.start(role, [*command(f"checkvalve-{side}"), role, "--config", str(config)])
                for side, config in (
                    ("receiver", folder / "high/receiver.yaml"),
                    ("sender", folder / "low/sender.yaml"),
                )
                for role in (reversed(_ROLES[side]))  # who listens before who speaks
            }
            seconds = timed(lambda: asyncio.run(_arrived(hosts["internal"], target, image.root.digest, effort)))
            peaks = {role: _peak_mb(process.pid) for role, process in running.items()}
        return {"layer_bytes": size, "seconds": round(seconds, 1), "peak_mb": peaks}


def _configure(folder: Path, hosts: dict[str, str], digest: str, rate: str) -> None:
    """Write both sides' folders, low and high, by ``init``."""
    low, high, to = folder / "low", folder / "high", f"127.0.0.1:{_free_udp_port()}"
    receiver = [*command("checkvalve-receiver"), "init", str(high)]
    run([*receiver, "--listen", to, "--registry", f"http://{hosts['internal']}"])
    public = str(high / "keys/receiver.pub")
    run([*command("checkvalve-sender"), "init", str(low), "--to", to, "--rate", rate, "-r", public])
    run([*receiver, "--sender", str(low / "keys/sender.pub")])
    with (low / "sender.yaml").open("a") as settings:
        settings.write(f"\nfetch: {json.dumps({'registries': {hosts['upstream']: {'plain_http': True}}})}\n")
    (low / "images.yaml").write_text(f"images:\n  - {hosts['upstream']}/{NAME}:1@{digest}\n")


async def _arrived(host: str, repository: str, digest: str, effort: Effort) -> None:
    """Wait until the internal registry has the image's tag."""
    deadline = time.monotonic() + effort.timeout_s
    async with Registry(host, plain_http=True) as registry:
        while time.monotonic() < deadline:
            try:
                if (await registry.repository(repository).resolve("1")).digest == digest:
                    return
            except OciError:
                pass
            await asyncio.sleep(0.1)
    raise TimeoutError(f"the image did not arrive within {effort.timeout_s:g} s")


def _peak_mb(pid: int) -> float:
    found = _HWM.search(Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return round(int(found[1]) * 1024 / MEGA, 1)


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
