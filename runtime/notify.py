"""Tells systemd how a service is (sd_notify(3)): ready, status, stopping, watchdog. Silent where nobody asked.

Everything is best effort: a service never fails because its supervisor does not listen.
"""

from __future__ import annotations

import os
import socket
import time

_said = ""
_fault: str | None = None


def ready() -> bool:
    """The service has started. Returns whether the message was handed over, as all functions here do."""
    return _send("READY=1")


def reloading() -> bool:
    """Settings are read again; ``ready`` ends that. The time is how systemd tells this from an older one."""
    return _send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def status(text: str) -> bool:
    """One line that ``systemctl status`` shows, after a fault that stands."""
    global _said  # noqa: PLW0603 - one process has one status
    _said = " ".join(text.split())
    return _send("STATUS=" + (f"{_fault} | {_said}" if _fault else _said))


def fault(text: str | None) -> bool:
    """What every status line begins with from now on, until None ends it."""
    global _fault  # noqa: PLW0603 - as above
    _fault = " ".join(text.split()) if text else None
    return status(_said)


def stopping() -> bool:
    """The service has begun to stop."""
    return _send("STOPPING=1")


def watchdog() -> bool:
    """The service is alive; to be sent more often than ``watchdog_interval_s``."""
    return _send("WATCHDOG=1")


def watchdog_interval_s() -> float | None:
    """How often to call ``watchdog``: half of the unit's WatchdogSec=, None where no watchdog is set."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6 or None


def _send(message: str) -> bool:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace, unix(7)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.connect(address)
            sock.sendall(message.encode())
    except OSError:
        return False
    return True
