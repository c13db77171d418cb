"""Starts a role as systemd does: with its sockets, credentials and a place to notify, and hears what it says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.waits import wait_for

ROOT = Path(__file__).resolve().parents[2]
SO_RCVBUFFORCE = 33
FIRST_FD = 3


class Service:
    """One unit; *arguments* are module and command line, *sockets* stay open while the service is down."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        sockets: Sequence[socket.socket] = (),
        credentials: bool = False,
    ) -> None:
        self._arguments = [sys.executable, "-P", "-m", *arguments]
        self._sockets = list(sockets)
        self._credentials = folder / "credentials"
        self._log = folder / "service.log"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))
        self._notify.setblocking(False)
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(folder / "notify")}
        if credentials:
            self._credentials.mkdir(mode=0o700)
            self._environment["CREDENTIALS_DIRECTORY"] = str(self._credentials)
        self.said: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def credential(self, key: str, content: bytes) -> None:
        path = self._credentials / key
        path.write_bytes(content)
        path.chmod(0o400)

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and wait for nothing."""

        def pass_sockets() -> None:
            for number, each in enumerate(self._sockets):
                os.dup2(each.fileno(), FIRST_FD + number)

        command, environment = self._arguments, dict(self._environment)
        if self._sockets:
            command = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *command]
            environment["LISTEN_FDS"] = str(len(self._sockets))
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=pass_sockets if self._sockets else None,
                pass_fds=range(FIRST_FD, FIRST_FD + len(self._sockets)),
            )
        return self.process

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        before = self.said.count("READY=1")
        process = self.launch()
        wait_for(lambda: self.hear().count("READY=1") > before or process.poll() is not None, 20)
        assert process.poll() is None, self.log

    def hear(self) -> list[str]:
        """All lines that it has said by now."""
        while True:
            try:
                self.said += self._notify.recv(65_536).decode().splitlines()
            except BlockingIOError:
                return self.said

    @property
    def status(self) -> str:
        """Its newest status line."""
        return next((line[7:] for line in reversed(self.hear()) if line.startswith("STATUS=")), "")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def reload(self) -> None:
        """SIGHUP, and wait until it is ready again."""
        assert self.process is not None
        before = self.hear().count("READY=1")
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.hear().count("READY=1") > before or self.process.poll() is not None, 20)  # type: ignore[union-attr]
        assert self.process.poll() is None, self.log

    def stop(self, within: float = 5.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for each in (*self._sockets, self._notify):
            each.close()


def udp_socket(port: int, receive_buffer: int) -> socket.socket:
    """A bound socket as ReceiveBuffer= makes it."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE if os.geteuid() == 0 else socket.SO_RCVBUF, receive_buffer)
    made.bind(("127.0.0.1", port))
    return made
