from __future__ import annotations

import base64
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from oci.auth import Authenticator, Challenge, parse_challenges
from oci.client import Registry
from oci.credentials import Anonymous, Credential, CredentialSource, FixedCredential
from oci.errors import NotFound, Unauthorized, Unreachable
from oci.http import HttpClient
from tests.oci.peers import Serve

SCOPE = ("repository:a/b:pull",)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        (["Basic"], [("basic", {})]),
        (['Basic realm="x, y"'], [("basic", {"realm": "x, y"})]),
        (
            ['Bearer realm="https://a.example/t",service="s",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://a.example/t", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (['BEARER Realm="a\\"b" , x=y'], [("bearer", {"realm": 'a"b', "x": "y"})]),
        (['Basic realm="a", Bearer realm="b"'], [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        (["Negotiate, Basic realm=a"], [("negotiate", {}), ("basic", {"realm": "a"})]),
        (["Basic realm=a", "Bearer realm=b"], [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        (['Bearer realm="unclosed'], [("bearer", {})]),
        (['"'], []),
    ],
)
def test_challenges(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = parse_challenges(values)
    assert [(one.scheme, one.params) for one in found][: len(expected)] == expected
    assert all(isinstance(one, Challenge) for one in found)


class TokenServer:
    """A registry that takes only the newest token, and the token service in front of it."""

    def __init__(self, expires_in: int = 300) -> None:
        self.expires_in = expires_in
        self.issued = 0
        self.valid: set[str] = set()
        self.requests: list[web.Request] = []
        self.forms: list[dict[str, list[str]]] = []
        self.require: str | None = None
        self.realm: str | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.path == "/token":
            if self.require is not None and request.headers.get("Authorization") != self.require:
                return web.Response(status=401)
            if request.method == "POST":
                self.forms.append(parse_qs(await request.text()))
            self.issued += 1
            self.valid = {f"Bearer token-{self.issued}"}
            return web.json_response({"token": f"token-{self.issued}", "expires_in": self.expires_in})
        if request.headers.get("Authorization") not in self.valid:
            realm = self.realm or f"http://{request.host}/token"
            challenge = f'Bearer realm="{realm}",service="reg",scope="{SCOPE[0]}"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return web.json_response({"name": "a/b", "tags": ["v1"]})

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


def registry(host: str, http: HttpClient, credentials: CredentialSource | None = None) -> Registry:
    return Registry(host, plain_http=True, http=http, credentials=credentials)


async def test_bearer_token_is_fetched_once_for_its_scope(serve: Serve, http: HttpClient) -> None:
    server = TokenServer()
    repository = registry(await serve(server), http).repository("a/b")
    assert await repository.tags() == ["v1"]
    assert await repository.tags() == ["v1"]
    assert server.paths == ["/v2/a/b/tags/list", "/token", "/v2/a/b/tags/list", "/v2/a/b/tags/list"]
    token_request = server.requests[1]
    assert dict(token_request.query) == {"service": "reg", "scope": SCOPE[0]}
    assert "Authorization" not in token_request.headers


async def test_revoked_token_is_renewed_once(serve: Serve, http: HttpClient) -> None:
    server = TokenServer()
    repository = registry(await serve(server), http).repository("a/b")
    await repository.tags()
    server.valid = set()
    assert await repository.tags() == ["v1"]
    assert server.issued == 2


async def test_a_registry_that_takes_no_token_is_asked_twice_only(serve: Serve, http: HttpClient) -> None:
    server = TokenServer()
    server.realm = "http://{}/none"

    async def never(request: web.Request) -> web.StreamResponse:
        answer = await server(request)
        server.valid = set()
        return answer

    host = await serve(never)
    server.realm = f"http://{host}/token"
    with pytest.raises(Unauthorized, match="401"):
        await registry(host, http).repository("a/b").tags()
    assert server.paths == ["/v2/a/b/tags/list", "/token", "/v2/a/b/tags/list"]


async def test_expiring_token_is_replaced_before_it_expires(serve: Serve, http: HttpClient) -> None:
    server = TokenServer(expires_in=100)
    host = await serve(server)
    now = [1000.0]
    auth = Authenticator(host, http, Anonymous(), plain_http=True, clock=lambda: now[0])
    challenge = [f'Bearer realm="http://{host}/token"']
    assert await auth.authorization(SCOPE) is None
    assert await auth.renew(challenge, SCOPE, None) == "Bearer token-1"
    now[0] += 89  # 100 s less the margin of 10
    assert await auth.authorization(SCOPE) == "Bearer token-1"
    now[0] += 2
    assert await auth.authorization(SCOPE) == "Bearer token-2"
    assert await auth.authorization(("repository:other:pull",)) == "Bearer token-3"


async def test_password_goes_to_the_realm_and_never_to_the_registry(serve: Serve, http: HttpClient) -> None:
    server = TokenServer()
    server.require = "Basic " + base64.b64encode(b"me:s3cret").decode()
    host = await serve(server)
    good = FixedCredential(host, Credential("me", "s3cret"))
    assert await registry(host, http, good).repository("a/b").tags() == ["v1"]
    to_registry = [request for request in server.requests if request.path != "/token"]
    assert all("Basic" not in request.headers.get("Authorization", "") for request in to_registry)
    bad = FixedCredential(host, Credential("me", "hunter2"))
    with pytest.raises(Unauthorized, match="check the user name and password") as caught:
        await registry(host, http, bad).repository("a/b").tags()
    assert "hunter2" not in str(caught.value)


async def test_identity_token_is_exchanged_by_post(serve: Serve, http: HttpClient) -> None:
    server = TokenServer()
    host = await serve(server)
    credentials = FixedCredential(host, Credential("", "", "refresh-me"))
    assert await registry(host, http, credentials).repository("a/b").tags() == ["v1"]
    assert server.forms == [
        {
            "grant_type": ["refresh_token"],
            "refresh_token": ["refresh-me"],
            "client_id": ["checkvalve"],
            "service": ["reg"],
            "scope": [SCOPE[0]],
        }
    ]
    assert all("refresh-me" not in str(request.url) for request in server.requests)


@pytest.mark.parametrize("realm", ["ftp://x.example/t", "file:///etc/passwd", "http://u:p@x.example/", "", "/token"])
async def test_odd_realms_get_no_password(serve: Serve, http: HttpClient, realm: str) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})

    with pytest.raises(Unauthorized, match="realm"):
        await registry(await serve(handler), http).repository("a/b").tags()


async def test_plain_http_realm_of_an_https_registry_is_refused(serve: Serve, http: HttpClient) -> None:
    server = TokenServer()
    host = await serve(server)
    auth = Authenticator("r.example", http, FixedCredential("r.example", Credential("a", "b")))
    with pytest.raises(Unauthorized, match="expected an https address"):
        await auth.renew([f'Bearer realm="http://{host}/token"'], SCOPE, None)
    assert server.requests == []


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"token":7}', '{"token":"a\\nb"}', '{"token":"a","expires_in":"x"}']
)
async def test_bad_token_answers(serve: Serve, http: HttpClient, body: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            return web.Response(text=body)
        header = f'Bearer realm="http://{request.host}/token"'
        return web.Response(status=401, headers={"WWW-Authenticate": header})

    with pytest.raises(Unreachable, match="holds no token"):
        await registry(await serve(handler), http).repository("a/b").tags()


async def test_basic(serve: Serve, http: HttpClient) -> None:
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        if seen[-1] != "Basic " + base64.b64encode(b"me:pw").decode():
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        return web.json_response({"tags": []})

    host = await serve(handler)
    repository = registry(host, http, FixedCredential(host, Credential("me", "pw"))).repository("a/b")
    await repository.tags()
    await repository.tags()
    assert [value is None for value in seen] == [True, False, False]
    for credentials in (None, FixedCredential(host, Credential("me", "wrong"))):
        with pytest.raises(Unauthorized, match="log in"):
            await registry(host, http, credentials).repository("a/b").tags()


async def test_a_password_is_looked_up_again_when_it_is_rejected_only(serve: Serve, http: HttpClient) -> None:
    good = ["old"]
    kept = ["old"]
    lookups: list[str] = []

    class Keeper:
        async def lookup(self, registry: str) -> Credential:
            lookups.append(registry)
            return Credential("me", kept[-1])

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Basic " + base64.b64encode(f"me:{good[-1]}".encode()).decode():
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        return web.json_response({"tags": []})

    host = await serve(handler)
    repository = registry(host, http, Keeper()).repository("a/b")
    for _ in range(3):
        await repository.tags()
    assert lookups == [host]
    good.append("new")
    kept.append("new")
    for _ in range(3):
        await repository.tags()
    assert lookups == [host] * 2
    good.append("newest")
    with pytest.raises(Unauthorized, match="401"):
        await repository.tags()


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (403, Unauthorized, "needs access"),
        (404, NotFound, "NAME_UNKNOWN no such thing"),
        (401, Unauthorized, "log in"),
    ],
)
async def test_refusals_are_named(
    serve: Serve, http: HttpClient, status: int, kind: type[Exception], says: str
) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        body = {
            "errors": [{"code": "NAME_UNKNOWN", "message": "no such\nthing" if status != 404 else "no such thing"}]
        }
        return web.json_response(body, status=status)

    with pytest.raises(kind, match=says) as caught:
        await registry(await serve(handler), http).repository("a/b").tags()
    assert len(str(caught.value).splitlines()) == 1
