"""A registry over HTTP (distribution-spec v1.1): what it holds, and how to put things there.

One ``Registry`` is one host with its connections and credentials; its repositories implement ``store.Target``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Self

from multidict import CIMultiDictProxy

from oci import limits
from oci.auth import Authenticator, Scopes
from oci.budget import Budget
from oci.connection import Connection
from oci.credentials import Anonymous, CredentialSource
from oci.descriptor import (
    DOCKER_SCHEMA1,
    MANIFEST_TYPES,
    Descriptor,
    Manifest,
    check_digest,
    hasher,
    short_digest,
)
from oci.documents import children, detect_media_type
from oci.download import download
from oci.errors import ContentMismatch, NotFound, ReferenceError_, Refused, Unsupported
from oci.http import CONNECTIONS_PER_HOST, HttpClient, Reply, TlsOptions
from oci.paging import pages
from oci.reference import check_registry, check_repository, is_tag
from oci.referrer_listing import add_to_fallback, list_referrers, remove_from_fallback
from oci.store import BlobOpener, Progress, TagList
from oci.upload import Uploader, check_answer_digest

_ACCEPT: Final = {"Accept": ", ".join(sorted(MANIFEST_TYPES) + list(DOCKER_SCHEMA1))}
# What servers say that do not know better; the document then speaks for itself.
_VAGUE_TYPES: Final = frozenset({"", "application/octet-stream", "application/json", "text/plain"})


class Registry:
    """One registry host. Use as an async context manager; all its repositories share one connection pool.

    *plain_http* is never assumed, not for localhost either. An *http* client passed in stays the caller's to close.
    Without a *budget* nothing is held back. *retries* is limits.RETRIES_MAX unless it is given.
    """

    def __init__(
        self,
        host: str,
        *,
        credentials: CredentialSource | None = None,
        tls: TlsOptions | None = None,
        plain_http: bool = False,
        http: HttpClient | None = None,
        budget: Budget | None = None,
        retries: int | None = None,
    ) -> None:
        self.host = check_registry(host)
        self.budget = budget
        self._own_http = http is None
        self._http = http or HttpClient(tls, connections_per_host=_connections(budget))
        auth = Authenticator(self.host, self._http, credentials or Anonymous(), plain_http=plain_http, budget=budget)
        self._connection = Connection(
            self.host, self._http, auth, plain_http=plain_http, budget=budget, retries=retries
        )
        self._fallback_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        if self._own_http:
            await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own_http:
            await self._http.__aexit__(kind, error, trace)

    async def ping(self) -> None:
        """Ask for ``/v2/``: Unreachable, Unauthorized or NotFound say what is wrong with the registry."""
        await self._connection.fetch("GET", self._connection.base, self.host, ())

    def repository(self, path: str) -> RegistryRepository:
        """Return the repository *path*, such as ``library/nginx``; nothing is asked of the registry yet."""
        return RegistryRepository(self._connection, check_repository(path), self._fallback_lock)


class RegistryRepository:
    """One repository of a registry: a ``store.Target``."""

    def __init__(self, connection: Connection, path: str, fallback_lock: asyncio.Lock) -> None:
        self.path = path
        self._connection = connection
        self._fallback_lock = fallback_lock
        self._uploader = Uploader(connection, path)
        self._pull: Scopes = (f"repository:{path}:pull",)
        self._push: Scopes = (f"repository:{path}:pull,push",)

    @property
    def name(self) -> str:
        """``registry/path``."""
        return f"{self._connection.registry}/{self.path}"

    async def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest by HEAD; by GET where the answer leaves something open."""
        found = await self._resolve(reference, None)
        assert found is not None
        return found

    async def moved(self, tag: str, known: str) -> Descriptor | None:
        """Return where *tag* leads now, None if that still is the digest *known*: HEAD with If-None-Match.

        The ETag of a manifest is its digest (docker-registry: so is it compared); 304 needs no more than a line.
        """
        found = await self._resolve(tag, check_digest(known))
        return None if found is None or found.digest == known else found

    async def _resolve(self, reference: str, known: str | None) -> Descriptor | None:
        """Return the descriptor, None where the server says that it has not changed from *known*."""
        where = self._where("manifest", reference)
        url = self._connection.url(f"{self.path}/manifests/{_checked(reference)}")
        headers = _ACCEPT if known is None else {**_ACCEPT, "If-None-Match": f'"{known}"'}
        ok = (200,) if known is None else (200, 304)
        reply = await self._connection.fetch("HEAD", url, where, self._pull, headers=headers, ok=ok)
        if reply.status == 304:
            check_answer_digest(reply.headers, known or "", where)
            return None
        media_type = _content_type(reply.headers)
        if media_type in DOCKER_SCHEMA1:
            raise Unsupported(f"{where}: Docker schema 1 is not mirrored; push the image again as schema 2 or OCI")
        digest = reply.headers.get("Docker-Content-Digest") or ""
        length = reply.headers.get("Content-Length", "")
        if ":" in reference:
            check_answer_digest(reply.headers, reference, where)
            digest = reference
        if media_type not in MANIFEST_TYPES or not digest or not length.isascii() or not length.isdigit():
            return (await self.manifest(reference)).descriptor
        try:
            check_digest(digest)
        except ReferenceError_ as error:
            raise ContentMismatch(f"{where}: Docker-Content-Digest: {error}") from None
        return Descriptor(media_type, digest, int(length[:19]))

    async def manifest(self, reference: str) -> Manifest:
        """Return the manifest under a tag or digest, verified; Docker-Content-Digest is compared, never believed."""
        where = self._where("manifest", reference)
        url = self._connection.url(f"{self.path}/manifests/{_checked(reference)}")
        reply = await self._connection.fetch(
            "GET", url, where, self._pull, headers=_ACCEPT, body_bytes_max=limits.MANIFEST_BYTES_MAX, counted=True
        )
        stated = reply.headers.get("Docker-Content-Digest")
        digest = _digest_of(reply.body, reference if ":" in reference else "sha256:")
        if ":" in reference and digest != reference:
            raise ContentMismatch(f"{where}: the bytes have digest {digest}; expected {reference}")
        if stated and ":" not in reference and _digest_of(reply.body, stated) != stated:
            raise ContentMismatch(f"{where}: the bytes have digest {digest}; the registry says {stated[:140]!r}")
        return Manifest(Descriptor(_media_type(reply, where), digest, len(reply.body)), reply.body)

    def blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Yield the blob's bytes from *offset*, resumed by Range; verified as ``store.Source`` says."""
        where = self._where("blob", check_digest(descriptor.digest))
        return download(self._connection, self.path, descriptor, offset, where, self._pull, verify=verify)

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether the content is there in the right size (HEAD)."""
        return await self._exists(descriptor, self._pull)

    async def tags(self) -> list[str]:
        """All tags, sorted, over all pages; ContentMismatch if one is not a tag."""
        found = await self.tag_list()
        assert found is not None
        return found.tags

    async def tag_list(self, etag: str | None = None) -> TagList | None:
        """All tags as ``tags`` gives them, None if nothing has changed since they came with *etag* (If-None-Match).

        Only a list of a single page has an ETag: that of a first page says nothing of those behind it.
        """
        where = f"{self.name}: tags"
        found: set[str] = set()
        etags: list[str | None] = []
        async for reply in pages(
            self._connection,
            self._connection.url(f"{self.path}/tags/list?n=1000"),
            where,
            self._pull,
            headers={"Accept": "application/json"} | ({"If-None-Match": etag} if etag is not None else {}),
            ok=(200,) if etag is None else (200, 304),
            pages_max=limits.TAG_PAGES_MAX,
            page_bytes_max=limits.TAG_PAGE_BYTES_MAX,
        ):
            if reply.status == 304 and not etags:
                return None
            etags.append(_etag(reply))
            found.update(_tags_of(reply.body, where))
            if len(found) > limits.TAGS_MAX:
                raise ContentMismatch(f"{where}: more than {limits.TAGS_MAX:,}")
        return TagList(sorted(found), etags[0] if len(etags) == 1 else None)

    async def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """What refers to *digest*: by the API, else by the ``sha256-<hex>`` tag."""
        where = self._where("referrers of", check_digest(digest))
        return await list_referrers(
            self._connection, self.path, digest, artifact_type, where, self._pull, self.manifest
        )

    async def push_blob(
        self,
        descriptor: Descriptor,
        opener: BlobOpener,
        *,
        mount_from: str | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Make the blob exist; True if bytes were moved. *mount_from* is a path on the same registry."""
        where = self._where("blob", check_digest(descriptor.digest))
        if await self._exists(descriptor, self._push):
            return False
        if mount_from is not None:
            check_repository(mount_from)
        return await self._uploader.upload(descriptor, opener, where, mount_from=mount_from, progress=progress)

    async def push_manifest(self, manifest: Manifest, tag: str | None = None) -> None:
        """Put the exact bytes; where the registry does not list referrers itself, maintain the fallback tag."""
        digest = check_digest(manifest.descriptor.digest)
        where = self._where("manifest", digest)
        if _digest_of(manifest.raw, digest) != digest or len(manifest.raw) != manifest.descriptor.size:
            raise ContentMismatch(f"{where}: the bytes to push do not have the digest and size of their descriptor")
        parts = children(manifest)
        # Under a tag a registry files the bytes by its own algorithm, which is sha256.
        references = [tag] if tag is not None and digest.startswith("sha256:") else [digest]
        if tag is not None and references == [digest]:
            references.append(tag)
        listed = False
        for reference in references:
            reply = await self._put(manifest, reference, where)
            listed = listed or "OCI-Subject" in reply.headers
        if parts.subject is not None and not listed:
            async with self._fallback_lock:
                await add_to_fallback(manifest, parts, where, self.manifest, self._put_index)

    async def delete_tag(self, tag: str) -> None:
        """Delete *tag*, not what it leads to (distribution-spec: deleting tags); Refused where only digests go."""
        try:
            await self._delete(tag)
        except ContentMismatch:  # docker-registry 2.8 takes digests only, and says it in this way
            raise Refused(f"{self._where('delete tag', tag)}: the registry deletes no tag by itself") from None

    async def delete_manifest(self, digest: str) -> None:
        """Delete a manifest with the tags that lead to it; NotAllowed where the registry deletes nothing."""
        await self._delete(check_digest(digest))

    async def delete_referrer(self, digest: str, subject: str) -> None:
        """Delete a manifest that refers to *subject*; where its list is a tag, its entry there goes first."""
        where = self._where("manifest", digest)
        async with self._fallback_lock:
            await remove_from_fallback(digest, subject, where, self.manifest, self._put_index, self.delete_manifest)
        await self.delete_manifest(digest)

    async def _delete(self, reference: str) -> None:
        where = self._where("delete manifest" if ":" in reference else "delete tag", reference)
        url = self._connection.url(f"{self.path}/manifests/{_checked(reference)}")
        scopes = (f"repository:{self.path}:pull,push,delete",)
        await self._connection.fetch("DELETE", url, where, scopes, ok=(202, 200, 204, 404))

    async def _put(self, manifest: Manifest, reference: str, where: str) -> Reply:
        url = self._connection.url(f"{self.path}/manifests/{_checked(reference)}")
        reply = await self._connection.fetch(
            "PUT",
            url,
            where,
            self._push,
            headers={"Content-Type": manifest.descriptor.media_type},
            body=manifest.raw,
            ok=(201, 200, 202, 204),
        )
        check_answer_digest(reply.headers, manifest.descriptor.digest, where)
        return reply

    async def _put_index(self, manifest: Manifest, tag: str) -> None:
        await self._put(manifest, tag, self._where("referrers index", tag))

    async def _exists(self, descriptor: Descriptor, scopes: Scopes) -> bool:
        kind, folder = ("manifest", "manifests") if descriptor.is_manifest else ("blob", "blobs")
        digest = check_digest(descriptor.digest)
        url = self._connection.url(f"{self.path}/{folder}/{digest}")
        headers = _ACCEPT if descriptor.is_manifest else {}
        where = self._where(kind, digest)
        try:
            reply = await self._connection.fetch("HEAD", url, where, scopes, headers=headers)
        except NotFound:
            return False
        check_answer_digest(reply.headers, digest, where)
        return reply.headers.get("Content-Length") in {None, str(descriptor.size)}

    def _where(self, kind: str, reference: str) -> str:
        return f"{self.name}: {kind} {short_digest(reference) if ':' in reference else reference}"


