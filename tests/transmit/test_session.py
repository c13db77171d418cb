"""Epochs, TOIs and when a session is worn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol.geometry import LinkProfile
from sender import session as session_module
from sender.journal import SenderJournal
from sender.session import Session
from tests.transmit.rig import ROOT, queued


def opened(epoch: int = 1) -> Session:
    return Session(
        epoch,
        Ed25519PrivateKey.generate(),
        [X25519PrivateKey.generate().public_key()],
        LinkProfile(1424),
        datagram_bytes=1472,
        datagrams_per_second=10_000,
        now=0.0,
        unix_now=1.0,
    )


def test_epochs_rise_strictly_across_connections(tmp_path: Path) -> None:
    seen = []
    for _ in range(4):
        journal = SenderJournal(tmp_path / "journal.sqlite")
        seen += [journal.next_epoch(), journal.next_epoch()]
        journal.close()
    assert seen == list(range(1, 9))


def test_an_epoch_is_durable_before_it_is_used(tmp_path: Path) -> None:
    """SIGKILL right after next_epoch returned: the next process must never get the same again."""
    path = tmp_path / "journal.sqlite"
    code = (
        "import os, signal, sys; from pathlib import Path; from sender.journal import SenderJournal\n"
        f"epoch = SenderJournal(Path({str(path)!r})).next_epoch()\n"
        "os.write(1, str(epoch).encode()); os.kill(os.getpid(), signal.SIGKILL)"
    )
    used = [
        int(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).stdout)
        for _ in range(3)
    ]
    assert used == [1, 2, 3]
    journal = SenderJournal(path)
    statements: list[str] = []
    journal.connection.set_trace_callback(statements.append)
    journal.next_epoch()
    told = [text for text in statements if "synchronous" in text or text in ("BEGIN IMMEDIATE", "COMMIT")]
    assert told == ["PRAGMA synchronous = FULL", "BEGIN IMMEDIATE", "COMMIT", "PRAGMA synchronous = NORMAL"]


def test_tois_are_given_once_and_found_by_digest() -> None:
    session = opened()
    first, second = session.entry_of(queued(7)), session.entry_of(queued(3))
    assert (first.toi, second.toi) == (1, 2)
    assert session.entry_of(queued(7)) is first
    assert session.toi_of(queued(3).digest) == 2
    assert session.toi_of("sha256:" + "0" * 64) == 0


def test_another_object_under_a_used_id_is_another_entry() -> None:
    session = opened()
    old, new = queued(5, 1000), queued(5, 2000, digest="sha256:" + "a" * 64, coded_digest="sha256:" + "a" * 64)
    assert session.entry_of(old).digest == old.digest
    assert session.entry_of(new).digest == new.digest
    assert session.entry_of(new).geometry.size == 2000
    assert session.entry_of(old).toi != session.entry_of(new).toi


def test_two_sessions_share_nothing_but_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = opened(1), opened(2)
    assert one.parameters.session_id != two.parameters.session_id
    assert not one.worn
    one.encoder.counters.source = session_module.SESSION_DATAGRAMS_MAX
    assert one.worn
    assert session_module.SESSION_DATAGRAMS_MAX <= 1 << 27
