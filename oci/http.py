"""One HTTP exchange done carefully: retries with backoff, redirects by hand, bounded bodies, timeouts, TLS.

Knows nothing of registries: no paths, tokens or media types. ``Authorization`` never follows a redirect to another
origin, and nothing ever goes from https to http.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from oci import limits
from oci.budget import Budget
from oci.errors import LeftAlone, Misconfigured, OciError, TooLarge, Unreachable

BodyFactory = Callable[[], AsyncIterator[bytes]]
"""Makes the request body afresh for each attempt."""

CONNECTIONS_PER_HOST: Final = 8
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_RETRY_STATUSES: Final = frozenset({429, 500, 502, 503, 504})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_USER_AGENT: Final = "checkvalve"


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Certificates beyond the system's: a CA bundle to trust as well, and a client certificate to show."""

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request. *where* starts every error message: ``registry.example/app: blob sha256:…``."""

    method: str
    url: URL
    where: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    body: bytes | BodyFactory | None = None
    retries: int = limits.RETRIES_MAX
    budget: Budget | None = field(default=None, repr=False)  # of the registry that the request is for
    counted: bool = False  # against a pull quota

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for the budget, if there is one, to let an attempt leave."""
        return nullcontext() if self.budget is None else self.budget.turn(counted=self.counted)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole, bounded answer. *url* is where it came from after redirects."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: URL


class Transient(Unreachable):
    """A failure that a later attempt may mend."""


