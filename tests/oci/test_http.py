from __future__ import annotations

import asyncio
import datetime
import ipaddress
import random
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from oci import limits
from oci.errors import Misconfigured, TooLarge, Unreachable
from oci.http import Call, HttpClient, TlsOptions
from tests.oci.peers import Serve, free_port


def get(url: str, **more: object) -> Call:
    return Call("GET", URL(url), "r.example/app: thing", **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        built.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def fine(_: web.Request) -> web.StreamResponse:
    return web.Response(text="fine")


async def test_redirect_to_another_host_drops_authorization_for_good(serve: Serve, http: HttpClient) -> None:
    seen: list[tuple[str, str | None]] = []
    hosts: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, request.headers.get("Authorization")))
        targets = {"/a": "/b", "/b": f"http://{hosts[1]}/c", "/c": f"http://{hosts[0]}/d"}
        if request.path in targets:
            return web.Response(status=307, headers={"Location": targets[request.path]})
        return web.Response(text="end")

    hosts += [await serve(handler), await serve(handler)]
    reply = await http.fetch(get(f"http://{hosts[0]}/a", authorization="Bearer t"), 100)
    assert (reply.body, reply.url.path) == (b"end", "/d")
    assert seen == [("/a", "Bearer t"), ("/b", "Bearer t"), ("/c", None), ("/d", None)]


async def test_signed_query_survives_a_redirect_unchanged(serve: Serve, http: HttpClient) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.raw_path)
        if len(seen) == 1:
            return web.Response(status=302, headers={"Location": "/x%2Fy?sig=a%2Bb%3D&e=c+d"})
        return web.Response()

    await http.fetch(get(f"http://{await serve(handler)}/"), 100)
    assert seen[1] == "/x%2Fy?sig=a%2Bb%3D&e=c+d"


