"""``checkvalve-receiver units``: what the receiver's units need of its settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from receiver.config import ReceiverSettings
from receiver.publish_config import TargetSection
from runtime import dropins
from runtime.addresses import allow, literal
from runtime.dropins import DropIn, word, writable
from runtime.errors import UserError

COMMAND: Final = "checkvalve-receiver units"
STATE: Final = "/var/lib/checkvalve-receiver"
KEY: Final = "/etc/checkvalve/keys/receiver.pem"


def drop_ins(settings: ReceiverSettings, interface: str | None = None) -> list[DropIn]:
    """Return the drop-ins; UserError if listen.on is a name or a registry's name means nothing here."""
    state = Path(os.path.abspath(settings.state))
    return [_socket(settings, interface), _capture(settings, state), _publish(settings, state)]


def _socket(settings: ReceiverSettings, interface: str | None) -> DropIn:
    listen = settings.listen
    if literal(listen.on.host) is None:
        raise UserError(f"listen.on: {listen.on.host!r} is not an IP address; give e.g. 0.0.0.0:4000")
    lines = [
        "# listen.on, a port for each of listen.lanes",
        "ListenDatagram=",
        *(f"ListenDatagram={listen.on.lane(number)}" for number in range(listen.lanes)),
        "# listen.receive_buffer",
        f"ReceiveBuffer={listen.receive_buffer}",
    ]
    if interface is not None:
        lines += ["# --interface: no other one can bring datagrams", f"BindToDevice={word(interface)}"]
    return DropIn("checkvalve-capture.socket", [("Socket", lines)])


def _capture(settings: ReceiverSettings, state: Path) -> DropIn:
    lines = dropins.more_lanes(settings.listen.lanes)
    key = os.path.abspath(settings.hpke_key)
    if key != KEY:
        lines += ["# hpke_key", "LoadCredential=", f"LoadCredential=hpke_key:{word(key)}"]
    return DropIn("checkvalve-capture.service", [*writable([], state, STATE), ("Service", lines)])


def _publish(settings: ReceiverSettings, state: Path) -> DropIn:
    lines: list[str] = []
    folders: list[Path] = []
    for name, target in settings.publish.each().items():
        where = settings.publish.where(name)
        lines += _reach(target, where)
        places = [target.layout, target.images.path if target.images is not None else None]
        folders += [Path(os.path.abspath(place)) for place in places if place is not None]
    return DropIn("checkvalve-publish.service", [*writable(folders, state, STATE), ("Service", lines)])


def _reach(target: TargetSection, where: str) -> list[str]:
    lines: list[str] = []
    if target.registry is not None:
        lines += allow(urlsplit(target.registry.url).hostname or "", f"{where}.registry.url", COMMAND)
    if target.serve is not None:
        lines += [f"# {where}.serve.on", f"SocketBindAllow=tcp:{target.serve.on.port}"]
        if target.serve.on.host not in ("127.0.0.1", "::1", "localhost"):
            lines += ["# who pulls may be anywhere inside", "IPAddressAllow=any"]
    return lines
