"""The transmit role: signs releases, opens a session and keeps the wire busy at the link's rate.

    journal ─▶ releases.py ─▶ schedule.py ─▶ dispatch.py ─▶ lane.py ═▶ diode
                                                       └──▶ far_lane.py ─▶ lane_process.py ═▶ diode

One thread (transmit_loop.py) decides what goes next and drives lane 0. The journal is looked at a few times a second,
in short transactions; while it is locked or its disk is full, the wire goes on with what is known. Holds the signing
key; needs no network but the diode's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from protocol.geometry import LinkProfile, profile_for_link
from protocol.wire import symbol_bytes
from runtime import keys, logs
from runtime.credentials import credential
from runtime.durable import remove_leftovers
from runtime.reload import Reload
from runtime.signals import StopFlag
from runtime.threads import name_thread
from sender.alone import alone
from sender.config import SenderSettings
from sender.journal import SenderJournal
from sender.lane import Lane
from sender.link import Link
from sender.session import Session
from sender.transmit_loop import Transmitter

log = structlog.get_logger()


def main(
    settings: SenderSettings,
    once: bool = False,
    round_token: str | None = None,
    *,
    read: Callable[[], SenderSettings] | None = None,
) -> int:
    """Run the role until stopped; with *once*, until the fetch round *round_token* is over and all was sent.

    *read* gives newer settings when SIGHUP asks for them; then a session of its own begins.
    """
    logs.configure(settings.logs.format, settings.logs.level)
    name_thread("transmit")

    def read_checked() -> SenderSettings:
        assert read is not None
        found = read()
        _keys(found)
        return found

    reload = Reload(settings, read_checked if read is not None and not once else None, ("state",))
    with alone(settings, "transmit"), StopFlag() as stop, reload:
        remove_leftovers(settings.coded)
        return reload.serve(lambda current: _run(current, once, round_token, stop, reload))


def _keys(settings: SenderSettings) -> tuple[Ed25519PrivateKey, list[X25519PublicKey]]:
    """Return the key that signs, and those of the receivers."""
    path = credential("signing_key", settings.signing_key)
    signer = keys.load_signing_key(path, created_by=SenderSettings.created_by)
    return signer, [keys.load_hpke_public(each, created_by="checkvalve-receiver init") for each in settings.receivers]


def _run(
    settings: SenderSettings, once: bool, round_token: str | None, stop: StopFlag, reload: Reload[SenderSettings]
) -> int:
    signer, receivers = _keys(settings)
    journal = SenderJournal(settings.journal)
    lane = Lane(settings.link)
    link, datagrams_per_second = lane.link, _lane_datagrams_per_second(settings, lane.link)
    profile = link_profile(settings, link)
    survived = profile.outage / datagrams_per_second
    if survived < settings.link.outage * 0.99:
        log.warning(
            "outage_beyond_one_pass",
            wanted_ms=round(settings.link.outage * 1000, 1),
            survived_ms=round(survived * 1000, 1),
            mend="raise link.repair, or leave longer outages to further passes",
        )

    def open_session() -> Session:
        session = Session(
            journal.next_epoch(),
            signer,
            receivers,
            profile,
            datagram_bytes=link.datagram_bytes,
            datagrams_per_second=datagrams_per_second,
            now=time.monotonic(),
            unix_now=time.time(),
            lanes=settings.link.lanes,
        )
        log.info(
            "session_opened",
            epoch=session.parameters.epoch,
            to=str(settings.link.to),
            lanes=settings.link.lanes,
            datagram_bytes=link.datagram_bytes,
            k=profile.k,
            m=profile.m,
            depth=profile.depth,
            gso=link.gso,
            path=link.path,
        )
        return session

    transmitter = Transmitter(settings, journal, lane, open_session, signer, once=once, round_token=round_token)
    try:
        return transmitter.run(stop, reload)
    finally:
        transmitter.close()


def link_profile(settings: SenderSettings, link: Link) -> LinkProfile:
    """Return the geometry parameters for the configured link; an outage takes a lane's share from each lane."""
    return profile_for_link(
        symbol_bytes(link.datagram_bytes),
        _lane_datagrams_per_second(settings, link),
        settings.link.repair,
        settings.link.outage,
    )


def _lane_datagrams_per_second(settings: SenderSettings, link: Link) -> float:
    return settings.link.lane_rate / 8 / (link.datagram_bytes + link.header_bytes)
