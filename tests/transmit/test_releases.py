"""From proposals to signed releases and their objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.coding import decompress
from protocol.objects import Coding, Kind
from protocol.release import open_release
from protocol.trust import TrustedSenders
from sender.decisions import Decisions
from sender.journal import SenderJournal
from sender.releases import Signer, desired_contents, queue_release
from tests.support.content import digest_of
from tests.transmit.rig import images_of

SIGNER = Ed25519PrivateKey.generate()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SenderJournal]:
    made = SenderJournal(tmp_path / "journal.sqlite")
    yield made
    made.close()


def sign(journal: SenderJournal) -> bool:
    return Signer(journal, SIGNER).sign_approved()


def test_an_unchanged_proposal_makes_no_new_release(journal: SenderJournal) -> None:
    Decisions(journal).propose("default", images_of("1"), "", 1.0)
    assert sign(journal)
    assert not sign(journal)
    assert [row.sequence for row in journal.newest_releases()] == [1]


def test_a_changed_proposal_follows_the_release_before(journal: SenderJournal) -> None:
    digests = []
    for number in range(1, 4):
        Decisions(journal).propose("default", images_of(f"v{number}"), "", float(number))
        sign(journal)
        row = journal.newest_releases()[0]
        signed = open_release(row.envelope, TrustedSenders.of(SIGNER.public_key()))
        assert signed.digest == row.digest
        assert signed.release.sequence == row.sequence == number
        assert signed.release.previous == (digests[-1] if digests else None)
        assert [image.tags for image in signed.release.images] == [(f"v{number}",)]
        digests.append(row.digest)


def test_collections_count_for_themselves(journal: SenderJournal) -> None:
    Decisions(journal).propose("a", images_of("1"), "", 1.0)
    sign(journal)
    Decisions(journal).propose("b", images_of("1"), "", 2.0)
    Decisions(journal).propose("a", images_of("2"), "", 3.0)
    sign(journal)
    assert {row.collection: row.sequence for row in journal.newest_releases()} == {"a": 2, "b": 1}


@pytest.mark.parametrize("junk", ["{", "7", "[7]", '[{"name": "x"}]', "[" * 3000, '[{"name": 3, "tags": []}]'])
def test_a_proposal_that_is_junk_is_refused_and_the_others_are_signed(journal: SenderJournal, junk: str) -> None:
    Decisions(journal).propose("bad", junk, "", 1.0)
    Decisions(journal).propose("good", images_of("1"), "", 1.0)
    assert sign(journal)
    assert [row.collection for row in journal.newest_releases()] == ["good"]


def test_the_object_of_a_release_is_its_envelope(journal: SenderJournal, tmp_path: Path) -> None:
    Decisions(journal).propose("default", images_of(*(f"t{n}" for n in range(50))), "", 1.0)
    sign(journal)
    row = journal.newest_releases()[0]
    digest = queue_release(journal, row, tmp_path / "coded", 3, 2.0)
    assert queue_release(journal, row, tmp_path / "coded", 3, 2.0) == digest, "twice is once"
    [queued] = journal.queue()
    coded = queued.path.read_bytes()
    assert queued.kind == Kind.RELEASE
    assert queued.coding == Coding.ZSTD
    assert digest_of(coded) == queued.coded_digest
    assert b"".join(decompress([coded], queued.content_size)) == row.envelope
    assert digest_of(row.envelope) == digest


def test_desired_contents_are_all_that_the_images_need() -> None:
    from sender.journal import ReleaseRow

    row = ReleaseRow("c", 1, "d", images_of("1", "2"), b"", 0.0)
    assert desired_contents([row]) == {image["root"]["digest"] for image in json.loads(row.images)}


def test_a_release_that_is_too_large_is_refused_and_others_go(
    journal: SenderJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    Decisions(journal).propose("a", images_of(*(f"v{number}" for number in range(50))), "", 1.0)
    Decisions(journal).propose("b", images_of("1"), "", 1.0)
    size = len(images_of("1")) + 1_000
    monkeypatch.setattr("protocol.release.CONTROL_OBJECT_BYTES_MAX", size)
    assert sign(journal)
    assert [row.collection for row in journal.newest_releases()] == ["b"]
