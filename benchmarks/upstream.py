"""An upstream on loopback, Debian's docker-registry or the embedded one, and a sender's folder that mirrors from it.

Images are pushed by skopeo. Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from oci.layout import Layout
from tests.support.processes import Process, Processes, ProcessFailed, command, module, run

READY_S: Final = 10.0
_REQUEST: Final = re.compile(r'"(GET|HEAD) /v2/\S* HTTP', re.ASCII)
_PULL: Final = ["--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]


class DockerRegistry:
    """A docker-registry with its files in *folder*; *notify* is an address that it tells of pushes."""

    def __init__(
        self, processes: Processes, folder: Path, *, prefix: Sequence[str] = (), notify: str | None = None
    ) -> None:
        self.host = f"127.0.0.1:{free_port()}"
        self.data = folder / "data/docker/registry/v2"
        folder.mkdir(parents=True)
        endpoint = {"name": "sender", "url": notify, "timeout": "1s", "threshold": 5, "backoff": "1s"}
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.host},
            "notifications": {"endpoints": [endpoint] if notify else []},
        }
        (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
        argv = ["docker-registry", "serve", str(folder / "config.yml")]
        self._process = processes.start(f"registry {folder.name}", argv, prefix=prefix)
        _await_answer(self._process, [*prefix, *curl(f"http://{self.host}/v2/")])

    def requests(self) -> int:
        """Return how many it has answered, by its access log."""
        return sum(_REQUEST.search(line) is not None for line in self._process.lines())


class EmbeddedRegistry:
    """Our own registry over the layout at *folder*; it counts nothing."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        argv = [*module("tests.support.registry"), "--layout", str(folder), "--read-only"]
        server = processes.start(f"embedded {folder.name}", argv)
        self.host = str(json.loads(server.wait_line("url"))["url"]).removeprefix("http://")


class SenderFolder:
    """A sender of which only fetch, or fetch and transmit, run; made by ``init``."""

    def __init__(
        self, folder: Path, *, to: str = "127.0.0.1:9", rate: str = "1Gbit", more: Sequence[str] = ()
    ) -> None:
        """*more* are further options of ``init``."""
        self.folder = folder
        run([*command("checkvalve-sender"), "init", str(folder), "--to", to, "--rate", rate, *more])

    def configure(self, settings: dict[str, Any]) -> None:
        """Append *settings* to what ``init`` wrote, in the place of those before."""
        path, mark = self.folder / "sender.yaml", "\n# measured with\n"
        lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
        path.write_text(path.read_text().partition(mark)[0] + mark + lines)

    def list_images(self, *entries: str | dict[str, Any]) -> None:
        """Write images.yaml as an editor does."""
        new = self.folder / "images.yaml.new"
        new.write_text("images:\n" + "".join(f"  - {json.dumps(entry)}\n" for entry in entries))
        new.replace(self.folder / "images.yaml")

    def argv(self, role: str, *more: str) -> list[str]:
        """Return the command that runs *role*."""
        return [*command("checkvalve-sender"), role, "--config", str(self.folder / "sender.yaml"), *more]


def upload(layout: Layout, name: str, tag: str, host: str, folder: Path, *, prefix: Sequence[str] = ()) -> None:
    """Push *name*:*tag* of a layout to the registry at *host*."""
    skopeo(folder, "copy", *_PULL, f"oci:{layout.root}:{name}:{tag}", f"docker://{host}/{name}:{tag}", prefix=prefix)


def download(image: str, target: Path, folder: Path) -> None:
    """``skopeo copy`` of an image of a registry into ``dir:``."""
    skopeo(folder, "copy", "--all", *_PULL, f"docker://{image}", f"dir:{target}")


def skopeo(folder: Path, *arguments: str, prefix: Sequence[str] = ()) -> None:
    """Run skopeo, its own files in *folder*; ProcessFailed if it fails."""
    policy = folder / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')  # the machine's may be missing
    run([*prefix, "skopeo", "--policy", str(policy), "--tmpdir", str(folder), *arguments], timeout_s=300)


def curl(*arguments: str) -> list[str]:
    """Return a command line of curl that fails for any status but success."""
    return ["curl", "--silent", "--show-error", "--fail", "--output", "/dev/null", *arguments]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of loopback that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_answer(server: Process, asking: list[str]) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            run(asking)
            return
        except ProcessFailed:
            if server.code is not None or time.monotonic() > deadline:
                raise ProcessFailed(server.describe("does not answer")) from None
            time.sleep(0.05)