class HttpClient:
    """A pool of connections. Use as an async context manager; sleep and randomness are replaceable."""

    def __init__(
        self,
        tls: TlsOptions | None = None,
        *,
        connections_per_host: int = CONNECTIONS_PER_HOST,
        connect_seconds: float = limits.CONNECT_SECONDS_MAX,
        keepalive_seconds: float = limits.KEEPALIVE_SECONDS,
        idle_seconds: float = limits.IDLE_SECONDS_MAX,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._tls = _tls_context(tls or TlsOptions())
        self._connections_per_host = connections_per_host
        self._keepalive_seconds = keepalive_seconds
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_seconds, sock_read=idle_seconds
        )
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._tls,
                limit=0,
                limit_per_host=self._connections_per_host,
                keepalive_timeout=self._keepalive_seconds,
            ),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # digests are of the bytes as stored
            read_bufsize=limits.BLOB_CHUNK_BYTES,
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(self, call: Call, body_bytes_max: int) -> Reply:
        """Do *call*, with retries, and read the whole body; TooLarge beyond *body_bytes_max*.

        Any status comes back as a Reply, save 429 and 5xx that outlast the retries: Unreachable.
        """
        attempt = 0
        failure: Transient | None = None
        while True:
            try:
                async with call.turn():
                    return await self._fetch_in_time(call, body_bytes_max)
            except LeftAlone as error:
                raise (failure or error) from (failure or error).__cause__  # our own news before that of others
            except Transient as error:
                failure = error
                if attempt >= call.retries:
                    raise
                await self.backoff(attempt, error, paused=call.budget is not None)
            except _ServerError as error:
                if attempt >= min(call.retries, limits.SERVER_ERROR_RETRIES_MAX):
                    return error.reply
                await self.backoff(attempt, None)
            attempt += 1

    async def backoff(self, attempt: int, error: Transient | None, *, paused: bool = False) -> None:
        """Sleep before retry number *attempt* (from 0); re-raise *error* if the server asks for too long a wait.

        With *paused* the wait that the server asks for is left to the budget, where all wait for it together.
        """
        ceiling = min(limits.BACKOFF_SECONDS_MAX, limits.BACKOFF_SECONDS_BASE * 2 ** min(attempt, 30))
        delay = ceiling * self._rng.uniform(0.5, 1.0)
        asked = error.retry_after_seconds if error is not None else None
        if error is not None and asked is not None:
            if asked > limits.RETRY_AFTER_SECONDS_MAX:
                raise error
            delay = delay if paused and not error.elsewhere else asked + delay
        await self._sleep(delay)

    async def open(self, call: Call) -> aiohttp.ClientResponse:
        """Send *call* once, following redirects, and return the response with its body unread.

        The caller reads it with read_body or chunks and closes it. Transient: worth another attempt (no connection,
        429, 502 to 504). The caller holds ``call.turn()``.
        """
        asked = call.url
        for _ in range(limits.REDIRECTS_MAX + 1):
            try:
                response = await self._send(call)
            except Unreachable as error:
                error.elsewhere = not same_origin(call.url, asked)
                raise
            if call.budget is not None and same_origin(call.url, asked):
                call.budget.heard(response.headers)
            if response.status not in _REDIRECTS or call.method not in {"GET", "HEAD"}:
                return response
            try:
                call = _redirected(call, response)
            finally:
                response.release()
        raise Unreachable(f"{call.where}: more than {limits.REDIRECTS_MAX} redirects")

    async def _fetch_in_time(self, call: Call, body_bytes_max: int) -> Reply:
        """One attempt; a server that sends a byte now and then does not hold us, one that we send much to may."""
        limit_s = None if callable(call.body) else limits.DOCUMENT_SECONDS_MAX
        try:
            async with asyncio.timeout(limit_s):
                return await self._fetch_once(call, body_bytes_max)
        except TimeoutError:
            raise Transient(
                f"{call.where}: no whole answer within {limit_s:.0f} s; the server or the way to it is too slow"
            ) from None

    async def _fetch_once(self, call: Call, body_bytes_max: int) -> Reply:
        response = await self.open(call)
        try:
            if response.status >= 400:
                body = await read_error(response, call.where)
            else:
                body = await read_body(response, body_bytes_max, call.where)
        except BaseException:
            response.close()
            raise
        response.release()
        reply = Reply(response.status, response.headers, body, response.url)
        elsewhere = not same_origin(response.url, call.url)
        if reply.status == 500:
            raise _ServerError(f"{call.where}: the server failed (500)", reply, elsewhere)
        raise_transient(call.where, response, elsewhere=elsewhere)
        return reply

    async def _send(self, call: Call) -> aiohttp.ClientResponse:
        assert self._session is not None, "HttpClient is used outside its context"
        headers = dict(call.headers)
        if call.authorization is not None:
            headers["Authorization"] = call.authorization
        body = call.body() if callable(call.body) else call.body
        try:
            return await self._session.request(
                call.method,
                call.url,
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=_proxy_for(call.url),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # What the library says of a proxy that refuses holds the proxy's password: it is not to be chained.
            cause = None if isinstance(error, aiohttp.ClientHttpProxyError) else error
            raise explain(error, call.where, call.url) from cause


class _ServerError(Unreachable):
    """Status 500: retried less often, and then given to the caller with its body."""

    def __init__(self, message: str, reply: Reply, elsewhere: bool) -> None:
        super().__init__(message, status=500, elsewhere=elsewhere)
        self.reply = reply


def raise_transient(where: str, response: aiohttp.ClientResponse, *, elsewhere: bool = False) -> None:
    """Raise Transient for 429 and 502 to 504, with what the server says about waiting."""
    if response.status not in _RETRY_STATUSES or response.status == 500:
        return
    wait = _retry_after(response.headers)
    said = f", asks to wait {wait:.0f} s" if wait is not None else ""
    if response.status == 429:
        remaining = response.headers.get("ratelimit-remaining")
        limit = response.headers.get("ratelimit-limit")
        quota = f", {remaining} of {limit} left" if remaining and limit else ""
        message = f"{where}: rate limit reached (429{said}{quota}); log in or try later"
    else:
        message = f"{where}: the server is not able to answer ({response.status}{said}); try later"
    raise Transient(one_line(message), status=response.status, retry_after_seconds=wait, elsewhere=elsewhere)


async def read_body(response: aiohttp.ClientResponse, bytes_max: int, where: str) -> bytes:
    """Return the whole body; TooLarge beyond *bytes_max*, Transient if the connection breaks."""
    if response.method != "HEAD" and (response.content_length or 0) > bytes_max:
        raise TooLarge(f"{where}: body of {response.content_length:,} bytes; expected at most {bytes_max:,}")
    body = bytearray()
    async for chunk in chunks(response, where):
        body += chunk
        if len(body) > bytes_max:
            raise TooLarge(f"{where}: body of more than the {bytes_max:,} bytes expected at most")
    return bytes(body)


async def read_error(response: aiohttp.ClientResponse, where: str) -> bytes:
    """Return the first limits.ERROR_BODY_BYTES_MAX bytes of the body of a refusal; the rest is dropped."""
    body = b""
    async for chunk in chunks(response, where):
        body += chunk
        if len(body) >= limits.ERROR_BODY_BYTES_MAX:
            response.close()
            break
    return body[: limits.ERROR_BODY_BYTES_MAX]


async def chunks(response: aiohttp.ClientResponse, where: str) -> AsyncIterator[bytes]:
    """Yield the body in pieces of at most limits.BLOB_CHUNK_BYTES; Transient if the connection breaks or crawls."""
    waited_s = 0.0  # for the server: the time that our caller takes is not its fault
    came = 0
    while True:
        before = time.monotonic()
        try:
            chunk = await response.content.read(limits.BLOB_CHUNK_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise explain(error, where, response.url) from error
        if not chunk:
            return
        waited_s += time.monotonic() - before
        came += len(chunk)
        yield chunk
        if waited_s >= limits.SLOW_SECONDS:
            if came < waited_s * limits.SLOW_BYTES_PER_SECOND:
                raise Transient(
                    f"{where}: only {came:,} bytes came in {waited_s:.0f} s; taken for a broken connection"
                )
            waited_s, came = 0.0, 0


def explain(error: Exception, where: str, url: URL) -> OciError:
    """Return the one-line error for what went wrong with a connection to *url*."""
    host = url.raw_authority.rpartition("@")[2]
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        reason = getattr(error, "certificate_error", error)
        detail = getattr(reason, "verify_message", "") or str(reason)
        return Unreachable(
            one_line(f"{where}: TLS certificate of {host} is not trusted ({detail}); name its CA as ca_file")
        )
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Unreachable(
            one_line(f"{where}: {host} does not speak TLS as expected ({error}); if it is plain HTTP, set plain_http")
        )
    if isinstance(error, aiohttp.InvalidURL):
        return Unreachable(f"{where}: the server named an address that is not a URL")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        advice = "its login belongs into HTTPS_PROXY" if error.status == 407 else "does it allow this host?"
        return Transient(f"{where}: the proxy does not connect us to {host} ({error.status}); {advice}")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        detail = error.strerror or "no answer"
        return Transient(
            one_line(f"{where}: cannot connect to the proxy {error.host}:{error.port} ({detail}); check HTTPS_PROXY")
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Transient(f"{where}: host name {url.host!r} not found; check the name and the DNS")
    if isinstance(error, TimeoutError):
        return Transient(f"{where}: no answer from {host} in time; check that it is reachable")
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError):
        detail = error.strerror or str(error)
        return Transient(one_line(f"{where}: cannot connect to {host} ({detail}); check host, port and firewall"))
    broke = f"connection to {host} broke ({error or type(error).__name__}); look at the server and the way to it"
    return Transient(one_line(f"{where}: {broke}"))


def same_origin(one: URL, other: URL) -> bool:
    """Whether scheme, host and port are the same (RFC 6454)."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def join(base: URL, location: str, where: str) -> URL:
    """Resolve a Location or Link target against *base* exactly as written; refuse odd schemes and https→http."""
    try:
        url = base.join(URL(location, encoded=True))
        odd = url.scheme not in {"http", "https"} or not url.host or url.user is not None
    except ValueError:
        odd = True
    if odd:
        raise Unreachable(one_line(f"{where}: the server points to {location[:100]!r}; expected an http(s) address"))
    if base.scheme == "https" and url.scheme != "https":
        raise Unreachable(
            one_line(
                f"{where}: the server points from https to {url.scheme}://{url.host}; expected https all the way"
            )
        )
    return url


def one_line(text: str) -> str:
    """Return *text* safe for one line of a log: no control characters, at most 400 characters."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= 400 else line[:399] + "…"


def _redirected(call: Call, response: aiohttp.ClientResponse) -> Call:
    location = response.headers.get("Location")
    if not location:
        raise Unreachable(f"{call.where}: redirect ({response.status}) without Location")
    url = join(call.url, location, call.where)
    # Storage behind a registry must not learn our credentials; once dropped they stay dropped.
    authorization = call.authorization if same_origin(url, call.url) else None
    return replace(call, url=url, authorization=authorization)


def _retry_after(headers: CIMultiDictProxy[str]) -> float | None:
    """Return the seconds of Retry-After (RFC 9110 10.2.3); a date counts from the server's own Date."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = email.utils.parsedate_to_datetime(value)
        since = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        return max(0.0, (until - since).total_seconds())
    except (ValueError, TypeError):
        return None


def _proxy_for(url: URL) -> str | None:
    """Return the proxy of the environment (HTTPS_PROXY, NO_PROXY); loopback never goes through one."""
    if url.host in _LOOPBACK or url.host is None:
        return None
    proxy = urllib.request.getproxies().get(url.scheme)
    return None if proxy is None or urllib.request.proxy_bypass(url.host) else proxy


def _tls_context(tls: TlsOptions) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if tls.ca_file is not None:
            context.load_verify_locations(cafile=tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            f"{tls.ca_file}: {error.strerror or error}; expected a readable PEM file of CA certificates"
        ) from None
    try:
        if tls.client_cert is not None:
            context.load_cert_chain(tls.client_cert, tls.client_key, password=_no_passphrase)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            f"{tls.client_cert}: {error.strerror or error}; expected a readable PEM certificate and its key"
        ) from None
    return context


def _no_passphrase() -> str:
    raise OSError(None, "the key is encrypted")  # never ask on the terminal of a daemon
