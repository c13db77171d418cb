"""From a proposal to a release: approvals with and without keys, rollback, plan, and what is sent before that."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.client import Registry
from protocol.errors import WireError
from protocol.release import open_release
from protocol.trust import RequiredApprovals, TrustedSenders
from runtime import keys
from runtime.errors import UserError
from sender import past, plan
from sender.approve import Outcome, approve, endorse
from sender.by_hand import send
from sender.decisions import Decisions
from sender.releases import Signer
from sender.reproduce import archived_lock, reproduce
from tests.oci_layout.images import single_image
from tests.sender.conftest import Site, Upstream

SENDER = Ed25519PrivateKey.generate()


async def push(host: str, tag: str, content: str) -> str:
    image = single_image(content)
    async with Registry(host, plain_http=True) as registry:
        await image.push(registry.repository("team/app"), tag)
    return image.root.descriptor.digest


@pytest.fixture
async def host(site: Site, upstream: Upstream) -> str:
    _, found = await upstream()
    site.registries[found] = {"plain_http": True}
    return found


def rule(host: str, **more: Any) -> dict[str, Any]:
    return {"image": f"{host}/team/app", "tags": ["1"], "follow": "digest", **more}


def sign(site: Site) -> bool:
    journal = site.journal()
    try:
        return Signer(journal, SENDER, site.settings().collections).sign_approved()
    finally:
        journal.close()


def released(site: Site) -> list[int]:
    journal = site.journal()
    found = [row.sequence for row in Decisions(journal).releases()]
    journal.close()
    return found


async def proposal_of(site: Site, **settings: Any) -> str:
    """Fetch once, and return the id of what waits."""
    await site.round()
    (one,) = past.history(site.settings(), None)[-1:]
    return str(one["digest"]).partition(":")[2][:12]


def agree(site: Site, wanted: str, *names: str) -> Outcome:
    return approve(site.settings(), wanted, [site.folder / "keys" / f"{name}.pem" for name in names], [], None)


@pytest.fixture
def approvers(site: Site) -> dict[str, Any]:
    for name in ("alice", "bob", "carol", "mallory"):
        keys.create_signing_key(site.folder / "keys" / f"{name}.pem")
    listed = [f"keys/{name}.pub" for name in ("alice", "bob", "carol")]
    return {"default": {"approval": "manual", "approvers": listed, "threshold": 2}}


async def show(site: Site, as_json: bool) -> int:
    return await asyncio.to_thread(plan.show, site.settings(), offline=False, as_json=as_json)


async def test_nothing_is_sent_or_signed_before_somebody_approves(site: Site, host: str) -> None:
    await push(host, "1", "one")
    site.write(rule(host), collections={"default": {"approval": "manual"}})
    wanted = await proposal_of(site)
    assert (sign(site), site.queue(), released(site)) == (False, [], [])
    journal = site.journal()
    assert journal.totals()["waiting_objects"] == 1
    assert agree(site, wanted).state.approved
    assert sign(site)
    assert (len(site.queue()), released(site), journal.totals()["waiting_objects"]) == (1, [1], 0)
    journal.close()
    await site.round()
    assert not sign(site), "the same state is no new release"


async def test_two_of_three_approvers_sign_and_the_receiver_may_ask_for_it(
    site: Site, host: str, approvers: dict[str, Any], tmp_path: Path
) -> None:
    await push(host, "1", "one")
    site.write(rule(host), collections=approvers)
    wanted = await proposal_of(site)
    assert not agree(site, wanted, "alice").state.approved
    assert not agree(site, wanted, "alice").state.approved, "twice is once"
    assert not sign(site)
    approve(site.settings(), wanted, [], [], tmp_path / "payload")
    endorse(tmp_path / "payload", site.folder / "keys" / "bob.pem", tmp_path / "bob.sig")
    assert approve(site.settings(), wanted, [], [tmp_path / "bob.sig"], None).state.approved
    assert sign(site)
    journal = site.journal()
    (row,) = journal.newest_releases()
    journal.close()
    senders = TrustedSenders.of(SENDER.public_key())
    public = {
        name: keys.load_signing_public(site.folder / "keys" / f"{name}.pub") for name in ("alice", "bob", "carol")
    }
    needed = RequiredApprovals.of(2, *public.values())
    assert len(open_release(row.envelope, senders, {"default": needed}).approvers) == 2
    assert open_release(row.envelope, senders, {"other": needed}).approvers == ()
    assert len(open_release(row.envelope, senders, {"*": needed}).approvers) == 2
    with pytest.raises(WireError, match="approved by 1 of 2"):
        open_release(row.envelope, senders, {"default": RequiredApprovals.of(2, public["alice"], public["carol"])})


async def test_what_is_no_approval(site: Site, host: str, approvers: dict[str, Any], tmp_path: Path) -> None:
    await push(host, "1", "one")
    site.write(rule(host), collections=approvers)
    wanted = await proposal_of(site)
    for arguments, said in (
        ((wanted, [], [], None), "collection default asks for approvers' signatures; give --key or --signature"),
        ((wanted[:7], [], [], None), "give at least 8 digits of the id that `plan` shows"),
        (("0" * 12, [], [], None), f"{'0' * 12}: no such proposal; waiting: {wanted} (default 1)"),
        ((wanted, [site.folder / "keys" / "mallory.pem"], [], None), "is of no approver of default, or a wrong"),
        ((wanted, [], [site.config], None), "no signature; give a file that `checkvalve-sender endorse` wrote"),
    ):
        with pytest.raises(UserError, match=said.replace("(", r"\(").replace(")", r"\)")):
            approve(site.settings(), *arguments)
    approve(site.settings(), wanted, [], [], tmp_path / "old")
    endorse(tmp_path / "old", site.folder / "keys" / "bob.pem", tmp_path / "old.sig")
    agree(site, wanted, "alice")
    await push(host, "1", "two")
    changed = await proposal_of(site)
    assert changed != wanted
    with pytest.raises(UserError, match="export the present proposal and endorse that"):
        approve(site.settings(), changed, [], [tmp_path / "old.sig"], None)
    assert not agree(site, changed, "bob").state.approved, "alice has seen another proposal"
    document = json.loads((tmp_path / "old.sig").read_text())
    (tmp_path / "old").write_bytes(b"{}")
    with pytest.raises(UserError, match=r"no release .* give a file that `approve --export` wrote"):
        endorse(tmp_path / "old", site.folder / "keys" / "bob.pem", tmp_path / "x")
    assert set(document) == {"release", "key", "signature"}


async def test_a_signature_put_into_the_journal_by_hand_does_not_count(
    site: Site, host: str, approvers: dict[str, Any]
) -> None:
    await push(host, "1", "one")
    site.write(rule(host), collections=approvers)
    wanted = await proposal_of(site)
    agree(site, wanted, "alice")
    journal = site.journal()
    journal.connection.execute(
        "INSERT INTO approvals SELECT collection, payload, ?, signature, given FROM approvals",
        (keys.key_id(keys.load_signing_public(site.folder / "keys" / "bob.pub")).hex(),),
    )
    journal.connection.execute(
        "INSERT INTO approvals SELECT collection, payload, '', x'', given FROM approvals LIMIT 1"
    )
    journal.close()
    assert not sign(site)
    (pending,) = plan._proposed(site.settings(), site.journal()).pending
    assert (pending["approved_by"], pending["needed"], pending["unusable_signatures"]) == (1, 2, 1)


async def test_rollback_stays_until_it_ends_and_sends_nothing_again(site: Site, host: str) -> None:
    first = await push(host, "1", "one")
    site.write(rule(host))
    await site.round()
    assert sign(site)
    second = await push(host, "1", "two")
    await site.round()
    assert sign(site)
    journal = site.journal()
    for one in journal.queue():
        for _ in range(one.passes_left):
            journal.note_pass(one.id, 1.0)
    done = past.roll_back(site.settings(), "default", 1)
    assert (done["release"], done["bytes_new"], [one["change"] for one in done["changes"]]) == (3, 0, ["moved"])
    assert sign(site)
    assert [one.digest for one in journal.queue()] == []
    await push(host, "1", "three")
    await site.round()
    assert not sign(site), "it stays"
    roots = [row.images.count(first) for row in Decisions(journal).releases()]
    assert (roots, len(released(site))) == ([1, 0, 1], 3)
    assert [change.kind for change in past.difference(site.settings(), "default", "1", "3")] == []
    assert [change.kind for change in past.difference(site.settings(), "default", "1", "2")] == ["moved"]
    past.end_rollback(site.settings(), "default")
    assert sign(site)
    assert second not in journal.newest_releases()[0].images
    journal.close()
    with pytest.raises(UserError, match="collection default is not rolled back"):
        past.end_rollback(site.settings(), "default")
    with pytest.raises(UserError, match="collection default has no release 9; there are 1 to 4"):
        past.roll_back(site.settings(), "default", 9)
    with pytest.raises(UserError, match="collection x has no release; there are releases of default"):
        past.difference(site.settings(), "x", "1", "2")


async def test_the_plan_says_what_would_change_and_writes_nothing(
    site: Site, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await push(host, "1", "one")
    await push(host, "2", "stays")
    nothing, gone = {"image": f"{host}/team/app", "tags": {"semver": "^9"}}, f"{host}/team/app:2@sha256:{'0' * 64}"
    site.write(rule(host), nothing, gone)
    assert await show(site, True) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["change"], one["image"]) for one in found["changes"]["default"]] == [("new", f"{host}/team/app:1")]
    assert 0 < found["bytes_new"] <= found["bytes_on_the_wire"]
    assert found["warnings"][0].endswith("matches nothing of 2 tags; nearest is 2")
    assert found["held"][0].startswith(f"{host}/team/app:2: ")
    assert not site.settings().journal.exists()
    site.write(rule(host))
    assert await show(site, False) == plan.EXIT_CHANGES
    await site.round()
    assert sign(site)
    assert await show(site, False) == 0
    await push(host, "1", "two")
    capsys.readouterr()
    assert await show(site, True) == plan.EXIT_CHANGES
    assert [one["change"] for one in json.loads(capsys.readouterr().out)["changes"]["default"]] == ["moved"]
    site.write()
    assert await show(site, True) == plan.EXIT_CHANGES
    assert [one["change"] for one in json.loads(capsys.readouterr().out)["changes"]["default"]] == ["dropped"]


async def test_a_lock_makes_its_release_again(site: Site, host: str, tmp_path: Path) -> None:
    await push(host, "1", "one")
    site.write(rule(host))
    await site.round()
    assert sign(site)
    path = tmp_path / "one.lock"
    path.write_text(archived_lock(site.settings(), "default", 1))
    await push(host, "1", "two")
    await site.round()
    shutil.rmtree(site.settings().spool)
    done = await asyncio.to_thread(reproduce, site.settings(), path)
    assert done.identical
    journal = site.journal()
    assert done.payload in journal.newest_releases()[0].envelope
    journal.close()
    path.write_text(path.read_text().replace('"size": ', '"size": 1'))
    with pytest.raises(UserError, match=r"one.lock:2: .*/team/app:1: size is 1\d+; the image has \d+"):
        await asyncio.to_thread(reproduce, site.settings(), path)


async def test_sent_by_hand_goes_before_what_images_yaml_says(site: Site, host: str) -> None:
    old = await push(host, "1", "one")
    site.write(f"{host}/team/app:1@{old}")
    await site.round()
    new = await push(host, "2", "patch")
    done = send(site.settings(), f"{host}/team/app:1@{new}", "default", urgent=True, drop=False)
    assert (done["urgent"], done["objects"]) == (True, 0)
    await site.round()
    (image,) = site.proposal()
    assert (image.root.digest, image.tags) == (new, ("1",))
    assert [one.urgent for one in site.queue()] == [False, True]
    send(site.settings(), f"{host}/team/app:1@{new}", "default", urgent=True, drop=True)
    await site.round()
    assert site.proposal()[0].root.digest == old
    for text, said in (
        ("nginx:1", "has no digest; `checkvalve-sender pin nginx:1` prints it"),
        ("A", "reference 'A'"),
    ):
        with pytest.raises(UserError, match=said):
            send(site.settings(), text, "default", urgent=False, drop=False)


async def test_what_keep_lets_go_of_stays_until_its_successor_is_ready(site: Site, host: str) -> None:
    await push(host, "1.0.0", "one")
    newest = {"image": f"{host}/team/app", "tags": {"semver": "^1", "keep": 1}}
    site.write({**newest, "verify": {"max_blob": "50kB"}})
    await site.round()
    assert [image.tags for image in site.proposal()] == [("1.0.0",)]
    await push(host, "1.1.0", "a larger one " * 9_000)
    await site.round()
    assert "held: blob" in site.said[0]
    assert [image.tags for image in site.proposal()] == [("1.0.0",)]
    site.write({**newest, "verify": {"max_blob": "10MB"}})
    await site.round()
    assert [image.tags for image in site.proposal()] == [("1.1.0",)]
