"""Debian's docker-registry as the real peer, and servers whose misbehaviour each test writes itself."""

from __future__ import annotations

import contextlib
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from oci.client import Registry
from oci.http import HttpClient
from tests.oci.peers import Handler, Serve, free_port

PROGRAM = "docker-registry"
CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def answers(host: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}/v2/", timeout=1) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


@pytest.fixture(scope="session")
def registry_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the running docker-registry keeps its files."""
    return tmp_path_factory.mktemp("registry") / "data"


@contextlib.contextmanager
def docker_registry(folder: Path, more: str = "") -> Iterator[str]:
    """``127.0.0.1:port`` of a docker-registry with its files in ``folder/data``; *more* goes into its settings."""
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"{PROGRAM} is not installed: sudo apt-get install docker-registry")
    for _ in range(3):  # another process may take the port before the registry does
        port = free_port()
        config = folder / f"config-{port}.yml"
        config.write_text(CONFIG.format(root=folder / "data", port=port) + more)
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline and not answers(f"127.0.0.1:{port}"):
            time.sleep(0.05)
        if process.poll() is None and answers(f"127.0.0.1:{port}"):
            break
        process.kill()
        process.wait()
    else:
        pytest.fail(f"{PROGRAM} does not start: {(folder / 'log').read_text()[-500:]}")
    yield f"127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def registry_host(registry_data: Path) -> Iterator[str]:
    """``127.0.0.1:port`` of a running docker-registry with an empty store."""
    with docker_registry(registry_data.parent) as host:
        yield host


@pytest.fixture(scope="session")
def locked_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A docker-registry that lets in only ``me`` with ``correct horse``."""
    folder = tmp_path_factory.mktemp("locked")
    # bcrypt of "correct horse", cost 4, as htpasswd -B writes it
    (folder / "htpasswd").write_text("me:$2y$04$umjRkWTNP4JVzAju3lzmJuVt3ecddIpKxybHAcJ5FBuHviov1sPdS\n")
    with docker_registry(folder, f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}\n") as host:
        yield host


@pytest.fixture
async def registry(registry_host: str) -> AsyncIterator[Registry]:
    async with Registry(registry_host, plain_http=True) as open_registry:
        yield open_registry


@pytest.fixture
async def http(naps: list[float]) -> AsyncIterator[HttpClient]:
    """A client that writes down how long it would have slept, and does not sleep."""

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    async with HttpClient(sleep=nap, idle_seconds=5) as client:
        yield client


@pytest.fixture
def naps() -> list[float]:
    return []


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(handler, tls=None)`` answers every request with *handler*; returns ``127.0.0.1:port``."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler, tls: ssl.SSLContext | None = None) -> str:
        async def dispatch(request: web.Request) -> web.StreamResponse:
            return await handler(request)

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", dispatch)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"{host}:{port}"

    yield start
    for runner in runners:
        await runner.cleanup()
