"""Requests to one registry: base address, Authorization, and each refusing status turned into a named error.

Knows HTTP statuses and the registry's error bodies, not what manifests, blobs or uploads are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from oci import limits
from oci.auth import Authenticator, Scopes
from oci.budget import Budget
from oci.errors import ContentMismatch, NotAllowed, NotFound, OciError, Refused, Unauthorized
from oci.http import (
    BodyFactory,
    Call,
    HttpClient,
    Reply,
    Transient,
    one_line,
    raise_transient,
    read_error,
    same_origin,
)
from oci.reference import DOCKER_HUB

_HUB_HOST: Final = "registry-1.docker.io"


class Connection:
    """Everything sent to one registry goes through here."""

    def __init__(
        self,
        registry: str,
        http: HttpClient,
        auth: Authenticator,
        *,
        plain_http: bool,
        budget: Budget | None = None,
        retries: int | None = None,
    ) -> None:
        host = _HUB_HOST if registry == DOCKER_HUB else registry
        self.registry = registry
        self.http = http
        self.budget = budget
        self._retries = retries
        self.base = URL(f"{'http' if plain_http else 'https'}://{host}/v2/")
        self._auth = auth

    @property
    def retries(self) -> int:
        """How often at most a request is sent again, unless it says otherwise itself."""
        return limits.RETRIES_MAX if self._retries is None else self._retries

    def url(self, path: str) -> URL:
        """Return the address of *path* beneath ``/v2/``; the path is taken as written."""
        return URL(f"{self.base}{path}", encoded=True)

    async def fetch(
        self,
        method: str,
        url: URL,
        where: str,
        scopes: Scopes,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | BodyFactory | None = None,
        ok: Collection[int] = (200,),
        body_bytes_max: int = limits.ERROR_BODY_BYTES_MAX,
        retries: int | None = None,
        counted: bool = False,
    ) -> Reply:
        """Return the bounded answer if its status is in *ok*; otherwise raise the error that the status means.

        *counted* as ``Budget.turn`` means it.
        """
        most = self.retries if retries is None else retries
        call = Call(method, url, where, headers or {}, None, body, most, self.budget, counted)
        call = await self._authorize(call, scopes)
        reply = await self.http.fetch(call, body_bytes_max)
        if reply.status == 401:
            better = await self._renew(call, reply.url, reply.headers, scopes)
            if better is not None:
                reply = await self.http.fetch(better, body_bytes_max)
        if reply.status in ok:
            return reply
        raise status_error(where, reply.status, reply.body)

    async def open(
        self, method: str, url: URL, where: str, scopes: Scopes, headers: Mapping[str, str], ok: Collection[int]
    ) -> aiohttp.ClientResponse:
        """As fetch, but one attempt only and with the body left unread; the caller closes the response."""
        call = await self._authorize(Call(method, url, where, headers=headers, budget=self.budget), scopes)
        response = await self._open(call)
        try:
            if response.status == 401:
                better = await self._renew(call, response.url, response.headers, scopes)
                if better is not None:
                    response.close()
                    response = await self._open(better)
            if response.status in ok:
                return response
            body = await read_error(response, where)
        except BaseException:
            response.close()
            raise
        response.close()
        raise status_error(where, response.status, body)

    async def _open(self, call: Call) -> aiohttp.ClientResponse:
        async with call.turn():
            response = await self.http.open(call)
            elsewhere = not same_origin(response.url, call.url)
            try:
                raise_transient(call.where, response, elsewhere=elsewhere)
                if response.status == 500:
                    body = await read_error(response, call.where)
                    error = status_error(call.where, 500, body)
                    if isinstance(error, Transient):
                        error.elsewhere = elsewhere
                    raise error
            except BaseException:
                response.close()
                raise
            return response

    async def _authorize(self, call: Call, scopes: Scopes) -> Call:
        # An upload Location may lead to another host: our credentials are for this one.
        if not same_origin(call.url, self.base):
            return call
        return replace(call, authorization=await self._auth.authorization(scopes))

    async def _renew(self, call: Call, came_from: URL, headers: CIMultiDictProxy[str], scopes: Scopes) -> Call | None:
        if not same_origin(came_from, self.base):
            return None
        values = headers.getall("WWW-Authenticate", [])
        authorization = await self._auth.renew(values, scopes, call.authorization)
        return None if authorization is None else replace(call, authorization=authorization)


def status_error(where: str, status: int, body: bytes) -> OciError:
    """Return the error that a refusing *status* means, with the registry's own words; Transient for 5xx and 429."""
    detail = error_detail(body)
    said = f": {detail}" if detail else ""
    if status == 401:
        return Unauthorized(
            one_line(f"{where}: credentials are missing or wrong (401{said}); log in to the registry")
        )
    if status == 403:
        return Unauthorized(
            one_line(f"{where}: not permitted (403{said}); the account needs access to the repository")
        )
    if status == 404:
        return NotFound(one_line(f"{where}: not found (404{said}); check repository, tag and digest"))
    if detail.startswith(("DIGEST_INVALID", "SIZE_INVALID")):
        return ContentMismatch(one_line(f"{where}: the registry computed another digest or size ({status}{said})"))
    if status == 413:
        return Refused(one_line(f"{where}: too large for the registry (413{said}); raise its body size limit"))
    if status == 405:
        return NotAllowed(one_line(f"{where}: the registry does not allow it (405{said})"))
    if status >= 500 or status == 429:
        line = one_line(f"{where}: the registry failed ({status}{said}); try later or see its log")
        return Transient(line, status=status)
    return Refused(one_line(f"{where}: the registry refused ({status}{said}); see its log"))


def error_detail(body: bytes) -> str:
    """Return ``CODE message`` of the first error of an error body (distribution-spec: error codes), or ''."""
    try:
        first = json.loads(body)["errors"][0]
        texts = [first.get("code"), first.get("message")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return " ".join(text[:120] for text in texts if isinstance(text, str))