async def test_https_is_never_left(serve: Serve, server_tls: ssl.SSLContext, certificate: Path) -> None:
    asked: list[str] = []

    async def plain(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response()

    target = await serve(plain)

    async def secure(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": f"http://{target}/x"})

    host = await serve(secure, server_tls)
    async with HttpClient(TlsOptions(ca_file=certificate)) as client:
        with pytest.raises(Unreachable, match="from https to http"):
            await client.fetch(get(f"https://{host}/"), 100)
    assert asked == []


@pytest.mark.parametrize("location", ["ftp://x/y", "file:///etc/passwd", "http://u:p@127.0.0.1/", "http://["])
async def test_odd_redirects_are_refused(serve: Serve, http: HttpClient, location: str) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=301, headers={"Location": location})

    with pytest.raises(Unreachable, match="expected an http"):
        await http.fetch(get(f"http://{await serve(handler)}/"), 100)


async def test_redirects_end(serve: Serve, http: HttpClient, naps: list[float]) -> None:
    count = 0

    async def handler(_: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        return web.Response(status=302, headers={"Location": f"/{count}"})

    with pytest.raises(Unreachable, match="redirects"):
        await http.fetch(get(f"http://{await serve(handler)}/"), 100)
    assert count == limits.REDIRECTS_MAX + 1
    assert naps == []


async def test_untrusted_certificate_is_named_and_not_retried(
    serve: Serve, http: HttpClient, server_tls: ssl.SSLContext, naps: list[float]
) -> None:
    host = await serve(fine, server_tls)
    with pytest.raises(Unreachable, match=r"certificate of .* is not trusted .* ca_file"):
        await http.fetch(get(f"https://{host}/"), 100)
    assert naps == []


async def test_own_ca_is_trusted(serve: Serve, server_tls: ssl.SSLContext, certificate: Path) -> None:
    host = await serve(fine, server_tls)
    async with HttpClient(TlsOptions(ca_file=certificate)) as client:
        assert (await client.fetch(get(f"https://{host}/"), 100)).body == b"fine"


async def test_tls_towards_a_plain_server_names_plain_http(serve: Serve, http: HttpClient, naps: list[float]) -> None:
    with pytest.raises(Unreachable, match="set plain_http"):
        await http.fetch(get(f"https://{await serve(fine)}/"), 100)
    assert naps == []


def test_unusable_ca_file(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    for name in ("absent", "junk"):
        with pytest.raises(Misconfigured, match=f"{name}.*PEM"):
            HttpClient(TlsOptions(ca_file=tmp_path / name))
        with pytest.raises(Misconfigured, match=f"{name}.*PEM"):
            HttpClient(TlsOptions(client_cert=tmp_path / name))


async def test_client_certificate_is_shown(serve: Serve, server_tls: ssl.SSLContext, certificate: Path) -> None:
    server_tls.verify_mode = ssl.CERT_REQUIRED
    server_tls.load_verify_locations(certificate)
    host = await serve(fine, server_tls)
    async with HttpClient(TlsOptions(ca_file=certificate, client_cert=certificate)) as client:
        assert (await client.fetch(get(f"https://{host}/"), 100)).body == b"fine"


async def test_refused_connection_is_retried_then_named(http: HttpClient, naps: list[float]) -> None:
    with pytest.raises(Unreachable, match=r"cannot connect to 127\.0\.0\.1"):
        await http.fetch(get(f"http://127.0.0.1:{free_port()}/"), 100)
    assert len(naps) == limits.RETRIES_MAX
    for attempt, slept in enumerate(naps):
        ceiling = limits.BACKOFF_SECONDS_BASE * 2**attempt
        assert ceiling / 2 <= slept <= ceiling


async def test_backoff_is_jittered(naps: list[float]) -> None:
    async def nap(seconds: float) -> None:
        naps.append(seconds)

    for seed in range(20):
        await HttpClient(sleep=nap, rng=random.Random(seed)).backoff(0, None)
    assert len(set(naps)) == 20


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_retry_after_is_honoured(serve: Serve, http: HttpClient, naps: list[float], status: int) -> None:
    count = 0

    async def handler(_: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        if count < 3:
            return web.Response(status=status, headers={"Retry-After": "7"})
        return web.Response(text="ok")

    assert (await http.fetch(get(f"http://{await serve(handler)}/"), 100)).body == b"ok"
    assert len(naps) == 2
    assert all(7 < slept < 8 for slept in naps)


async def test_retry_after_as_a_date_counts_from_the_servers_clock(
    serve: Serve, http: HttpClient, naps: list[float]
) -> None:
    count = 0

    async def handler(_: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        if count > 1:
            return web.Response(text="ok")
        dates = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}
        return web.Response(status=503, headers=dates)

    await http.fetch(get(f"http://{await serve(handler)}/"), 100)
    assert 30 < naps[0] < 31


async def test_a_long_wait_is_the_callers_to_plan(serve: Serve, http: HttpClient, naps: list[float]) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        headers = {"Retry-After": "3600", "ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"}
        return web.Response(status=429, headers=headers)

    with pytest.raises(Unreachable, match=r"429, asks to wait 3600 s, 0;w=21600 of 100") as caught:
        await http.fetch(get(f"http://{await serve(handler)}/"), 100)
    assert caught.value.retry_after_seconds == 3600
    assert naps == []


async def test_reset_connection_is_retried(serve: Serve, http: HttpClient, naps: list[float]) -> None:
    count = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        if count == 1:
            assert request.transport is not None
            request.transport.abort()
        if count == 2:  # the headers arrive, the body does not
            answer = web.StreamResponse(headers={"Content-Length": "2"})
            await answer.prepare(request)
            assert request.transport is not None
            request.transport.abort()
            return answer
        return web.Response(text="ok")

    assert (await http.fetch(get(f"http://{await serve(handler)}/"), 100)).body == b"ok"
    assert count == 3
    assert naps


@pytest.mark.parametrize("announced", [True, False])
async def test_bodies_are_bounded(serve: Serve, http: HttpClient, announced: bool) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(1 << 40)} if announced else {})
        await answer.prepare(request)
        try:
            while not announced:
                await answer.write(b"x" * 65536)
        except ConnectionError:
            pass
        return answer

    with pytest.raises(TooLarge, match="at most"):
        await http.fetch(get(f"http://{await serve(handler)}/"), 1_000_000)


async def test_body_of_a_refusal_is_cut(serve: Serve, http: HttpClient) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404, body=b"x" * 1_000_000)

    reply = await http.fetch(get(f"http://{await serve(handler)}/"), 10)
    assert (reply.status, len(reply.body)) == (404, limits.ERROR_BODY_BYTES_MAX)


async def test_silence_ends(serve: Serve, naps: list[float]) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "2"})
        await answer.prepare(request)
        await answer.write(b"x")
        await request.content.read()
        await asyncio.sleep(3)
        return answer

    async with HttpClient(idle_seconds=0.2) as client:
        with pytest.raises(Unreachable, match="in time"):
            await client.fetch(get(f"http://{await serve(handler)}/", retries=0), 10)
