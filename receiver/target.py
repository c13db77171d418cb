"""Opens the places that images are published to: registries, layouts that may be served as one, folders of archives.

Knows what receiver.yaml says of them; what is put there, and when, is not its business.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from oci.blobs import BlobStore
from oci.client import Registry
from oci.credentials import DockerConfig
from oci.errors import Misconfigured, OciError
from oci.http import HttpClient, TlsOptions
from oci.layout import Layout
from oci.reference import check_registry
from oci.server import serve
from oci.store import Target
from receiver.image_directory import ImageDirectory
from receiver.mapping import Mapping
from receiver.publish_config import Publish, RegistryTarget, Serve, TargetSection
from receiver.push import Pusher, Sink
from runtime.credentials import credential
from runtime.errors import UserError

log = structlog.get_logger()

Locations = Callable[[str], dict[str, str]]
"""What the journal knows of a target by name: digest -> a repository that holds the blob."""


@dataclass(frozen=True, slots=True)
class PublishTarget:
    """An open target."""

    name: str  # as the settings call it
    place: str  # for people: http://registry.internal:5000, or a folder
    sink: Sink
    mapping: Mapping
    parallel: int
    # What retention deletes from: a registry's repositories, or a layout, of which content really goes.
    repository: Callable[[str], Target] | None = None
    layout: Layout | None = None


@asynccontextmanager
async def open_targets(
    publish: Publish, spool: BlobStore, locations: Locations, *, serving: bool = True
) -> AsyncIterator[list[PublishTarget]]:
    """Open the targets of *publish*; nothing is asked of a registry yet; *serving* as it says.

    UserError if the settings cannot work.
    """
    async with AsyncExitStack() as stack:
        yield [
            await _open(name, publish.where(name), target, spool, partial(locations, name), stack, serving=serving)
            for name, target in publish.each().items()
        ]


async def _open(
    name: str,
    key: str,
    target: TargetSection,
    spool: BlobStore,
    locations: Callable[[], dict[str, str]],
    stack: AsyncExitStack,
    *,
    serving: bool,
) -> PublishTarget:
    mapping, parallel = Mapping.of(target), target.parallel
    sink: Sink
    if target.registry is not None:
        try:
            http = HttpClient(_tls(target.registry), connections_per_host=parallel + 4)
        except Misconfigured as error:
            raise UserError(f"{key}.registry: {error}") from None
        registry = _registry(target.registry, await stack.enter_async_context(http))
        sink = Pusher(registry.repository, spool, locations(), parallel)
        stack.callback(sink.close)
        place = target.registry.url.rstrip("/")
        return PublishTarget(name, place, sink, mapping, parallel, repository=registry.repository)
    if target.images is not None:
        sink = ImageDirectory(target.images, spool, parallel)
        stack.callback(sink.close)
        return PublishTarget(name, str(target.images.path), sink, mapping, parallel)
    assert target.layout is not None
    layout, place = Layout(target.layout), str(target.layout)
    if target.serve is not None and serving:
        place = await _serve(layout, target.serve, key, stack)
    sink = Pusher(layout.repository, spool, None, parallel)
    stack.callback(sink.close)
    return PublishTarget(name, place, sink, mapping, parallel, layout=layout)


async def _serve(layout: Layout, settings: Serve, key: str, stack: AsyncExitStack) -> str:
    where = settings.on
    try:
        server = await serve(layout, where.host, where.port, read_only=True)
    except OSError as error:
        raise UserError(
            f"{key}.serve.on: {where}: cannot listen there ({error.strerror or error}); "
            "give an address of this machine and a free port"
        ) from None
    stack.push_async_callback(server.close)
    log.info("layout_served", url=server.url, layout=str(layout.root))
    return server.url


async def check_target(key: str, target: TargetSection) -> str:
    """Look at a target without changing it; return a line for people. OciError or UserError if it cannot work.

    *key* is where it stands in receiver.yaml.
    """
    if target.registry is not None:
        try:
            async with HttpClient(_tls(target.registry), sleep=_no_sleep) as http:
                await _registry(target.registry, http).ping()
        except OciError as error:
            raise UserError(f"{key}.registry.url: {error}") from None
        return f"registry {target.registry.url} answers"
    if target.images is not None:
        _check_folder(target.images.path, f"{key}.images.path")
        return f"image archives can be written to {target.images.path}{_about_cache(target.images.path)}"
    assert target.layout is not None
    if target.layout.is_dir():
        Layout(target.layout)
    _check_folder(target.layout, f"{key}.layout")
    return f"layout {target.layout} can be written"


def _check_folder(path: Path, key: str) -> None:
    folder = path
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{key}: {path}: {folder} is no folder that this user may write to")


def _about_cache(folder: Path) -> str:
    if (folder / ".cache.json").exists():
        return ""
    return "; K3s imports all of them at each start: touch .cache.json there to have it import only what is new"


async def _no_sleep(seconds: float) -> None:
    """A person waits for the answer."""


def _tls(settings: RegistryTarget) -> TlsOptions:
    return TlsOptions(settings.ca, settings.cert, settings.key)


def _registry(settings: RegistryTarget, http: HttpClient) -> Registry:
    scheme, _, host = settings.url.rstrip("/").partition("://")
    return Registry(
        check_registry(host, settings.url),
        credentials=DockerConfig.load(credential("docker_config", settings.docker_config)),
        plain_http=scheme == "http",
        http=http,
    )
