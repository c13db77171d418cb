"""Our own misuse raises ProtocolMisuse; what the peer sends wrong is a WireError with a named drop reason."""

from __future__ import annotations

from protocol.drops import Drop


class ProtocolMisuse(Exception):
    """The caller broke this package's contract; a bug on our side of the wire."""


class WireError(Exception):
    """Received bytes break a rule of WIRE_FORMAT.md. Caught inside the decoder and counted, never shown raw."""

    def __init__(self, drop: Drop, detail: str) -> None:
        super().__init__(f"{drop.value}: {detail}")
        self.drop = drop
        self.detail = detail
