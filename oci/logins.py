"""Logins at upstream registries, for a process that lives long: passwords from files or variables, config.json anew.

Only the sender reaches upstream registries; the receiver's installation does not have this module.
"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from oci import limits
from oci.credentials import Credential, DockerConfig, config_path
from oci.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Login:
    """A user name, and the file or environment variable that holds its password, looked at whenever it is needed.

    *where* names the setting in errors. It is for whatever registry asks: give it to one only.
    """

    username: str
    where: str
    file: Path | None = None
    variable: str | None = None

    async def lookup(self, registry: str) -> Credential:
        """Return the credential; Misconfigured if the password is not there."""
        if self.file is not None:
            return Credential(self.username, await asyncio.to_thread(read_secret, self.file))
        password = os.environ.get(self.variable or "", "")
        if not password:
            raise Misconfigured(
                f"{self.where}: environment variable {self.variable} is not set; expected it to hold the password"
            )
        return Credential(self.username, password)


def read_secret(path: Path) -> str:
    """Return the line of text in *path*, without its end; Misconfigured if that is unusable or others may read it.

    A file that only group and owner may read is fine: systemd and container runtimes hand secrets over so.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            raw = file.read(limits.SECRET_BYTES_MAX + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}; expected a file that holds a secret") from None
    if not stat.S_ISREG(mode):
        raise Misconfigured(f"{path}: not a regular file; expected a file that holds a secret")
    if mode & stat.S_IRWXO:
        raise Misconfigured(
            f"{path}: mode is {stat.S_IMODE(mode):04o}, everyone could read this secret; run chmod o= {path}"
        )
    try:
        text = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or len(raw) > limits.SECRET_BYTES_MAX:
        raise Misconfigured(f"{path}: expected a secret in one line, of at most {limits.SECRET_BYTES_MAX:,} bytes")
    return text


class DockerConfigFile:
    """``config.json`` for a process that lives long: read again whenever the file has changed.

    *path* as for DockerConfig.load.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._config: DockerConfig | None = None

    async def lookup(self, registry: str) -> Credential | None:
        """Return the credential as the file now has it."""
        return await (await self.current()).lookup(registry)

    async def current(self) -> DockerConfig:
        """Return the file as it is now; Misconfigured as DockerConfig.load."""
        return await asyncio.to_thread(self._current)

    def _current(self) -> DockerConfig:
        try:
            found = config_path(self._path).stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            stamp = None
        if self._config is None or stamp != self._stamp:
            self._config = DockerConfig.load(self._path)
            self._stamp = stamp
        return self._config
