"""An HTTP listener that registries tell of pushes: a hint to look at once, and nothing more.

Understands the notifications of distribution, Harbor and Docker Hub. What they say is never believed: whoever takes a
notice asks the registry itself. Off unless the settings have a section ``webhook``.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from pydantic import BaseModel, ValidationError

from oci.descriptor import MANIFEST_TYPES, check_digest
from oci.errors import ReferenceError_
from oci.logins import read_secret
from oci.reference import DOCKER_HUB, is_tag, parse_reference
from runtime.errors import UserError
from runtime.units import HostPort
from sender.config import Webhook

BODY_BYTES_MAX: Final = 1 << 20
BODY_SECONDS_MAX: Final = 10.0
REQUESTS_AT_ONCE: Final = 16
NOTICES_MAX: Final = 1_000  # waiting to be taken, and in one body
_SECRET: Final = re.compile(r"[A-Za-z0-9._~-]{16,512}", re.ASCII)  # fit for a header and a path

# The server tells of request lines that it cannot parse at level DEBUG, and they may hold the secret.
_log = logging.getLogger("checkvalve.webhook")
_log.setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something was pushed to *repository*: ``host[:port]/path``, or only the path if no registry was named."""

    repository: str
    tag: str | None
    digest: str | None  # as they say


class _Target(BaseModel):
    repository: str
    tag: str | None = None
    digest: str | None = None
    mediaType: str | None = None  # noqa: N815 - the format's own name


class _Request(BaseModel):
    host: str = ""


class _Event(BaseModel):
    action: str
    target: _Target
    request: _Request = _Request()


class _Distribution(BaseModel):
    """distribution: notifications, envelope and events."""

    events: list[_Event]

    def found(self) -> list[Notice | None]:
        return [
            _notice(f"{event.request.host}/{target.repository}", target.tag, target.digest)
            or _notice(target.repository, target.tag, target.digest)
            for event in self.events
            if event.action == "push" and (target := event.target).mediaType in {None, "", *MANIFEST_TYPES}
        ]


class _Resource(BaseModel):
    resource_url: str
    tag: str | None = None
    digest: str | None = None


class _EventData(BaseModel):
    resources: list[_Resource] = []


class _Harbor(BaseModel):
    """Harbor: webhook notifications, default payload format."""

    type: str
    event_data: _EventData

    def found(self) -> list[Notice | None]:
        if self.type != "PUSH_ARTIFACT":
            return []
        return [_notice(one.resource_url, one.tag, one.digest) for one in self.event_data.resources]


class _HubRepository(BaseModel):
    repo_name: str


class _PushData(BaseModel):
    tag: str | None = None


class _Hub(BaseModel):
    """Docker Hub: webhooks, example payload."""

    push_data: _PushData
    repository: _HubRepository

    def found(self) -> list[Notice | None]:
        name = self.repository.repo_name
        path = name if "/" in name else f"library/{name}"
        return [_notice(f"{DOCKER_HUB}/{path}", self.push_data.tag, None)]


def parse_notices(body: bytes) -> list[Notice]:
    """Return what *body* tells of, each once; entries that name nothing usable, or no push, are left out.

    ValueError if it is in none of the three formats. Pure; at most NOTICES_MAX notices.
    """
    for form in (_Distribution, _Harbor, _Hub):
        try:
            found = form.model_validate_json(body).found()
        except ValidationError:
            continue
        return list(dict.fromkeys(notice for notice in found if notice is not None))[:NOTICES_MAX]
    raise ValueError("expected a notification of distribution, Harbor or Docker Hub")


def _notice(name: str, tag: str | None, digest: str | None) -> Notice | None:
    """Check each part; without a registry in it *name* is kept as the bare path that it is."""
    try:
        reference = parse_reference(name)
        checked = check_digest(digest) if digest else None
    except ReferenceError_:
        return None
    first = name.partition("/")[0]
    named = "." in first or ":" in first or first == "localhost"
    path = reference.repository if named else name.partition("@")[0].rpartition(":")[0] or name
    repository = f"{reference.registry}/{path}" if named else path
    tag = tag or reference.tag
    return Notice(repository, tag if tag and is_tag(tag) else None, checked)


class WebhookServer:
    """Takes notices in. Use as an async context manager; take them from ``notices``.

    Answers ``POST /hook`` with ``Authorization: Bearer SECRET``, and ``POST /hook/SECRET`` for those that cannot send
    headers. 400 for other bodies, 401, 404, 405, 408, 413, 503 when too many ask at once.
    """

    def __init__(self, listen: HostPort, secret: str) -> None:
        self.notices: asyncio.Queue[Notice] = asyncio.Queue(NOTICES_MAX)
        self.dropped = 0  # notices that found the queue full; the next poll sees what they meant
        self._listen = listen
        self._secret = secret.encode()
        self._busy = 0
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/hook", self._by_header)
        app.router.add_post("/hook/{last}", self._by_path)
        self._runner = web.AppRunner(app, access_log=None, logger=_log, shutdown_timeout=1.0, keepalive_timeout=15.0)

    @classmethod
    def from_settings(cls, settings: Webhook) -> WebhookServer:
        """Return the server that *settings* ask for; Misconfigured or UserError if the secret is not one."""
        secret = read_secret(settings.secret_file)
        if _SECRET.fullmatch(secret) is None:
            raise UserError(
                f"webhook.secret_file: {settings.secret_file}: the secret (not shown) is not fit for an address; "
                "give 16 to 512 of A-Z a-z 0-9 . _ ~ -"
            )
        return cls(settings.listen, secret)

    @property
    def port(self) -> int:
        """The port that is listened on, also where the settings left the choice to the kernel."""
        return int(self._runner.addresses[0][1])

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._listen.host, self._listen.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UserError(
                f"webhook.listen: {self._listen}: cannot listen there ({error.strerror or error}); "
                "give an address of this machine and a free port"
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _by_header(self, request: web.Request) -> web.Response:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return await self._answer(request, given.strip() if scheme.lower() == "bearer" else "")

    async def _by_path(self, request: web.Request) -> web.Response:
        return await self._answer(request, request.match_info["last"])

    async def _answer(self, request: web.Request, given: str) -> web.Response:
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._secret):
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"}, text="the secret is not this\n")
        if self._busy >= REQUESTS_AT_ONCE:
            return web.Response(status=503, headers={"Retry-After": "5"}, text="too many at once\n")
        self._busy += 1
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                found = parse_notices(await request.read())
        except TimeoutError:
            return web.Response(status=408, text="the body took too long\n")
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        finally:
            self._busy -= 1
        for notice in found:
            try:
                self.notices.put_nowait(notice)
            except asyncio.QueueFull:
                self.dropped += 1
        return web.Response(status=202, text=f"{len(found)} noticed\n")
