"""Debian's docker-registry as a process that can be stopped and started again, and the embedded one with faults."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from oci.layout import Layout
from oci.server import make_app

PROGRAM = "docker-registry"
CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class DockerRegistry:
    """One docker-registry on a port and a folder of its own."""

    def __init__(self, folder: Path, *, deletes: bool = False) -> None:
        self._environment = {**os.environ, "REGISTRY_STORAGE_DELETE_ENABLED": "true" if deletes else "false"}
        program = shutil.which(PROGRAM)
        if program is None:
            pytest.skip(f"{PROGRAM} is not installed: sudo apt-get install docker-registry")
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.host = f"127.0.0.1:{free_port()}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def requests(self) -> list[str]:
        """``"PUT /v2/..."`` of every request so far."""
        lines = (self._folder / "log").read_text().splitlines()
        return [line.split('"')[1].rsplit(" ", 1)[0] for line in lines if '] "' in line and "HTTP/1" in line]

    def start(self) -> None:
        config = self._folder / "config.yml"
        config.write_text(CONFIG.format(root=self._folder / "data", port=self.host.rpartition(":")[2]))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "serve", str(config)], stdout=log, stderr=log, env=self._environment
            )
        deadline = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{PROGRAM} does not start: {(self._folder / 'log').read_text()[-500:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def forget_everything(self) -> None:
        """The registry's disk is lost."""
        self.stop()
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        self.start()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v2/", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


Fault = Callable[[web.Request], web.Response | None]


class FaultyRegistry:
    """The embedded registry, which answers with what *fault* returns wherever that is not None."""

    def __init__(self, folder: Path, fault: Fault) -> None:
        self.layout = Layout(folder)
        self.requests: list[str] = []
        self._fault = fault
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        @web.middleware
        async def faults(request: web.Request, handler: Callable[..., object]) -> web.StreamResponse:
            self.requests.append(f"{request.method} {request.path}")
            answer = self._fault(request)
            return answer if answer is not None else await handler(request)  # type: ignore[misc]

        app = make_app(self.layout)
        app.middlewares.insert(0, faults)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
