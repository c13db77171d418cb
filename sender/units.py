"""``checkvalve-sender units``: what the sender's units need of its settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from runtime import dropins
from runtime.addresses import literal
from runtime.dropins import DropIn, word, writable
from runtime.errors import UserError
from sender.config import SenderSettings

COMMAND: Final = "checkvalve-sender units"
STATE: Final = "/var/lib/checkvalve-sender"
KEY: Final = "/etc/checkvalve/keys/sender.pem"


def drop_ins(settings: SenderSettings) -> list[DropIn]:
    """Return the drop-ins; UserError if link.to is a name."""
    state = Path(os.path.abspath(settings.state))
    return [_fetch(settings, state), _transmit(settings, state)]


def _fetch(settings: SenderSettings, state: Path) -> DropIn:
    lines = [
        "# Registries, their token servers and the stores that they redirect to change addresses without notice.",
        "IPAddressAllow=any",
    ]
    if settings.webhook is not None:
        lines += ["# webhook.listen", f"SocketBindAllow=tcp:{settings.webhook.listen.port}"]
    lock = Path(os.path.abspath(settings.lock_file)).parent
    return DropIn("checkvalve-fetch.service", [*writable([lock], state, STATE), ("Service", lines)])


def _transmit(settings: SenderSettings, state: Path) -> DropIn:
    link = settings.link
    address = literal(link.to.host)
    if address is None:
        raise UserError(
            f"link.to: {link.to.host!r} is not an IP address; a diode has no DNS, give e.g. 10.0.0.1:4000"
        )
    lines = ["# link.to, and nothing else", f"IPAddressAllow={address}", *dropins.more_lanes(link.lanes)]
    key = os.path.abspath(settings.signing_key)
    if key != KEY:
        lines += ["# signing_key", "LoadCredential=", f"LoadCredential=signing_key:{word(key)}"]
    return DropIn("checkvalve-transmit.service", [*writable([], state, STATE), ("Service", lines)])
