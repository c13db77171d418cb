"""Authentication towards one registry: WWW-Authenticate, Basic, Bearer tokens (distribution token and OAuth2 spec).

Knows how to get an ``Authorization`` header for a scope, not what requests are for. Secrets stay out of errors.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from yarl import URL

from oci import limits
from oci.budget import Budget
from oci.credentials import Credential, CredentialSource
from oci.errors import Unauthorized, Unreachable
from oci.http import Call, HttpClient, Reply, one_line

Scopes = tuple[str, ...]
"""Such as ``("repository:library/nginx:pull",)``."""

_TOKEN68: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_SCHEME: Final = re.compile(rf"\s*,?\s*({_TOKEN68})(?:\s+|\Z|(?=,))")
_PARAM: Final = re.compile(rf'\s*,?\s*({_TOKEN68})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN68}))')
_HEADER_LENGTH_MAX: Final = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of WWW-Authenticate (RFC 9110 11.6.1): scheme and parameter names in lower case."""

    scheme: str
    params: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    expires: float  # by the authenticator's clock


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """Parse WWW-Authenticate header values, as many challenges as they hold; what cannot be read is left out."""
    found: list[Challenge] = []
    for value in values:
        value = value[:_HEADER_LENGTH_MAX]
        position = 0
        while position < len(value):
            param = _PARAM.match(value, position)
            if param is not None and found:
                text = param[3] if param[2] is None else re.sub(r"\\(.)", r"\1", param[2])
                found[-1].params.setdefault(param[1].lower(), text)
                position = param.end()
                continue
            scheme = _SCHEME.match(value, position)
            if scheme is None:
                break
            found.append(Challenge(scheme[1].lower(), {}))
            position = scheme.end()
    return found


class Authenticator:
    """Answers the challenges of one registry; tokens are kept by scope until shortly before they expire."""

    def __init__(
        self,
        registry: str,
        http: HttpClient,
        credentials: CredentialSource,
        *,
        plain_http: bool = False,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._http = http
        self._credentials = credentials
        self._plain_http = plain_http
        # A token service works for one registry as a rule: it is asked out of that registry's budget, and its failure
        # is the registry's, of which nothing can be had without a token.
        self._budget = budget
        self._clock = clock
        self._challenge: Challenge | None = None
        self._basic: str | None = None  # until it is rejected: a helper is a process for each question
        self._tokens: dict[Scopes, _Token] = {}
        self._lock = asyncio.Lock()  # one fetch at a time: others then find the token

    async def authorization(self, scopes: Scopes) -> str | None:
        """Return the header value for *scopes* as far as known: None until the registry has challenged us."""
        if self._challenge is None:
            return None
        async with self._lock:
            return await self._answer(self._challenge, scopes)

    async def renew(self, values: Sequence[str], scopes: Scopes, rejected: str | None) -> str | None:
        """Return a fresh header value after a 401 with WWW-Authenticate *values*; None if there is no better one."""
        known = parse_challenges(values)
        by_scheme = {challenge.scheme: challenge for challenge in reversed(known)}
        challenge = by_scheme.get("bearer") or by_scheme.get("basic")
        if challenge is None:
            return None
        async with self._lock:
            self._challenge = challenge
            if rejected == self._basic:
                self._basic = None
            token = self._tokens.get(scopes)
            if token is not None and rejected == f"Bearer {token.value}":
                del self._tokens[scopes]
            answer = await self._answer(challenge, scopes)
        return None if answer == rejected else answer

    async def _answer(self, challenge: Challenge, scopes: Scopes) -> str | None:
        if challenge.scheme == "basic":
            if self._basic is None:
                credential = await self._credentials.lookup(self._registry)
                if credential is not None and credential.identity_token is None:
                    self._basic = _basic(credential)
            return self._basic
        token = self._tokens.get(scopes)
        if token is None or token.expires <= self._clock():
            token = await self._fetch_token(challenge, scopes)
            self._tokens.pop(scopes, None)
            while len(self._tokens) >= limits.TOKENS_MAX:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[scopes] = token
        return f"Bearer {token.value}"

    async def _fetch_token(self, challenge: Challenge, scopes: Scopes) -> _Token:
        realm = self._realm(challenge)
        credential = await self._credentials.lookup(self._registry)
        service = challenge.params.get("service")
        scopes = scopes or tuple(challenge.params.get("scope", "").split())
        where = f"{self._registry}: token from {realm.host}"
        started = self._clock()
        if credential is not None and credential.identity_token is not None:
            reply = await self._oauth2(realm, where, credential.identity_token, service, scopes)
        else:
            query = [*realm.query.items()]
            query += [("service", service)] if service else []
            query += [("scope", scope) for scope in scopes]
            authorization = _basic(credential) if credential is not None else None
            call = Call("GET", realm.with_query(query), where, authorization=authorization, budget=self._budget)
            reply = await self._http.fetch(call, limits.TOKEN_BODY_BYTES_MAX)
        return _parse_token(reply, where, self._registry, credential is not None, started)

    async def _oauth2(
        self, realm: URL, where: str, identity_token: str, service: str | None, scopes: Scopes
    ) -> Reply:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": identity_token,
            "client_id": "checkvalve",
            "service": service or self._registry,
            "scope": " ".join(scopes),
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        call = Call("POST", realm, where, headers=headers, body=urlencode(form).encode(), budget=self._budget)
        return await self._http.fetch(call, limits.TOKEN_BODY_BYTES_MAX)

    def _realm(self, challenge: Challenge) -> URL:
        """Check where the registry sends us with our password: https, unless the registry itself is plain http."""
        text = challenge.params.get("realm", "")
        allowed = {"https", "http"} if self._plain_http else {"https"}
        try:
            realm = URL(text)
            good = realm.scheme in allowed and bool(realm.host) and realm.user is None
        except ValueError:
            good = False
        if not good:
            raise Unauthorized(
                one_line(f"{self._registry}: token realm {text[:100]!r} is refused; expected an https address")
            )
        return realm.with_fragment(None)


def _parse_token(reply: Reply, where: str, registry: str, named: bool, started: float) -> _Token:
    if reply.status in {400, 401, 403}:
        advice = "check the user name and password" if named else "log in: credentials are needed"
        raise Unauthorized(f"{where}: refused ({reply.status}); {advice} for {registry} in docker's config.json")
    if reply.status != 200:
        raise Unreachable(f"{where}: status {reply.status}; expected a token")
    try:
        document = json.loads(reply.body)
        value = document.get("token") or document.get("access_token")
        seconds = document.get("expires_in") or limits.TOKEN_SECONDS_DEFAULT
        good = isinstance(value, str) and value.isascii() and value.isprintable() and 0 < float(seconds) < 1e9
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        good = False
    if not good:
        raise Unreachable(f"{where}: the answer holds no token; expected JSON with 'token' or 'access_token'")
    # A token that lives for less than the margin is still good for the request at hand.
    return _Token(value, started + max(1.0, float(seconds) - limits.TOKEN_MARGIN_SECONDS))


def _basic(credential: Credential) -> str:
    plain = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(plain).decode("ascii")
