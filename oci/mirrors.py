"""A repository read at mirrors of its registry first: content by digest from anywhere, names from the registry alone.

What is asked for by digest is verified, so it does not matter who gives it. What a tag means, which tags there are
and what refers to a digest nobody can verify: a mirror that lags, or lies, would change it in silence.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar, cast

from oci import limits
from oci.client import Registry, RegistryRepository
from oci.descriptor import Descriptor, Manifest
from oci.download import held_back
from oci.errors import ContentMismatch, NotFound, OciError, ReferenceError_
from oci.store import TagList

T = TypeVar("T")


class Mirror:
    """A registry that holds copies of another one's repositories beneath *before* ('' or ``path/``).

    *tell* hears why it was passed over: once, until it has answered again. That it lacks something is no news.
    """

    def __init__(self, registry: Registry, before: str, tell: Callable[[str, OciError], None]) -> None:
        self.registry = registry
        self._before = before
        self._tell = tell
        self._failing = False
        self._wrong: dict[str, None] = {}  # digests; the oldest first

    def repository(self, path: str) -> RegistryRepository:
        """Return the copy of the repository *path*."""
        return self.registry.repository(self._before + path)

    def distrusted(self, digest: str) -> bool:
        """Whether it gave something else for *digest* before."""
        return digest in self._wrong

    def distrust(self, digest: str) -> None:
        """Do not ask it for *digest* again."""
        self._wrong[digest] = None
        while len(self._wrong) > limits.MIRROR_DISTRUST_MAX:
            del self._wrong[next(iter(self._wrong))]

    def answered(self) -> None:
        """Take note that it is of use."""
        self._failing = False

    def failed(self, error: OciError) -> None:
        """Take note of why it was passed over."""
        if not isinstance(error, NotFound) and not self._failing:
            self._failing = True
            self._tell(self.registry.host, error)


class MirroredRepository:
    """An ``Upstream``: *mirrors* in their order, then *origin*, whose error is the one to tell.

    With *names* mirrors also say what tags mean, which there are and what refers to a digest.
    """

    def __init__(self, origin: RegistryRepository, path: str, mirrors: list[Mirror], *, names: bool = False) -> None:
        self.name = origin.name
        self._origin = origin
        self._mirrors = [(mirror, mirror.repository(path)) for mirror in mirrors]
        self._names = names
        self._gave: dict[str, set[Mirror]] = {}  # who gave bytes of a blob

    async def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a digest from anywhere, of a tag from the registry."""
        return await self._ask(lambda place: place.resolve(reference), by_digest=reference)

    async def moved(self, tag: str, known: str) -> Descriptor | None:
        """Return where *tag* leads now, None if that still is the digest *known*."""
        return await self._ask(lambda place: place.moved(tag, known))

    async def manifest(self, reference: str) -> Manifest:
        """Return the manifest under a digest from anywhere, under a tag from the registry."""
        return await self._ask(lambda place: place.manifest(reference), by_digest=reference)

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether a mirror or the registry has it."""

        async def found(place: RegistryRepository) -> bool:
            if await place.exists(descriptor):
                return True
            raise NotFound(f"{place.name}: no {descriptor.digest}")

        try:
            return await self._ask(found, by_digest=descriptor.digest)
        except NotFound:
            return False

    async def tags(self) -> list[str]:
        """All tags, sorted."""
        return await self._ask(lambda place: place.tags())

    async def tag_list(self, etag: str | None = None) -> TagList | None:
        """All tags, None if nothing has changed; with *names* always all: an ETag is of one place only."""
        if not self._names:
            return await self._origin.tag_list(etag)
        return TagList(await self.tags(), None)

    async def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """What refers to *digest*; a mirror that knows of nothing does not have the last word."""

        async def listed(place: RegistryRepository) -> list[Descriptor]:
            found = await place.referrers(digest, artifact_type)
            if not found and place is not self._origin:
                raise NotFound(f"{place.name}: no referrers")
            return found

        return await self._ask(listed)

    async def blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Yield the blob's bytes from *offset*; where one place breaks off, the next one goes on.

        Bytes that were handed out cannot be taken back: who finds that they are others calls ``distrust``, and reads
        again. With *verify* that is called here.
        """
        pieces = self._pieces(descriptor, offset)
        if not verify or offset:
            async with aclosing(pieces):
                async for chunk in pieces:
                    yield chunk
            return
        try:
            async with aclosing(held_back(pieces, descriptor.digest, f"{self.name}: blob")) as checked:
                async for chunk in checked:
                    yield chunk
        except ContentMismatch:
            self.distrust(descriptor.digest)
            raise

    def distrust(self, digest: str) -> bool:
        """What came as *digest* was something else: pass over the mirrors that gave of it; False if none did."""
        mirrors = self._gave.pop(digest, set())
        for mirror in mirrors:
            mirror.distrust(digest)
        return bool(mirrors)

    async def _pieces(self, descriptor: Descriptor, position: int) -> AsyncGenerator[bytes, None]:
        for mirror, place in self._mirrors:
            if mirror.distrusted(descriptor.digest):
                continue
            try:
                async with aclosing(_opened(place, descriptor, position)) as pieces:
                    async for chunk in pieces:
                        self._gave.setdefault(descriptor.digest, set()).add(mirror)
                        position += len(chunk)
                        yield chunk
                mirror.answered()
                return
            except OciError as error:
                mirror.failed(error)
        async with aclosing(_opened(self._origin, descriptor, position)) as pieces:
            async for chunk in pieces:
                yield chunk

    async def _ask(self, question: Callable[[RegistryRepository], Awaitable[T]], *, by_digest: str = "") -> T:
        if self._names or ":" in by_digest:
            for mirror, place in self._mirrors:
                try:
                    answer = await question(place)
                except ReferenceError_:  # ours, and no better elsewhere
                    raise
                except OciError as error:
                    mirror.failed(error)
                    continue
                mirror.answered()
                return answer
        return await question(self._origin)


def _opened(place: RegistryRepository, descriptor: Descriptor, position: int) -> AsyncGenerator[bytes, None]:
    return cast(AsyncGenerator[bytes, None], place.blob(descriptor, position, verify=False))


def distrust(source: object, digest: str) -> bool:
    """As MirroredRepository.distrust, for any source: False for one without mirrors."""
    return isinstance(source, MirroredRepository) and source.distrust(digest)