def _connections(budget: Budget | None) -> int:
    """As many as the budget lets go at once: what has its turn never waits for a connection."""
    return CONNECTIONS_PER_HOST if budget is None else budget.concurrency + budget.blobs


def _etag(reply: Reply) -> str | None:
    """Return the ETag (RFC 9110 8.8.3) if it is fit to be sent back."""
    etag = reply.headers.get("ETag", "")
    fit = 0 < len(etag) <= limits.ETAG_LENGTH_MAX and etag.isascii() and etag.isprintable()
    return etag if fit else None


def _checked(reference: str) -> str:
    """Return a tag or digest fit for a path."""
    if ":" in reference:
        return check_digest(reference)
    if not is_tag(reference):
        raise ReferenceError_(f"tag {reference[:140]!r}: expected a tag or a digest sha256:<64 hex digits>")
    return reference


def _digest_of(data: bytes, like: str) -> str:
    """Return the digest of *data* by the algorithm of *like*; '' if we do not know that algorithm."""
    algorithm = like.partition(":")[0]
    if algorithm not in {"sha256", "sha512"}:
        return ""
    digest = hasher(f"{algorithm}:")
    digest.update(data)
    return f"{algorithm}:{digest.hexdigest()}"


def _content_type(headers: CIMultiDictProxy[str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip()


def _media_type(reply: Reply, where: str) -> str:
    """Return the manifest's media type; Content-Type and document must agree (distribution-spec: pulling)."""
    stated = _content_type(reply.headers)
    if stated in DOCKER_SCHEMA1:
        raise Unsupported(f"{where}: Docker schema 1 is not mirrored; push the image again as schema 2 or OCI")
    shown = detect_media_type(reply.body, where)
    if stated not in _VAGUE_TYPES and stated != shown:
        raise ContentMismatch(
            f"{where}: Content-Type is {stated[:100]!r}, the document is {shown}; both must be equal"
        )
    return shown


def _tags_of(body: bytes, where: str) -> list[str]:
    try:
        tags = json.loads(body).get("tags") or []
    except (ValueError, AttributeError, RecursionError):
        raise ContentMismatch(f"{where}: expected JSON with a list of tags") from None
    if not isinstance(tags, list):
        raise ContentMismatch(f"{where}: expected JSON with a list of tags")
    for tag in tags:
        if not isinstance(tag, str) or not is_tag(tag):
            raise ContentMismatch(f"{where}: {repr(tag)[:100]} is not a tag")
    return tags
