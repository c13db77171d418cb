"""A small registry over an image layout: distribution-spec v1.1 pull, push and referrers, on aiohttp.

The embedded default of both sides, and the peer of the tests. It deletes no content (that endpoint is optional),
and it keeps no repositories apart: a digest that the layout holds can be read through any name.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.typedefs import Middleware

from oci.descriptor import OCI_INDEX, Descriptor, Manifest, check_digest, hasher, sha256_digest
from oci.documents import children, detect_media_type
from oci.errors import NotFound, ReferenceError_, TooLarge
from oci.indexed import TAG, is_digest
from oci.layout import Layout, LayoutRepository
from oci.limits import MANIFEST_BYTES_MAX, SERVER_PAGE_ENTRIES_MAX, TAG_PAGE_BYTES_MAX
from oci.server_errors import ApiError, errors_as_json, refuse_writes, require_users
from oci.server_uploads import Uploads, body_chunks

_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_NAME_LENGTH_MAX: Final = 255
_VERSION_HEADER: Final = {"Docker-Distribution-API-Version": "registry/2.0"}


class Registry:
    """The endpoints; ``make_app`` wires them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.uploads = Uploads(layout.blobs)

    def _repository(self, request: web.Request) -> tuple[str, LayoutRepository]:
        name = request.match_info["name"]
        if len(name) > _NAME_LENGTH_MAX or not _NAME.fullmatch(name):
            raise ApiError(400, "NAME_INVALID", f"{name!r} is not a repository name such as library/nginx")
        return name, self._layout.repository(name)

    async def version(self, _request: web.Request) -> web.Response:
        """GET /v2/."""
        return web.json_response({}, headers=_VERSION_HEADER)

    async def catalog(self, request: web.Request) -> web.Response:
        """GET /v2/_catalog, as Docker's registry has it."""
        names, headers = _page(request, await self._layout.repositories())
        return web.json_response({"repositories": names}, headers=headers)

    async def tags(self, request: web.Request) -> web.Response:
        """GET /v2/<name>/tags/list, with n and last."""
        name, repository = self._repository(request)
        tags = await repository.tags()
        if not tags:
            raise ApiError(404, "NAME_UNKNOWN", f"{name}: no such repository")
        shown, headers = _page(request, tags)
        return web.json_response({"name": name, "tags": shown}, headers=headers)

    async def get_manifest(self, request: web.Request) -> web.Response:
        """GET and HEAD /v2/<name>/manifests/<reference>: the exact bytes."""
        name, repository = self._repository(request)
        reference = _manifest_reference(request)
        try:
            manifest = await repository.manifest(reference)
        except NotFound:
            raise ApiError(404, "MANIFEST_UNKNOWN", f"{name}: no manifest {reference}") from None
        headers = {
            "Content-Type": manifest.descriptor.media_type,
            "Docker-Content-Digest": manifest.descriptor.digest,
            **_VERSION_HEADER,
        }
        return web.Response(body=manifest.raw, headers=headers)

    async def put_manifest(self, request: web.Request) -> web.Response:
        """PUT /v2/<name>/manifests/<reference>: the bytes are kept as they came."""
        name, repository = self._repository(request)
        reference = _manifest_reference(request)
        raw = await _read_bounded(request, MANIFEST_BYTES_MAX)
        stated = request.headers.get("Content-Type", "").partition(";")[0].strip()
        media_type = stated or detect_media_type(raw)
        digest = sha256_digest(raw)
        if is_digest(reference):
            hashing = hasher(reference)
            hashing.update(raw)
            if hashing.hexdigest() != reference.partition(":")[2]:
                raise ApiError(400, "DIGEST_INVALID", f"{name}: the manifest is {digest}, not {reference}")
            digest = reference
        manifest = Manifest(Descriptor(media_type, digest, len(raw)), raw)
        subject = children(manifest).subject
        missing = await asyncio.to_thread(repository.missing_children, manifest)
        if missing:
            raise ApiError(400, "MANIFEST_BLOB_UNKNOWN", f"{name}: {digest} names {missing[0].digest}: not here")
        await repository.push_manifest(manifest, None if is_digest(reference) else reference)
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if subject is not None:
            headers["OCI-Subject"] = subject.digest
        return web.Response(status=201, headers=headers)

    async def get_blob(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD /v2/<name>/blobs/<digest>, with Range (206, 416); the kernel sends the file."""
        name, repository = self._repository(request)
        digest = _checked_digest(request)
        if await asyncio.to_thread(repository.blobs.size, digest) is None:
            raise ApiError(404, "BLOB_UNKNOWN", f"{name}: no blob {digest}")
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes",
        }
        return web.FileResponse(repository.blobs.path(digest), headers=headers)

    async def referrers(self, request: web.Request) -> web.Response:
        """GET /v2/<name>/referrers/<digest>, with artifactType; pages of bounded size."""
        _, repository = self._repository(request)
        wanted = request.query.get("artifactType") or None
        found = await repository.referrers(_checked_digest(request), wanted)
        entries = {item.digest: _referrer_entry(item) for item in found}
        digests, headers = _page(request, list(entries), {key: len(json.dumps(entries[key])) for key in entries})
        if wanted is not None:
            headers["OCI-Filters-Applied"] = "artifactType"
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entries[key] for key in digests]}
        return web.Response(body=json.dumps(body).encode(), headers={"Content-Type": OCI_INDEX, **headers})

    def upload(
        self, handle: Callable[[web.Request, str], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Return *handle* of Uploads as an endpoint, with the repository's name checked."""

        async def endpoint(request: web.Request) -> web.Response:
            return await handle(request, self._repository(request)[0])

        return endpoint


def make_app(layout: Layout, *, read_only: bool = False, users: Mapping[str, str] | None = None) -> web.Application:
    """Return the registry over *layout* as an aiohttp application.

    With *users* (name → password) every request needs Basic authentication.
    """
    middlewares: list[Middleware] = [errors_as_json]
    if users is not None:
        middlewares.append(require_users(users))
    if read_only:
        middlewares.append(refuse_writes)
    app = web.Application(middlewares=middlewares)
    registry = Registry(layout)
    uploads, upload = registry.uploads, registry.upload
    base = "/v2/{name:.+}"
    session = f"{base}/blobs/uploads/{{session:[0-9a-f]+}}"
    app.add_routes(
        [
            web.get("/v2/", registry.version),
            web.get("/v2", registry.version),
            web.get("/v2/_catalog", registry.catalog),
            web.get(f"{base}/tags/list", registry.tags),
            web.get(f"{base}/manifests/{{reference}}", registry.get_manifest),
            web.put(f"{base}/manifests/{{reference}}", registry.put_manifest),
            web.get(f"{base}/referrers/{{digest}}", registry.referrers),
            web.post(f"{base}/blobs/uploads/", upload(uploads.start)),
            web.post(f"{base}/blobs/uploads", upload(uploads.start)),
            web.get(session, upload(uploads.status)),
            web.patch(session, upload(uploads.append)),
            web.put(session, upload(uploads.finish)),
            web.delete(session, upload(uploads.cancel)),
            web.get(f"{base}/blobs/{{digest}}", registry.get_blob),
        ]
    )
    app.cleanup_ctx.append(uploads.run)
    return app


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that listens; ``close`` ends it."""

    host: str
    port: int
    secure: bool
    _runner: web.AppRunner

    @property
    def url(self) -> str:
        """``http://127.0.0.1:5000``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    async def close(self) -> None:
        """Stop listening, end the connections and drop unfinished uploads."""
        await self._runner.cleanup()


async def serve(
    layout: Layout,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    read_only: bool = False,
    users: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> RunningServer:
    """Listen on *host*:*port* (0: a free port) and return at once; OSError if the address cannot be had."""
    runner = web.AppRunner(make_app(layout, read_only=read_only, users=users), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except BaseException:
        await runner.cleanup()
        raise
    return RunningServer(host, runner.addresses[0][1], tls is not None, runner)


def _manifest_reference(request: web.Request) -> str:
    reference = request.match_info["reference"]
    if is_digest(reference) or ":" in reference:
        try:
            return check_digest(reference)
        except ReferenceError_ as error:
            raise ApiError(400, "DIGEST_INVALID", str(error)) from None
    if not TAG.fullmatch(reference):
        raise ApiError(404 if request.method in ("GET", "HEAD") else 400, "MANIFEST_INVALID", "not a tag or digest")
    return reference


def _checked_digest(request: web.Request) -> str:
    try:
        return check_digest(request.match_info["digest"])
    except ReferenceError_ as error:
        raise ApiError(400, "DIGEST_INVALID", str(error)) from None


async def _read_bounded(request: web.Request, size_max: int) -> bytes:
    data = bytearray()
    async for chunk in body_chunks(request):
        data += chunk
        if len(data) > size_max:
            raise TooLarge(f"a manifest may have {size_max} bytes at most")
    return bytes(data)


def _page(
    request: web.Request, items: list[str], sizes: Mapping[str, int] | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the part of the sorted *items* that the query's n and last ask for, and the Link to the next."""
    count, last = request.query.get("n"), request.query.get("last", "")
    if count is not None and not re.fullmatch(r"\d{1,9}", count):
        raise ApiError(400, "PAGINATION_NUMBER_INVALID", f"n={count!r} is not a number")
    number = min(int(count) if count is not None else SERVER_PAGE_ENTRIES_MAX, SERVER_PAGE_ENTRIES_MAX)
    rest = [item for item in items if item > last]
    shown = rest[:number]
    if sizes is not None:
        total = 0
        for position, item in enumerate(shown):
            total += sizes[item]
            if position and total > TAG_PAGE_BYTES_MAX // 2:
                shown = shown[:position]
                break
    if not shown or len(shown) == len(rest):
        return shown, {}
    query = {key: text for key, text in request.query.items() if key != "last"} | {"last": shown[-1]}
    return shown, {"Link": f'<{request.path}?{urlencode(query)}>; rel="next"'}


def _referrer_entry(item: Descriptor) -> dict[str, object]:
    entry: dict[str, object] = {"mediaType": item.media_type, "digest": item.digest, "size": item.size}
    if item.artifact_type:
        entry["artifactType"] = item.artifact_type
    if item.annotations:
        entry["annotations"] = item.annotations
    return entry
