"""What a repair code comes to on the sender: which bytes of which objects, and what is said where that is nothing."""

from __future__ import annotations

import io
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from protocol.objects import Coding, Kind
from protocol.release import Content, ReleaseImage
from protocol.repair_code import CODED_BITS, RELEASE_BITS, Cut, Pieces, Ranges, Section, encode, first_bits
from runtime import keys
from runtime.errors import UserError
from sender.decisions import Decisions
from sender.desired import desired_state
from sender.journal import SenderJournal
from sender.releases import Signer, queue_release
from sender.repair import repair
from sender.repair_queue import RepairQueue
from tests.sender.conftest import Site
from tests.sender.test_cli import call

BIG = 50_000_000  # coded bytes of the layer: nobody reads the file here
NOT_YET = "not prepared here yet: fetch does that; give the code again then"
CODED = "sha256:" + "c0de" * 16


def digest(number: int) -> str:
    return "sha256:" + random.Random(number).randbytes(32).hex()


def image(number: int) -> ReleaseImage:
    """Content 0 is the root, 1 the layer, 2 and 3 small ones; numbers are those of the release's first image."""
    contents = [Content("application/octet-stream", digest(10 * number + at), 100 + at) for at in range(4)]
    return ReleaseImage("example.org/app", (), contents[0], tuple(contents[1:]))


class Sender:
    """A journal with signed releases, and objects that carry their contents."""

    def __init__(self, site: Site) -> None:
        site.write()
        self.settings = site.settings()
        self.journal = SenderJournal(self.settings.journal)
        self.decisions = Decisions(self.journal)
        self.signer = Signer(self.journal, keys.load_signing_key(site.folder / "keys" / "sender.pem"))
        self.layer = self.object([digest(11)], Kind.BLOB, BIG, CODED)
        self.batch = self.object([digest(10), digest(12), digest(13)], Kind.BATCH, 4_000, digest(99))
        self.propose(1)

    def object(self, contents: list[str], kind: Kind, size: int, coded: str) -> int:
        return self.journal.queue_object(
            kind=kind,
            coding=Coding.ZSTD,
            digest=contents[0] if kind is Kind.BLOB else digest(sum(map(ord, contents[0]))),
            content_size=size * 2,
            coded_digest=coded,
            coded_size=size,
            path=Path("/nonexistent"),
            label=f"{kind.name.lower()} {len(contents)}",
            passes=1,
            contents=contents,
            now=time.time(),
        )

    def propose(self, *numbers: int, collection: str = "default") -> None:
        slots = [((collection, "example.org/app", f"t{number}"), image(number)) for number in numbers]
        self.decisions.propose(collection, desired_state(slots, None, collection=collection), "", time.time())
        assert self.signer.sign_approved()

    def section(self, sequence: int = 1, **given: Any) -> Section:
        row = self.journal.connection.execute(
            "SELECT digest FROM releases WHERE collection = 'default' AND sequence = ?", (sequence,)
        ).fetchone()
        return Section(sequence, first_bits(row[0], RELEASE_BITS), **given)

    def repairs(self) -> dict[int, Ranges]:
        rows = self.journal.connection.execute("SELECT object, spans FROM repairs").fetchall()
        return {each: tuple(tuple(span) for span in json.loads(spans)) for each, spans in rows}


@pytest.fixture
def sender(site: Site) -> Sender:
    return Sender(site)


def blocks(missing: Ranges, *, coded: str = CODED, count: int = 12, content: int = 1) -> tuple[Pieces, ...]:
    return (Pieces(content, first_bits(coded, CODED_BITS), count, missing),)


def test_blocks_become_the_bytes_that_the_receiver_meant(sender: Sender) -> None:
    section = sender.section(symbol_bytes=1_424, pieces=blocks(((3, 5), (11, 12))))
    found = repair(sender.settings, encode([section]))
    cut = Cut(BIG, 1_424, 12)
    assert sender.repairs() == {sender.layer: ((cut.start(3), cut.start(5)), (cut.start(11), BIG))}
    assert found["bytes"] == cut.start(5) - cut.start(3) + BIG - cut.start(11)
    assert found["releases"] == [{"collection": "default", "sequence": 1}]
    (queued,) = RepairQueue(sender.journal).queue()
    assert (queued.id, queued.coded_digest, queued.spans) == (-1, CODED, sender.repairs()[sender.layer])


def test_small_contents_bring_the_batch_that_carries_them_once(sender: Sender) -> None:
    repair(sender.settings, encode([sender.section(whole=((0, 1), (2, 4)))]))
    assert sender.repairs() == {sender.batch: ((0, 4_000),)}


def test_a_content_that_is_coded_in_another_way_since_is_sent_whole(sender: Sender) -> None:
    section = sender.section(symbol_bytes=1_424, pieces=blocks(((3, 4),), coded=digest(5)))
    found = repair(sender.settings, encode([section]))
    assert sender.repairs() == {sender.layer: ((0, BIG),)}
    assert found["objects"][0]["note"] == "coded in another way since: all of it"


def test_more_blocks_than_there_are_symbols_are_no_cut_of_ours(sender: Sender) -> None:
    section = sender.section(symbol_bytes=8_960, pieces=blocks(((3, 4),), count=1 << 20))
    repair(sender.settings, encode([section]))
    assert sender.repairs() == {sender.layer: ((0, BIG),)}


