"""Where images are read: registries, layouts and tarballs, opened once and shared for as long as the process lives.

Knows how each kind is reached (budget, mirrors, TLS, plain HTTP, logins); what is read from them it does not care.
Of a registry that is no longer asked nothing stays open: its connections close after limits.KEEPALIVE_SECONDS.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
import structlog
from yarl import URL

from oci.archive import ArchiveSource, open_archive
from oci.budget import Budget, Figures
from oci.client import Registry
from oci.credentials import CredentialSource
from oci.descriptor import Descriptor, Manifest, short_digest
from oci.documents import detect_media_type
from oci.errors import ContentMismatch, NotFound, OciError
from oci.http import Call, HttpClient, TlsOptions, chunks
from oci.layout import Layout
from oci.limits import MANIFEST_BYTES_MAX, MIRROR_RETRIES_MAX, RETRIES_MAX
from oci.logins import DockerConfigFile, Login
from oci.mirrors import Mirror, MirroredRepository
from oci.reference import Reference
from oci.store import Source, Upstream
from runtime.credentials import credential
from sender.config import Fetch, split_place
from sender.images import Origin, PinnedImage

_OK: Final = 200

_Stamp = tuple[int, int, int] | None

log = structlog.get_logger()


class Sources:
    """An async context manager; what it opened is closed on leaving."""

    def __init__(self, fetch: Fetch, scratch: Path | None = None) -> None:
        self._fetch = fetch
        self._scratch = scratch  # where compressed tarballs are unpacked
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._registries: dict[tuple[str, int], Registry] = {}  # by the name that images have, and retries
        self._budgets: dict[str, Budget] = {}  # by the host that is asked
        self._mirrors: dict[str, Mirror] = {}
        self._path_locks: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._layouts: dict[Path, Layout] = {}
        self._archives: dict[Path, tuple[_Stamp, ArchiveSource]] = {}
        self._docker = DockerConfigFile(credential("docker_config", fetch.docker_config))
        self._outside: HttpClient | None = None

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, archive in self._archives.values():
            archive.close()
        await self._stack.__aexit__(kind, error, trace)

    @property
    def figures(self) -> dict[str, Figures]:
        """What status shows, by the host that is asked."""
        return {place: budget.figures for place, budget in sorted(self._budgets.items())}

    async def of(self, image: PinnedImage) -> Source:
        """Return where *image* is read; OciError if the place is unusable."""
        return await self.place(image.reference, image.origin)

    async def place(self, reference: Reference, origin: Origin) -> Source:
        """Return the repository of *reference*, or the folder or tarball that *origin* names instead."""
        return await (self.repository(reference) if origin.kind == "registry" else self.folder(origin))

    async def repository(self, reference: Reference) -> Upstream:
        """Return the repository of *reference* on its registry; nothing is asked of it yet."""
        host, path = reference.registry, reference.repository
        access = self._fetch.access(host)
        async with self._lock:
            registry = await self._registry(host)
            mirrors = [await self._mirror(place) for place in access.mirrors]
        origin = registry.repository(access.place(host)[1] + path)
        return MirroredRepository(origin, path, mirrors, names=access.mirrors_resolve) if mirrors else origin

    async def _registry(self, host: str, retries: int = RETRIES_MAX) -> Registry:
        if (host, retries) not in self._registries:
            access = self._fetch.access(host)
            place, _ = access.place(host)
            if place not in self._budgets:
                rate, blobs = self._fetch.budget(place)
                self._budgets[place] = Budget(place, requests_per_second=rate, blobs=blobs)
            credentials: CredentialSource = self._docker
            if access.username is not None:
                where = f"sender.yaml: fetch.registries.{host}.password_env"
                credentials = Login(access.username, where, access.password_file, access.password_env)
            else:
                await self._docker.current()  # a file that is unusable is told now, not at the first 401
            registry = Registry(
                place,
                credentials=credentials,
                tls=TlsOptions(ca_file=access.ca, client_cert=access.cert, client_key=access.key),
                plain_http=access.plain_http,
                budget=self._budgets[place],
                retries=retries,
            )
            self._registries[host, retries] = await self._stack.enter_async_context(registry)
        return self._registries[host, retries]

    async def _mirror(self, place: str) -> Mirror:
        """Return the mirror at ``host[:port][/path]``; the entry of its host says how that is reached."""
        if place not in self._mirrors:
            host, path = split_place(place)
            registry = await self._registry(host, MIRROR_RETRIES_MAX)
            before = self._fetch.access(host).place(host)[1] + path
            self._mirrors[place] = Mirror(registry, before, _passed_over)
        return self._mirrors[place]

    async def folder(self, origin: Origin) -> Layout | ArchiveSource:
        """Return the layout or tarball at *origin*; a tarball that is another one by now is opened again."""
        path = origin.path
        assert path is not None
        async with self._path_locks[path]:  # a large tarball takes its time, and no registry waits for it
            if origin.kind == "oci":
                if path not in self._layouts:
                    self._layouts[path] = await asyncio.to_thread(Layout.open, path)
                return self._layouts[path]
            stamp = await asyncio.to_thread(_stamp, path)
            known = self._archives.get(path)
            if known is None or known[0] != stamp:
                if self._scratch is not None:
                    self._scratch.mkdir(parents=True, exist_ok=True)
                # The one before is not closed: someone may be reading it, and its file goes with its last reader.
                self._archives[path] = stamp, await asyncio.to_thread(open_archive, path, scratch=self._scratch)
            return self._archives[path][1]

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


class Readable:
    """A source in front of which stands the spool: what is there is not asked for."""

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
        return await self._spooled(reference) or await self._source.manifest(reference)

    async def _spooled(self, digest: str) -> Manifest | None:
        blobs = self._spool.blobs
        if await asyncio.to_thread(blobs.size, digest) is not None:
            with suppress(ContentMismatch):  # damaged on disk: what comes now replaces it
                raw = await asyncio.to_thread(blobs.read, digest, MANIFEST_BYTES_MAX)
                return Manifest(Descriptor(detect_media_type(raw), digest, len(raw)), raw)
        return None


class Spooled(Readable):
    """Manifests are kept in the spool on first sight as well, so that no retry asks for them again."""

    async def manifest(self, reference: str) -> Manifest:
        """Return the manifest with the digest *reference*, verified; afterwards the spool has it."""
        manifest = await self._spooled(reference)
        if manifest is None:
            manifest = await self._source.manifest(reference)
            await asyncio.to_thread(self._spool.blobs.write, reference, manifest.raw)
        return manifest


def _passed_over(mirror: str, error: OciError) -> None:
    log.warning("mirror_passed_over", mirror=mirror, problem=str(error))


def _stamp(path: Path) -> _Stamp:
    """What changes when the file does; None if it is not there, as opening it will tell."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _address(text: str, where: str) -> URL:
    url = URL(text)
    if url.scheme not in ("https", "http") or not url.host or url.user is not None:
        raise NotFound(f"{where}: {text[:200]!r} is not an http(s) address")
    return url


def advice(error: Exception, registry: str) -> str:
    """The line of *error*, with the key of sender.yaml that mends it where there is one."""
    line = str(error)
    if isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return f'{line}; sender.yaml: fetch.registries: {{"{registry}": {{ca: FILE}}}}'
    if isinstance(error.__cause__, aiohttp.ClientSSLError | ssl.SSLError):
        return f'{line}; sender.yaml: fetch.registries: {{"{registry}": {{plain_http: true}}}}'
    return line
