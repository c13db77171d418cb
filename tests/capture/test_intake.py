"""The last gate: what passes, and that what fails leaves nothing behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.blobs import BlobStore
from protocol.batch import pack
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.objects import Coding, Kind
from protocol.release import Content, Release, ReleaseImage, payload_digest, payload_of, seal_release
from protocol.trust import RequiredApprovals, TrustedSenders
from receiver.intake import Intake, Interrupted
from receiver.journal import ReceiverJournal
from receiver.senders import Trust
from tests.capture.rig import Cargo, zstd
from tests.support.content import digest_of, some_bytes

SIGNER = Ed25519PrivateKey.generate()
Given = Callable[[Cargo], "Path | bytes"]

WRITERS = ThreadPoolExecutor(2)


class Gate:
    """An intake with its spool and journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = BlobStore(folder / "spool")
        self.journal = ReceiverJournal(folder / "journal.sqlite")
        self.stopping = False
        self.approvals: dict[str, RequiredApprovals] = {}
        self.intake = self.again()

    def again(self) -> Intake:
        self.intake = Intake(
            self.spool,
            self.journal,
            Trust(TrustedSenders.of(SIGNER.public_key()), self.approvals),
            WRITERS,
            now=lambda: 1.0,
            interrupted=lambda: self.stopping,
        )
        return self.intake

    def take(self, cargo: Cargo, from_file: bool = False) -> int:
        coded: Path | bytes = cargo.coded
        if from_file:
            coded = self.folder / "partial"
            coded.write_bytes(cargo.coded)
        return self.intake.take(cargo.entry(), coded).contents

    def refuses(self, cargo: Cargo, drop: Drop, from_file: bool = False) -> None:
        before = list(self.spool.digests()), self.journal.releases()
        with pytest.raises(WireError) as caught:
            self.take(cargo, from_file)
        assert caught.value.drop is drop
        assert (list(self.spool.digests()), self.journal.releases()) == before
        assert [path for path in self.spool.root.rglob("*") if path.is_file()] == [
            self.spool.path(digest) for digest in before[0]
        ]
        assert not self.journal.is_unpacked(cargo.entry().digest)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.journal.close()


def release(sequence: int = 1, previous: str | None = None, name: str = "docker.io/library/demo") -> Release:
    root = Content("application/vnd.oci.image.manifest.v1+json", digest_of(b"root"), 4)
    return Release("default", sequence, previous, "2026-01-01T00:00:00Z", (ReleaseImage(name, ("1",), root, ()),))


def sealed(*args: object, signer: Ed25519PrivateKey = SIGNER) -> Cargo:
    return Cargo(seal_release(payload_of(release(*args)), signer), kind=Kind.RELEASE)  # type: ignore[arg-type]


def flipped(cargo: Cargo) -> Cargo:
    return replace(cargo, coded=cargo.coded[:-1] + bytes([cargo.coded[-1] ^ 1]))


both = pytest.mark.parametrize("from_file", [False, True], ids=["memory", "file"])


@both
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("coding", list(Coding))
def test_a_blob_comes_into_the_spool_once(gate: Gate, from_file: bool, algorithm: str, coding: Coding) -> None:
    content = some_bytes(50_000) + bytes(50_000)
    digest = digest_of(content, algorithm)
    cargo = zstd(content, digest=digest) if coding is Coding.ZSTD else Cargo(content, digest=digest)
    assert gate.take(cargo, from_file) == 1
    assert gate.spool.read(digest, 200_000) == content
    assert gate.take(cargo, from_file) == 0


@both
def test_a_batch_brings_its_members_and_is_remembered(gate: Gate, from_file: bool) -> None:
    bodies = [b"one", b"two", b"", some_bytes(4_000)]
    members = [(digest_of(body), body) for body in bodies] + [(digest_of(b"512", "sha512"), b"512")]
    cargo = zstd(pack(members), kind=Kind.BATCH)
    assert gate.take(cargo, from_file) == 5
    assert all(gate.spool.read(digest, 10_000) == body for digest, body in members)
    assert gate.journal.is_unpacked(cargo.digest)
    assert sorted(gate.journal.members(cargo.digest)) == sorted(digest for digest, _ in members)


def test_a_release_is_kept_and_the_same_again_is_no_news(gate: Gate) -> None:
    gate.take(sealed())
    gate.take(sealed())
    [row] = gate.journal.releases()
    assert (row.sequence, row.digest) == (1, payload_digest(payload_of(release())))
    assert gate.again().take(sealed().entry(), sealed().coded).release is not None, "known after a restart as well"
    assert len(gate.journal.releases()) == 1


def wrong(content: bytes = b"content", **changes: object) -> Cargo:
    return Cargo(content, **changes)  # type: ignore[arg-type]