def test_a_release_that_was_only_heard_of(sender: Sender) -> None:
    code = encode([sender.section(release=True)])
    found = repair(sender.settings, code)
    assert found["not_sent"] == [
        {"what": "release default 1", "why": "transmit queues the newest release by itself when it starts"}
    ]
    for row in sender.journal.newest_releases():
        queue_release(sender.journal, row, sender.settings.coded, 1, time.time())
    found = repair(sender.settings, code)
    assert [one["label"] for one in found["objects"]] == ["release default 1"]
    sender.propose(1, 2)
    row = sender.journal.newest_releases()[0]
    sender.journal.retire_releases([queue_release(sender.journal, row, sender.settings.coded, 1, time.time())])
    assert sender.repairs() == {}, "a repair goes with its object"
    found = repair(sender.settings, code)
    assert [(one["label"], one["note"]) for one in found["objects"]] == [
        ("release default 2", "release 2 in place of 1")
    ]


def test_what_no_object_carries_is_said(sender: Sender) -> None:
    sender.propose(1, 2)
    wanted = encode([sender.section(2, whole=((0, 8),))])
    found = repair(sender.settings, wanted)
    assert {one["why"] for one in found["not_sent"]} == {NOT_YET}
    assert len(found["not_sent"]) == 4
    assert set(sender.repairs()) == {sender.layer, sender.batch}
    sender.propose(1)
    found = repair(sender.settings, wanted)
    assert "release 3 has come after" in found["not_sent"][0]["why"]


def test_a_dry_run_queues_nothing_and_the_same_code_twice_is_queued_once(sender: Sender) -> None:
    code = encode([sender.section(whole=((0, 4),))])
    dry = repair(sender.settings, code, dry_run=True)
    assert sender.repairs() == {}
    assert repair(sender.settings, code) == dry
    assert repair(sender.settings, code) == dry
    assert len(sender.repairs()) == 2
    assert RepairQueue(sender.journal).totals() == {"queued_repairs": 2, "repair_bytes": BIG + 4_000}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no code in it"),
        ("31R25-A7AAQ", "10 characters; a code has 13 to 8000"),
        ("31R25-A7AAQ-AXBM8-PAZ73-AYDH8-9M3WK-H80D1-2ZBJF-J2", "characters are wrong|whole groups of 5"),
        ("00000-11111-22222-33333", "too many characters are wrong|checksum does not fit"),
    ],
)
def test_a_wrong_code_is_one_line(sender: Sender, site: Site, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        repair(sender.settings, text)
    assert str(caught.value).startswith("repair code: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    code, out, err = call("repair", *(text.split() or [" "]), "--config", site.config)
    assert (code, out) == (2, "")
    assert err.startswith("error: repair code: ")


def test_a_code_of_another_sender_or_collection_is_refused_by_name(sender: Sender) -> None:
    code = encode([Section(7, 0x1234567, whole=((0, 1),))])
    with pytest.raises(UserError) as caught:
        repair(sender.settings, code)
    assert str(caught.value) == (
        "repair code: it is about release 7, sha256:1234567…, not signed here (signed: default 1 to 1): it is of "
        "another sender or collection"
    )
    with pytest.raises(UserError, match="names content 9 of release default 1, which has 4"):
        repair(sender.settings, encode([sender.section(whole=((8, 9),))]))
    assert sender.repairs() == {}


def test_one_wrong_section_queues_nothing_of_the_others(sender: Sender) -> None:
    with pytest.raises(UserError):
        repair(sender.settings, encode([sender.section(whole=((0, 4),)), Section(7, 0x1234567, release=True)]))
    assert sender.repairs() == {}


def test_several_codes_one_a_line_are_read_as_photos_give_them(sender: Sender) -> None:
    one = encode([sender.section(symbol_bytes=1_424, pieces=blocks(((3, 4),)))])
    two = encode([sender.section(whole=((0, 1),))])
    found = repair(sender.settings, f"{one}\n\n{two}\n")
    assert set(sender.repairs()) == {sender.layer, sender.batch}
    assert found["releases"] == [{"collection": "default", "sequence": 1}]
    with pytest.raises(UserError):
        repair(sender.settings, f"{one}\n{two[:-3]}\n")


def test_before_the_first_run_there_is_nothing_to_repair(site: Site) -> None:
    site.write()
    with pytest.raises(UserError, match="no journal here yet"):
        repair(site.settings(), encode([Section(1, 0, release=True)]))
    assert not site.settings().journal.exists()


def test_the_command_takes_words_or_standard_input(
    sender: Sender, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = encode([sender.section(symbol_bytes=1_424, pieces=blocks(((3, 4),)))])
    wrong = ("7" if text[0] != "7" else "8") + text[1:]
    words = [wrong[at : at + 5].lower() for at in range(0, len(text), 5)]
    code, out, err = call("repair", "--dry-run", *words, "--config", site.config)
    assert (code, err) == (0, "")
    assert "1 mistyped character mended" in out
    assert "would queue 4.2 MB of release default 1, to go first" in out
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{text}\n"))
    code, out, err = call("repair", "-", "--json", "--config", site.config)
    assert (code, err) == (0, "")
    assert json.loads(out)["objects"][0]["label"] == "blob 1"
    code, out, _ = call("status", "--config", site.config)
    assert "repairs     1 object, 4.2 MB, go first" in out
    sender.journal.drop_object(sender.batch)
    code, out, _ = call("repair", encode([sender.section(whole=((2, 3),))]), "--config", site.config)
    assert code == 1
    assert "not sent: sha256:" in out
