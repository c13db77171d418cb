"""Tells systemd how a service is (sd_notify(3)): ready, status, stopping, watchdog. Silent where nobody asked.

Everything is best effort: a service never fails because its supervisor does not listen.
"""

from __future__ import annotations

import os
import socket


def ready() -> bool:
    """The service has started. Returns whether the message was handed over, as all functions here do."""
    return _send("READY=1")


def status(text: str) -> bool:
    """One line that ``systemctl status`` shows."""
    return _send("STATUS=" + " ".join(text.split()))


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
