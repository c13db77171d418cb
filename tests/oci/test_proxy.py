"""HTTP(S)_PROXY and NO_PROXY, through a proxy that is written here: CONNECT, absolute addresses, and a login."""

from __future__ import annotations

import asyncio
import base64
import datetime
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oci.client import Registry
from oci.errors import Unreachable
from oci.http import HttpClient, TlsOptions
from tests.oci.peers import Serve, free_port

LOGIN = "Basic " + base64.b64encode(b"me:s3cret").decode()


class Proxy:
    """Knows one name, ``registry.test``, and takes it to where the test's server is."""

    def __init__(self, target: str, login: str | None = None) -> None:
        self.target = target.rpartition(":")
        self.login = login
        self.lines: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.lines.append(head.partition("\r\n")[0])
            if self.login is not None and f"Proxy-Authorization: {self.login}" not in head:
                writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
                return
            peer_reader, peer_writer = await asyncio.open_connection(self.target[0], int(self.target[2]))
            if head.startswith("CONNECT registry.test:"):
                writer.write(b"HTTP/1.1 200 go on\r\n\r\n")
            else:
                peer_writer.write(head.replace("http://registry.test", "", 1).encode())
            await asyncio.gather(_pump(reader, peer_writer), _pump(peer_reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For registry.test, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry.test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("registry.test")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "registry.pem"
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(built.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
    return path


async def tags(_: web.Request) -> web.StreamResponse:
    return web.json_response({"tags": ["v1"]})


@pytest.fixture(params=["https", "http"])
async def proxied(
    request: pytest.FixtureRequest, serve: Serve, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Proxy, Registry]]:
    """A proxy that wants a login, and a registry behind it, whose name only the proxy knows."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server_tls = None
    if request.param == "https":
        server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_tls.load_cert_chain(certificate)
    proxy = Proxy(await serve(tags, server_tls), LOGIN)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv(f"{request.param.upper()}_PROXY", f"http://me:s3cret@127.0.0.1:{proxy.port}")

    async def nap(_: float) -> None:
        await asyncio.sleep(0)

    async with HttpClient(TlsOptions(ca_file=certificate), sleep=nap) as http:
        yield proxy, Registry("registry.test", http=http, plain_http=request.param == "http")
    server.close()


async def test_what_the_environment_says_is_gone_through(proxied: tuple[Proxy, Registry]) -> None:
    proxy, registry = proxied
    assert await registry.repository("a/b").tags() == ["v1"]
    assert proxy.lines in (
        ["CONNECT registry.test:443 HTTP/1.1"],
        ["GET http://registry.test/v2/a/b/tags/list?n=1000 HTTP/1.1"],
    )


@pytest.mark.parametrize("without", ["registry.test", ".test", "other.example,registry.test", "*"])
async def test_no_proxy_goes_past_it(
    proxied: tuple[Proxy, Registry], monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    proxy, registry = proxied
    monkeypatch.setenv("NO_PROXY", without)
    with pytest.raises(Unreachable, match=r"'registry\.test' not found"):
        await registry.repository("a/b").tags()
    assert proxy.lines == []


async def test_a_proxy_that_refuses_is_named_and_its_password_is_not(
    proxied: tuple[Proxy, Registry], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy, registry = proxied
    proxy.login = "Basic other"
    with pytest.raises(Exception, match="407") as caught:
        await registry.repository("a/b").tags()
    error: BaseException | None = caught.value
    said = caplog.text + str(error)
    while (error := error.__cause__ if error is not None else None) is not None:
        said += str(error) + repr(error)
    assert "s3cret" not in said
    assert LOGIN.split()[1] not in said


async def test_a_proxy_that_is_not_there(proxied: tuple[Proxy, Registry], monkeypatch: pytest.MonkeyPatch) -> None:
    _, registry = proxied
    port = free_port()
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://me:s3cret@127.0.0.1:{port}")
    with pytest.raises(
        Unreachable, match=rf"cannot connect to the proxy 127\.0\.0\.1:{port} .*HTTPS_PROXY"
    ) as caught:
        await registry.repository("a/b").tags()
    assert "s3cret" not in str(caught.value) + repr(caught.value.__cause__)


async def test_loopback_never_goes_through_a_proxy(
    proxied: tuple[Proxy, Registry], serve: Serve, http: HttpClient
) -> None:
    proxy, _ = proxied
    assert await Registry(await serve(tags), http=http, plain_http=True).repository("a/b").tags() == ["v1"]
    assert proxy.lines == []
