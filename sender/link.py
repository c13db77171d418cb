"""The UDP socket towards the diode: sends bursts of equal datagrams, by GSO where the kernel has it.

Three paths, the first that works here: ``UDP_SEGMENT`` (udp(7), Linux 4.18) cuts one send into datagrams;
``sendmmsg`` takes many datagrams in a call; plain sends take one. What works is tried on loopback at the start, and
where the device refuses later, the next path takes over. Nothing is ever received: no socket option here asks for an
answer.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from typing import Final, Literal

import structlog

from protocol.wire import datagram_bytes_for_mtu
from runtime.errors import UserError
from runtime.mmsg import SendVector
from runtime.offload import SOL_UDP, UDP_SEGMENT, Trial, try_gso, try_sendmmsg
from runtime.units import HostPort

Path = Literal["gso", "sendmmsg", "plain"]
IP_MTU_DISCOVER: Final = 10
IP_PMTUDISC_PROBE: Final = 3
IPV6_MTU_DISCOVER: Final = 23
SEND_BUFFER_BYTES: Final = 4 * 1024 * 1024
_NO_GSO: Final = frozenset({errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE})
# a kernel or sandbox without the call; EPERM is not among them: a firewall says so too
_NO_SENDMMSG: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_LINK_DOWN: Final = frozenset(
    {
        errno.EAGAIN,  # the device has taken nothing for SEND_WAIT_S
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EPERM,
        errno.EADDRNOTAVAIL,
    }
)
SEND_WAIT_S: Final = 0.2

log = structlog.get_logger()


class Link:
    """A connected UDP socket. Use from one thread.

    *gso*: ``auto`` (or True) takes the best path, ``mmsg`` the best without GSO, ``off`` (or False) plain sends.
    ``path`` says which is in use.
    """

    def __init__(
        self,
        to: HostPort,
        mtu: int,
        *,
        gso: bool | Literal["auto", "mmsg", "off"] = "auto",
        interface: str | None = None,
    ) -> None:
        self.to = to
        self.ip_version = 6 if to.family == socket.AF_INET6 else 4
        self.header_bytes = 48 if self.ip_version == 6 else 28
        self.datagram_bytes = datagram_bytes_for_mtu(mtu, 40 if self.ip_version == 6 else 20)
        self.failures = 0  # sends that the interface refused
        self.down = False
        self._sent = 0  # bytes of a burst that have left
        try:
            family, _, _, _, address = socket.getaddrinfo(
                to.host, to.port, to.family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST
            )[0]
        except socket.gaierror:
            raise UserError(
                f"link.to: {to.host!r} is not an IP address; a diode has no DNS, give e.g. 10.0.0.1:4000"
            ) from None
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        timeout = struct.pack("@ll", 0, int(SEND_WAIT_S * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        if self.ip_version == 4:  # never fragment: one lost fragment would cost the whole datagram
            self._socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        if interface is not None:
            self._bind_to(interface)
        try:
            self._socket.connect(address)
        except OSError as error:
            raise UserError(
                f"link.to: no route to {to}: {error.strerror}; check the interface and its routes"
            ) from None
        self._vector = SendVector(self.datagram_bytes)
        self.path: Path = "plain"
        if gso in (True, "auto") and self._enable_gso():
            self.path = "gso"
        elif gso not in (False, "off"):
            self._without_gso()

    def _bind_to(self, interface: str) -> None:
        """Leave by *interface* or not at all (socket(7), SO_BINDTODEVICE; free for all since Linux 5.7)."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        except PermissionError:
            raise UserError(
                f"link.interface: {interface}: this kernel wants CAP_NET_RAW for it; leave it out"
            ) from None
        except OSError as error:
            raise UserError(
                f"link.interface: {interface}: {error.strerror}; `ls /sys/class/net` shows what there is"
            ) from None

    @property
    def gso(self) -> bool:
        """Whether the kernel cuts bursts into datagrams."""
        return self.path == "gso"

    def _enable_gso(self) -> bool:
        trial = try_gso()
        try:
            if trial.works is not False:  # untold, without loopback: the first send will show
                self._socket.setsockopt(SOL_UDP, UDP_SEGMENT, self.datagram_bytes)
        except OSError as error:
            trial = Trial(False, str(error.strerror))
        if trial.works is False:
            log.info("gso_off", reason=trial.reason)
        return trial.works is not False

    def _without_gso(self) -> None:
        trial = try_sendmmsg()
        self.path = "plain" if trial.works is False else "sendmmsg"
        if trial.works is False:
            log.info("sendmmsg_off", reason=trial.reason, path=self.path)

    def _disable_gso(self, reason: OSError) -> None:
        self._socket.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
        self._without_gso()
        log.info("gso_off", reason=reason.strerror, path=self.path)

    def send(self, burst: memoryview) -> bool:
        """Send a burst of whole datagrams; False if the interface is down: call again with the same burst.

        UserError if datagrams of this size do not fit the interface. Waits at most about SEND_WAIT_S.
        """
        while self._sent < len(burst):
            try:
                count = self._send_some(burst)
            except OSError as error:
                if self.path == "gso" and error.errno in _NO_GSO:
                    self._disable_gso(error)
                elif self.path == "sendmmsg" and error.errno in _NO_SENDMMSG:
                    log.info("sendmmsg_off", reason=error.strerror, path="plain")
                    self.path = "plain"
                elif error.errno == errno.EMSGSIZE:
                    raise UserError(
                        f"link.mtu: a datagram of {self.datagram_bytes + self.header_bytes} bytes does not fit the"
                        f" interface towards {self.to}; lower link.mtu or raise the interface's MTU"
                    ) from None
                else:
                    raise
                continue
            if not count:
                return False
            self._sent += count
        self._sent = 0
        return True

    def _send_some(self, burst: memoryview) -> int:
        """Send what is left of the burst, or some of it; return the bytes that left, 0 if none can now."""
        deadline: float | None = None
        while True:
            try:
                count = self._call(burst)
            except (ConnectionRefusedError, InterruptedError):
                continue  # refused: an ICMP answer to an earlier datagram, on loopback; nothing was sent
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    deadline = deadline or time.monotonic() + SEND_WAIT_S
                    if time.monotonic() < deadline:
                        time.sleep(0.001)
                        continue
                elif error.errno not in _LINK_DOWN:
                    raise
                self.failures += 1
                if not self.down:
                    log.warning("link_down", to=str(self.to), error=error.strerror)
                    self.down = True
                return 0
            if self.down:
                log.info("link_up", to=str(self.to))
                self.down = False
            return count

    def _call(self, burst: memoryview) -> int:
        """One system call by the path in use; return the bytes that left."""
        if self.path == "sendmmsg":
            return self._vector.send(self._socket.fileno(), burst, self._sent)
        most = len(burst) if self.path == "gso" else self.datagram_bytes
        return self._socket.send(burst[self._sent : self._sent + most])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
