"""The capture role: the diode's socket in, blobs and releases in the spool and journal out.

    diode ═▶ lane.py (link, protocol.Decoder) ─────┬▶ assemble.py (threads) ─▶ intake.py ─▶ spool, journal
    diode ═▶ lane_process.py ─▶ far_lane.py ───────┤  what of it is needed: wanted.py
                                                   └▶ ledger.py (thread) ─▶ journal: counters, beacons, status, alarms

The loop (capture_loop.py) only receives, decodes and hands over. It waits for no disk and no lock, with two
exceptions: the epoch of a new session has to be on disk before anything of that session counts; and while every block
buffer is on its way to disk, the kernel's buffer may hold what arrives for ROOM_S. Needs no network but its socket,
which systemd may open for it, and no registry credentials.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol.decoder import Decoder
from protocol.trust import Remembered, TrustedSenders
from receiver import handover, integrity
from receiver.capture_loop import Capture
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.lane import SWITCH_INTERVAL_S, Lane
from receiver.link import Link, open_sockets
from receiver.messages import Begin
from receiver.senders import trust
from runtime import keys, logs
from runtime.alone import alone
from runtime.credentials import credential
from runtime.reload import Reload
from runtime.signals import StopFlag
from runtime.threads import name_thread

FIXED: Final = ("state", "listen.on", "listen.lanes", "listen.receive_buffer")  # need a restart

log = structlog.get_logger()


def main(
    settings: ReceiverSettings, once: bool = False, *, read: Callable[[], ReceiverSettings] | None = None
) -> int:
    """Run the role until stopped (``once`` changes nothing here: publish knows when all is done).

    *read* gives newer settings when SIGHUP asks for them.
    """
    logs.configure(settings.logs.format, settings.logs.level)
    name_thread("capture")
    sys.setswitchinterval(SWITCH_INTERVAL_S)

    def read_checked() -> ReceiverSettings:
        assert read is not None
        found = read()
        trust(found)
        _private_key(found)
        return found

    reload = Reload(settings, read_checked if read is not None else None, FIXED)
    with alone(settings.state, "capture"), StopFlag() as stop, reload:
        sockets = open_sockets(settings.listen)  # first: from now on the kernel holds what arrives
        return reload.serve(lambda current: _run(current, sockets, stop, reload))


def _run(
    settings: ReceiverSettings, sockets: list[socket.socket], stop: StopFlag, reload: Reload[ReceiverSettings]
) -> int:
    private, trusted = _private_key(settings), trust(settings)
    listen, lanes = settings.listen, settings.listen.lanes
    link = Link(listen.on, listen.receive_buffer, gro=listen.gro, passed=sockets[0].dup())
    floor = integrity.begin(settings.journal, trusted)
    journal = ReceiverJournal(settings.journal)
    remembered = Remembered(epochs=dict(floor.marks.epochs))
    decoder = Decoder(trusted.senders, private, remembered, lane=0 if lanes > 1 else None)
    capture = Capture(settings, journal, Lane(link, decoder), trusted, remembered, floor)
    try:
        begins = [_begin(number, settings, private, trusted.senders, remembered) for number in range(1, lanes)]
        capture.start_lanes(begins, sockets[1:], stop)
        capture.take_over(handover.take(settings.state))
        host, port = link.address
        log.info(
            "listening",
            on=f"{host}:{port}",
            receive_buffer=link.receive_buffer,
            gro=link.gro,
            path=link.path,
            senders=len(trusted.senders.keys),
            lanes=lanes,
        )
        reload.started()
        return capture.run(stop, reload)
    finally:
        capture.close()


def _private_key(settings: ReceiverSettings) -> X25519PrivateKey:
    path = credential("hpke_key", settings.hpke_key)
    return keys.load_hpke_key(path, created_by=ReceiverSettings.created_by)


def _begin(
    lane: int,
    settings: ReceiverSettings,
    private: X25519PrivateKey,
    trusted: TrustedSenders,
    remembered: Remembered,
) -> Begin:
    """Return what the process of a further lane has to know."""
    return Begin(
        lane=lane,
        listen={**settings.listen.model_dump(), "on": str(settings.listen.on)},
        hpke_key=private.private_bytes_raw(),
        senders=[public.public_bytes_raw() for public in trusted.keys.values()],
        epochs=[(sender, *epoch) for sender, epoch in remembered.epochs.items()],
        log_format=settings.logs.format,
        log_level=settings.logs.level,
    )
