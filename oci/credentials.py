"""Credentials: docker's ``config.json``, and the ``docker-credential-*`` helpers it names.

Knows files and helpers, nothing of HTTP. Secrets never show in ``repr`` and never reach an argument list.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from oci import limits
from oci.errors import Misconfigured
from oci.reference import DOCKER_HUB

_HUB_KEY: Final = "https://index.docker.io/v1/"  # docker's historic key for Docker Hub
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name with password, or an OAuth2 identity (refresh) token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)


class CredentialSource(Protocol):
    """Where a registry's credential comes from."""

    async def lookup(self, registry: str) -> Credential | None:
        """Return the credential for ``host[:port]``, None for anonymous; Misconfigured if the source is unusable."""
        ...


class Anonymous:
    """No credentials for anyone."""

    async def lookup(self, registry: str) -> Credential | None:
        """Return None."""
        return None


@dataclass(frozen=True, slots=True)
class FixedCredential:
    """One credential, for one registry only."""

    registry: str
    credential: Credential

    async def lookup(self, registry: str) -> Credential | None:
        """Return the credential if *registry* is the one it belongs to."""
        return self.credential if registry == self.registry else None


def config_path(path: Path | None) -> Path:
    """Return *path*, else where docker keeps ``config.json``: ``$DOCKER_CONFIG``, else ``~/.docker``."""
    return path or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


class DockerConfig:
    """The file ``config.json`` of the docker client, read once."""

    def __init__(self, document: dict[str, Any], origin: str = "config.json") -> None:
        self._origin = origin
        self._auths = self._table(document, "auths")
        self._helpers = self._table(document, "credHelpers")
        store = document.get("credsStore")
        if store is not None and not isinstance(store, str):
            raise Misconfigured(f"{origin}: credsStore: expected the name of a helper, such as 'pass'")
        self._store: str | None = store or None

    def __repr__(self) -> str:
        return f"DockerConfig({self._origin!r})"

    @classmethod
    def load(cls, path: Path | None = None) -> DockerConfig:
        """Read *path*, else ``$DOCKER_CONFIG/config.json``, else ``~/.docker/config.json``.

        A default file that does not exist means anonymous; an explicit *path* must exist (Misconfigured).
        """
        explicit = path is not None
        path = config_path(path)
        try:
            with path.open("rb") as file:
                raw = file.read(limits.CONFIG_BYTES_MAX + 1)
        except FileNotFoundError:
            if not explicit:
                return cls({}, str(path))
            raise Misconfigured(f"{path}: no such file; expected docker's config.json") from None
        except OSError as error:
            raise Misconfigured(f"{path}: {error.strerror}; expected a readable docker config.json") from None
        if len(raw) > limits.CONFIG_BYTES_MAX:
            raise Misconfigured(f"{path}: more than {limits.CONFIG_BYTES_MAX:,} bytes; expected docker's config.json")
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            raise Misconfigured(f"{path}: not JSON; expected docker's config.json") from None
        if not isinstance(document, dict):
            raise Misconfigured(f"{path}: expected a JSON object, as docker's config.json is")
        return cls(document, str(path))

    async def lookup(self, registry: str) -> Credential | None:
        """Return the credential for *registry*: its own helper first, then the common store, then ``auths``."""
        keys = [_HUB_KEY, DOCKER_HUB] if registry == DOCKER_HUB else [registry]
        for key in keys:
            helper = self._helpers.get(key)
            if isinstance(helper, str):
                return await self._ask_helper(helper, key)
        if self._store is not None:
            for key in keys:
                found = await self._ask_helper(self._store, key)
                if found is not None:
                    return found
        wanted = {_host_of(key) for key in keys}
        for key, entry in self._auths.items():
            if _host_of(key) in wanted and isinstance(entry, dict):
                found = self._from_entry(key, entry)
                if found is not None:
                    return found
        return None

    def _table(self, document: dict[str, Any], key: str) -> dict[str, Any]:
        value = document.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise Misconfigured(f"{self._origin}: {key}: expected an object by registry")
        return value

    def _from_entry(self, key: str, entry: dict[str, Any]) -> Credential | None:
        texts = {name: entry.get(name) or "" for name in ("auth", "username", "password", "identitytoken")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise Misconfigured(f"{self._origin}: auths[{key!r}]: expected texts")
        username, password = texts["username"], texts["password"]
        if texts["auth"]:
            try:
                plain = base64.b64decode(texts["auth"], validate=True).decode("utf-8")
            except (binascii.Error, ValueError):
                plain = ""
            username, colon, password = plain.partition(":")
            if not colon:
                raise Misconfigured(f"{self._origin}: auths[{key!r}].auth: expected base64 of 'user:password'")
            password = password.rstrip("\0")  # docker pads old entries
        if texts["identitytoken"]:
            return Credential(username, "", texts["identitytoken"])
        return Credential(username, password) if username or password else None

    async def _ask_helper(self, name: str, key: str) -> Credential | None:
        """Run ``docker-credential-<name> get`` with the registry on its standard input."""
        where = f"{self._origin}: credential helper {name!r}"
        if _HELPER.match(name) is None:
            raise Misconfigured(f"{where}: expected a name such as 'pass' or 'ecr-login'")
        program = f"docker-credential-{name}"
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                "get",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise Misconfigured(f"{where}: cannot run {program} ({error.strerror}); is it in PATH?") from None
        try:
            async with asyncio.timeout(limits.HELPER_SECONDS_MAX):
                output = await _converse(process, key.encode())
        except TimeoutError:
            raise Misconfigured(f"{where}: no answer within {limits.HELPER_SECONDS_MAX:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            if b"credentials not found" in output:
                return None
            raise Misconfigured(f"{where}: {program} get failed with exit code {process.returncode} for {key}")
        return self._from_helper(where, output)

    def _from_helper(self, where: str, output: bytes) -> Credential:
        try:
            document = json.loads(output)
        except (ValueError, RecursionError):
            document = None
        user = document.get("Username") if isinstance(document, dict) else None
        secret = document.get("Secret") if isinstance(document, dict) else None
        if not isinstance(user, str) or not isinstance(secret, str):
            raise Misconfigured(f"{where}: expected JSON with Username and Secret")
        return Credential("", "", secret) if user == "<token>" else Credential(user, secret)


async def _converse(process: asyncio.subprocess.Process, question: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(question)
        await process.stdin.drain()
        process.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it answered without reading; its exit code decides
    output = b""
    while len(output) <= limits.TOKEN_BODY_BYTES_MAX and (part := await process.stdout.read(65536)):
        output += part
    if len(output) > limits.TOKEN_BODY_BYTES_MAX:
        process.kill()
    await process.wait()
    return output


def _host_of(key: str) -> str:
    """Reduce a key of ``auths`` to ``host[:port]``; docker also wrote URLs there."""
    return key.partition("://")[2].partition("/")[0].lower() if "://" in key else key.rstrip("/").lower()
