"""Releases that are refused where they come in: counted by name, and in the audit log once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.blobs import BlobStore
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.objects import Kind
from protocol.release import Content, Release, ReleaseImage, payload_of, seal_release
from protocol.trust import RequiredApprovals, TrustedSenders, key_id
from receiver.audit import Audit, Record
from receiver.config import ReceiverSettings
from receiver.intake import Intake
from receiver.journal import ReceiverJournal
from receiver.refusals import A_DAY_S, REFUSALS_MAX, Refusals
from receiver.senders import Allowed, Trust
from receiver.status import status
from runtime.settings import load_settings
from tests.capture.conftest import mouth, side, start
from tests.capture.rig import Cargo, Mouth, Side, Wire
from tests.support.content import digest_of
from tests.support.waits import wait_for

__all__ = ["mouth", "side", "start"]

SIGNER, SECOND = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def sealed(collection: str, *signers: Ed25519PrivateKey, sequence: int = 1) -> Cargo:
    root = Content("application/vnd.oci.image.manifest.v1+json", digest_of(b"root"), 4)
    images = (ReleaseImage("docker.io/library/demo", ("1",), root, ()),)
    previous = None if sequence == 1 else "sha256:" + "1" * 64
    payload = payload_of(Release(collection, sequence, previous, "2026-01-01T00:00:00Z", images))
    return Cargo(seal_release(payload, *signers), kind=Kind.RELEASE)


class Gate:
    """An intake with an audit log, at a time of our own."""

    def __init__(self, folder: Path, trust: Trust) -> None:
        self.now = 1.0
        self.journal = ReceiverJournal(folder / "journal.sqlite")
        self.audit = Audit(folder / "audit.jsonl", "capture")
        self.intake = Intake(
            BlobStore(folder / "spool"),
            self.journal,
            trust,
            ThreadPoolExecutor(1),
            now=lambda: self.now,
            refusals=Refusals(self.audit),
        )

    def refuses(self, cargo: Cargo) -> Drop:
        with pytest.raises(WireError) as caught:
            self.intake.take(cargo.entry(), cargo.coded)
        return caught.value.drop

    def takes(self, cargo: Cargo) -> bool:
        return self.intake.take(cargo.entry(), cargo.coded).release is not None

    def records(self) -> list[Record]:
        return list(self.audit.records()) if self.audit.path.exists() else []


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Callable[[Trust], Gate]]:
    made: list[Gate] = []

    def make(trust: Trust) -> Gate:
        made.append(Gate(tmp_path, trust))
        return made[-1]

    yield make
    for one in made:
        one.journal.close()


TRUST = Trust(TrustedSenders.of(SIGNER.public_key(), SECOND.public_key()))


def test_collections_by_glob_and_senders_by_collection(gate: Callable[[Trust], Gate]) -> None:
    first, second = (frozenset({key_id(key.public_key())}) for key in (SIGNER, SECOND))
    allowed = Allowed(("edge-*", "base"), {"edge-1": first, "*": second})
    door = gate(replace(TRUST, allowed=allowed))
    assert door.refuses(sealed("other", SIGNER, SECOND)) is Drop.COLLECTION_NOT_ALLOWED
    assert door.refuses(sealed("edge-1", SECOND)) is Drop.SENDER_NOT_ALLOWED
    assert door.refuses(sealed("edge-2", SIGNER)) is Drop.SENDER_NOT_ALLOWED
    assert door.journal.releases() == []
    assert door.takes(sealed("edge-1", SIGNER))
    assert door.takes(sealed("edge-2", SECOND))
    assert door.takes(sealed("base", SIGNER, SECOND))  # signed by both: one of them will do
    assert [(one.action, one.actor, one.reason.partition(":")[0]) for one in door.records()] == [
        ("release_refused", "capture", "collection_not_allowed"),
        ("release_refused", "capture", "sender_not_allowed"),
        ("release_refused", "capture", "sender_not_allowed"),
    ]


def test_every_way_to_refuse_a_release_is_recorded_once(gate: Callable[[Trust], Gate]) -> None:
    approver = Ed25519PrivateKey.generate()
    door = gate(replace(TRUST, approvals={"zone": RequiredApprovals.of(1, approver.public_key())}))
    unapproved, stranger = sealed("zone", SIGNER), sealed("default", approver)
    for _ in range(3):  # the carousel brings it again
        assert door.refuses(unapproved) is Drop.RELEASE_UNAPPROVED
        assert door.refuses(stranger) is Drop.RELEASE_UNTRUSTED
    assert door.takes(sealed("default", SIGNER, sequence=5))
    assert door.refuses(sealed("default", SIGNER, sequence=4)) is Drop.RELEASE_ROLLED_BACK
    assert [one.object for one in door.records()[:2]] == [unapproved.entry().digest, stranger.entry().digest]
    assert [one.reason.partition(":")[0] for one in door.records()] == [
        "release_unapproved",
        "release_untrusted",
        "release_rolled_back",
    ]


def test_a_sender_gone_bad_does_not_fill_the_disk(gate: Callable[[Trust], Gate]) -> None:
    door = gate(replace(TRUST, allowed=Allowed(("none",))))
    for number in range(1, REFUSALS_MAX + 20):
        door.refuses(sealed("default", SIGNER, sequence=number))
    assert len(door.records()) == REFUSALS_MAX
    door.now += A_DAY_S + 1
    door.refuses(sealed("default", SIGNER, sequence=900))
    assert len(door.records()) == REFUSALS_MAX + 1


def test_a_damaged_log_stops_no_reception(gate: Callable[[Trust], Gate], tmp_path: Path) -> None:
    door = gate(replace(TRUST, allowed=Allowed(("edge",))))
    (tmp_path / "audit.jsonl").write_text("not ours\n")
    assert door.refuses(sealed("default", SIGNER)) is Drop.COLLECTION_NOT_ALLOWED
    assert door.takes(sealed("edge", SIGNER))


def test_the_role_counts_it_and_status_raises_the_alarm(
    side: Side, start: Callable[[], subprocess.Popen[bytes]], mouth: Mouth, capsys: pytest.CaptureFixture[str]
) -> None:
    side.config.write_text(side.config.read_text() + "border: {collections: [edge]}\n")
    start()
    mouth.say(Wire(side).send([sealed("default", side.signer), sealed("edge", side.signer)]))
    wait_for(lambda: [row.collection for row in side.journal().releases()] == ["edge"])

    def shown() -> dict[str, Any]:
        status(load_settings(side.config, ReceiverSettings), as_json=True)
        return dict(json.loads(capsys.readouterr().out))

    wait_for(lambda: shown()["link"]["drops"].get("collection_not_allowed") == 1)
    alarms = [(each["code"], each["text"]) for each in shown()["alarms"] if "collection" in each["text"]]
    assert alarms == [("release_not_allowed", "releases were refused as collection_not_allowed (1)")]
    (record,) = Audit(side.state / "audit.jsonl").records()
    assert record.reason.startswith("collection_not_allowed: collection default: border.collections allows edge")