@both
@pytest.mark.parametrize(
    ("cargo", "drop"),
    [
        (wrong(coded_digest=digest_of(b"else"), digest=digest_of(b"else")), Drop.CODED_DIGEST_MISMATCH),
        (wrong(digest=digest_of(b"else", "sha512")), Drop.CONTENT_DIGEST_MISMATCH),
        (zstd(b"content" * 99, digest=digest_of(b"else")), Drop.CONTENT_DIGEST_MISMATCH),
        (zstd(b"content" * 99, digest=digest_of(b"else", "sha512")), Drop.CONTENT_DIGEST_MISMATCH),
        (zstd(bytes(30_000_000), content_size=1_000), Drop.DECOMPRESSION_OVERRUN),
        (zstd(b"content" * 99, content_size=5_000), Drop.DECOMPRESSION_FAILED),
        (
            Cargo(zstd(some_bytes(9_000)).coded[:-40], coding=Coding.ZSTD, digest=digest_of(some_bytes(9_000))),
            Drop.DECOMPRESSION_FAILED,
        ),
        (Cargo(some_bytes(900), coding=Coding.ZSTD, digest=digest_of(b"x")), Drop.DECOMPRESSION_FAILED),
        (zstd(bytes(30_000_000), content_size=9, kind=Kind.BATCH), Drop.DECOMPRESSION_OVERRUN),
        (zstd(b"content" * 99, digest=digest_of(b"else"), kind=Kind.BATCH), Drop.CONTENT_DIGEST_MISMATCH),
        (Cargo(b"junk", kind=Kind.BATCH), Drop.BAD_BATCH),
        (Cargo(pack([(digest_of(b"a"), b"a")])[:-1], kind=Kind.BATCH), Drop.BAD_BATCH),
        (Cargo(pack([(digest_of(b"a"), b"a"), (digest_of(b"b"), b"X")]), kind=Kind.BATCH), Drop.BAD_BATCH),
        (Cargo(b"junk", kind=Kind.RELEASE), Drop.BAD_RELEASE),
        (sealed(signer=Ed25519PrivateKey.generate()), Drop.RELEASE_UNTRUSTED),
        (flipped(sealed()), Drop.RELEASE_UNTRUSTED),
        (sealed(1, None, "../../etc/cron.d/x"), Drop.BAD_RELEASE),
        (sealed(1, None, "/abs/olute"), Drop.BAD_RELEASE),
        (sealed(1, None, "docker.io/a/../b"), Drop.BAD_RELEASE),
        (sealed(0, None), Drop.BAD_RELEASE),
        (sealed(2, None), Drop.BAD_RELEASE),
    ],
)
def test_what_is_wrong_leaves_nothing_behind(gate: Gate, cargo: Cargo, drop: Drop, from_file: bool) -> None:
    gate.refuses(cargo, drop, from_file)


def test_a_release_that_too_few_have_approved_is_not_taken(gate: Gate) -> None:
    approver = Ed25519PrivateKey.generate()
    gate.approvals = {"*": RequiredApprovals.of(1, approver.public_key())}
    gate.again()
    gate.refuses(sealed(), Drop.RELEASE_UNAPPROVED)
    payload = payload_of(release())
    gate.take(Cargo(seal_release(payload, SIGNER, approver), kind=Kind.RELEASE))
    assert [row.sequence for row in gate.journal.releases()] == [1]


def test_releases_never_go_back_or_fork(gate: Gate) -> None:
    first = payload_digest(payload_of(release()))
    gate.take(sealed(5, first))
    gate.refuses(sealed(4, first), Drop.RELEASE_ROLLED_BACK)
    gate.refuses(sealed(5, "sha256:" + "1" * 64), Drop.RELEASE_CONFLICT)
    gate.refuses(sealed(6, "sha256:" + "2" * 64), Drop.RELEASE_CONFLICT)
    gate.again()
    gate.refuses(sealed(4, first), Drop.RELEASE_ROLLED_BACK)
    gate.take(sealed(9, "sha256:" + "3" * 64))
    assert [row.sequence for row in gate.journal.releases()] == [9, 5]


def test_a_file_that_is_gone_counts_as_damaged(gate: Gate) -> None:
    with pytest.raises(WireError) as caught:
        gate.intake.take(Cargo(b"content").entry(), gate.folder / "nothing")
    assert caught.value.drop is Drop.CODED_DIGEST_MISMATCH


def test_taking_may_be_repeated_after_the_file_became_the_blob(gate: Gate) -> None:
    """The journal can fail right after the rename."""
    cargo = Cargo(some_bytes(5_000))
    path = gate.folder / "partial"
    path.write_bytes(cargo.coded)
    gate.intake.take(cargo.entry(), path)
    assert not path.exists()
    assert gate.intake.take(cargo.entry(), path).contents == 0


def test_an_interrupted_file_stays_where_it_is(gate: Gate) -> None:
    cargo = Cargo(some_bytes(5_000))
    gate.stopping = True
    with pytest.raises(Interrupted):
        gate.take(cargo, from_file=True)
    assert hashlib.sha256((gate.folder / "partial").read_bytes()).hexdigest() == cargo.entry().digest[7:]
    assert gate.take(Cargo(b"small")) == 1, "what is in memory is soon done"
