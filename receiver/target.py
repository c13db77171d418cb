"""Opens the place that images are published to: a registry, or an image layout that may be served as one.

Knows what receiver.yaml says of it; what is put there, and when, is not its business.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from oci.client import Registry
from oci.credentials import DockerConfig
from oci.errors import OciError
from oci.http import HttpClient, TlsOptions
from oci.layout import Layout
from oci.reference import check_registry
from oci.server import serve
from oci.store import Target
from receiver.config import Publish, RegistryTarget
from runtime.errors import UserError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PublishTarget:
    """An open target."""

    place: str  # for people: http://registry.internal:5000, or the layout's folder
    repository: Callable[[str], Target]
    mounts: bool  # whether a blob can be mounted from another repository
    layout: Layout | None = None  # of which deleted content really goes; None: a registry, which collects by itself


@asynccontextmanager
async def open_target(publish: Publish, *, serving: bool = True) -> AsyncIterator[PublishTarget]:
    """Open the target of *publish*; nothing is asked of a registry yet.

    With *serving* a layout is served read-only where ``serve`` says so. UserError if the settings cannot work.
    """
    async with AsyncExitStack() as stack:
        if publish.registry is not None:
            http = HttpClient(TlsOptions(ca_file=publish.registry.ca), connections_per_host=publish.parallel + 4)
            registry = _registry(publish.registry, await stack.enter_async_context(http))
            yield PublishTarget(publish.registry.url.rstrip("/"), registry.repository, mounts=True)
            return
        assert publish.layout is not None
        layout = Layout(publish.layout)
        place = str(publish.layout)
        if serving and publish.serve is not None:
            where = publish.serve.on
            try:
                server = await serve(layout, where.host, where.port, read_only=True)
            except OSError as error:
                raise UserError(
                    f"publish.serve.on: {where}: cannot listen there ({error.strerror or error}); "
                    "give an address of this machine and a free port"
                ) from None
            stack.push_async_callback(server.close)
            place = server.url
            log.info("layout_served", url=server.url, layout=str(publish.layout))
        yield PublishTarget(place, layout.repository, mounts=False, layout=layout)


async def check_target(publish: Publish) -> str:
    """Look at the target without changing it; return a line for people. OciError or UserError if it cannot work."""
    if publish.registry is not None:
        async with HttpClient(TlsOptions(ca_file=publish.registry.ca), sleep=_no_sleep) as http:
            try:
                await _registry(publish.registry, http).ping()
            except OciError as error:
                raise UserError(f"publish.registry.url: {error}") from None
        return f"registry {publish.registry.url} answers"
    assert publish.layout is not None
    folder = publish.layout
    if folder.is_dir():
        Layout(folder)
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"publish.layout: {publish.layout}: {folder} is no folder that this user may write to")
    return f"layout {publish.layout} can be written"


async def _no_sleep(seconds: float) -> None:
    """A person waits for the answer."""


def _registry(settings: RegistryTarget, http: HttpClient) -> Registry:
    scheme, _, host = settings.url.rstrip("/").partition("://")
    return Registry(
        check_registry(host, settings.url),
        credentials=DockerConfig.load(settings.docker_config),
        plain_http=scheme == "http",
        http=http,
    )
