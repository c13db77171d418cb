"""Errors of the embedded registry in the JSON form of distribution-spec, "Error Codes"."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from oci.errors import (
    ContentMismatch,
    NotFound,
    OciError,
    ReferenceError_,
    Refused,
    StorageFull,
    TooLarge,
    Unsupported,
)

_RETRY_FULL_DISK_S: Final = "30"

# First match wins, so subclasses would stand before their bases.
_BY_ERROR: Final[tuple[tuple[type[OciError], int, str], ...]] = (
    (NotFound, 404, "MANIFEST_UNKNOWN"),
    (ReferenceError_, 400, "NAME_INVALID"),
    (TooLarge, 413, "SIZE_INVALID"),
    (Unsupported, 400, "UNSUPPORTED"),
    (Refused, 400, "MANIFEST_BLOB_UNKNOWN"),
    (ContentMismatch, 400, "MANIFEST_INVALID"),
    (StorageFull, 503, "UNKNOWN"),
)


class ApiError(Exception):
    """An answer of *status* with one error *code* of the spec; *headers* are added to it."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        """Return the answer."""
        body = json.dumps({"errors": [{"code": self.code, "message": str(self)}]}).encode()
        return web.Response(status=self.status, body=body, content_type="application/json", headers=self.headers)


def from_oci(error: OciError) -> ApiError:
    """Return how *error* of the layout is told to a client."""
    for kind, status, code in _BY_ERROR:
        if isinstance(error, kind):
            headers = {"Retry-After": _RETRY_FULL_DISK_S} if status == 503 else None
            return ApiError(status, code, str(error), headers)
    return ApiError(500, "UNKNOWN", str(error))


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every failure in the spec's form; what is no failure of the client's is left to aiohttp (500)."""
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except OciError as error:
        return from_oci(error).response()
    except web.HTTPMethodNotAllowed as error:
        allowed = {"Allow": ", ".join(sorted(error.allowed_methods))}
        return ApiError(405, "UNSUPPORTED", f"{request.method} is not served here", allowed).response()
    except (ConnectionError, web.RequestPayloadError):
        # The client hung up while it was sending; nobody reads this, and it is no failure of the server.
        return ApiError(400, "BLOB_UPLOAD_INVALID", "the request ended early").response()
    except web.HTTPNotFound:
        return ApiError(404, "NAME_UNKNOWN", f"{request.path}: no such endpoint").response()


@web.middleware
async def refuse_writes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 405 UNSUPPORTED to everything but GET and HEAD."""
    if request.method not in ("GET", "HEAD"):
        raise ApiError(405, "UNSUPPORTED", "this registry is read-only", {"Allow": "GET, HEAD"})
    return await handler(request)


def require_users(users: Mapping[str, str]) -> Middleware:
    """Return a middleware that wants Basic authentication by one of *users* (name → password)."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        name, password = _credentials(request.headers.get("Authorization", ""))
        expected = users.get(name)
        # Compared even for unknown names, so that time tells nothing about who exists.
        same = hmac.compare_digest((expected or "").encode(), password.encode())
        if expected is None or not same:
            challenge = {"WWW-Authenticate": 'Basic realm="checkvalve"'}
            raise ApiError(401, "UNAUTHORIZED", "authentication required", challenge)
        return await handler(request)

    return check


def _credentials(header: str) -> tuple[str, str]:
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return "", ""
    name, _, password = text.partition(":")
    return name, password
