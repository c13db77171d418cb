"""Where pinned images are read: registries, layouts and tarballs, opened once and shared while a round lasts.

Knows how each kind is reached (TLS, plain HTTP, docker credentials); what is read from them it does not care.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from yarl import URL

from oci.archive import ArchiveSource, open_archive
from oci.client import Registry
from oci.credentials import DockerConfig
from oci.descriptor import Descriptor, Manifest, short_digest
from oci.documents import detect_media_type
from oci.errors import ContentMismatch, NotFound, OciError
from oci.http import Call, HttpClient, TlsOptions, chunks
from oci.layout import Layout
from oci.limits import MANIFEST_BYTES_MAX
from oci.reference import Reference
from oci.store import Source
from sender.config import Fetch, RegistryAccess
from sender.images import Origin, PinnedImage

_OK: Final = 200


class Sources:
    """An async context manager; what it opened is closed on leaving."""

    def __init__(self, fetch: Fetch, scratch: Path | None = None) -> None:
        self._fetch = fetch
        self._scratch = scratch  # where compressed tarballs are unpacked
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._registries: dict[str, Registry] = {}
        self._folders: dict[Origin, Layout | ArchiveSource] = {}
        self._credentials: DockerConfig | None = None
        self._outside: HttpClient | None = None

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def of(self, image: PinnedImage) -> Source:
        """Return where *image* is read; OciError if the place is unusable."""
        if image.origin.kind == "registry":
            return await self.repository(image.reference)
        return await self.folder(image.origin)

    async def repository(self, reference: Reference) -> Source:
        """Return the repository of *reference* on its registry; nothing is asked of it yet."""
        host = reference.registry
        access = self._fetch.registries.get(host, RegistryAccess())
        place, before = access.place(host)
        async with self._lock:
            if host not in self._registries:
                if self._credentials is None:
                    self._credentials = await asyncio.to_thread(DockerConfig.load, self._fetch.docker_config)
                registry = Registry(
                    place,
                    credentials=self._credentials,
                    tls=TlsOptions(ca_file=access.ca),
                    plain_http=access.plain_http,
                )
                self._registries[host] = await self._stack.enter_async_context(registry)
        return self._registries[host].repository(before + reference.repository)

    async def folder(self, origin: Origin) -> Layout | ArchiveSource:
        """Return the layout or tarball at *origin*."""
        assert origin.path is not None
        async with self._lock:
            if origin not in self._folders:
                if origin.kind == "oci":
                    self._folders[origin] = await asyncio.to_thread(Layout.open, origin.path)
                else:
                    if self._scratch is not None:
                        self._scratch.mkdir(parents=True, exist_ok=True)
                    archive = await asyncio.to_thread(open_archive, origin.path, scratch=self._scratch)
                    self._folders[origin] = self._stack.enter_context(archive)
        return self._folders[origin]

    async def foreign_layer(self, source: Source, layer: Descriptor) -> AsyncIterator[bytes]:
        """Yield a layer that registries need not hold: from *source* if it has it, else from its ``urls``.

        The digest is not verified; whoever stores the bytes must. OciError of the last address if none has it.
        """
        if await source.exists(layer):
            async for chunk in source.blob(layer, verify=False):
                yield chunk
            return
        if self._outside is None:
            self._outside = await self._stack.enter_async_context(HttpClient())
        where = f"foreign layer {short_digest(layer.digest)}"
        failure: OciError = NotFound(f"{where}: {source.name} does not hold it, and it names no urls")
        for address in layer.urls:
            try:
                response = await self._outside.open(Call("GET", _address(address, where), where))
            except OciError as error:
                failure = error
                continue
            try:
                if response.status == _OK:
                    async for chunk in chunks(response, where):
                        yield chunk
                    return
                failure = NotFound(f"{where}: {address[:200]} answers {response.status}")
            finally:
                response.close()
        raise failure


class Spooled:
    """A source whose manifests are kept in the spool on first sight, so that no retry asks for them again."""

    def __init__(self, source: Source, spool: Layout) -> None:
        self._source = source
        self._spool = spool
        self.name = source.name
        self.blob = source.blob
        self.exists = source.exists
        self.resolve = source.resolve
        self.tags = source.tags
        self.referrers = source.referrers

    async def manifest(self, reference: str) -> Manifest:
        """Return the manifest with the digest *reference*, verified in both cases."""
        blobs = self._spool.blobs
        if await asyncio.to_thread(blobs.size, reference) is not None:
            with suppress(ContentMismatch):  # damaged on disk: what comes now replaces it
                raw = await asyncio.to_thread(blobs.read, reference, MANIFEST_BYTES_MAX)
                return Manifest(Descriptor(detect_media_type(raw), reference, len(raw)), raw)
        manifest = await self._source.manifest(reference)
        await asyncio.to_thread(blobs.write, reference, manifest.raw)
        return manifest


def _address(text: str, where: str) -> URL:
    url = URL(text)
    if url.scheme not in ("https", "http") or not url.host or url.user is not None:
        raise NotFound(f"{where}: {text[:200]!r} is not an http(s) address")
    return url
