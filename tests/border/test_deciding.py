"""What people decide at the border, and which senders are let in at all: with the real roles and commands."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.client import Registry
from oci.errors import NotFound
from receiver.audit import Audit
from receiver.config import ReceiverSettings
from runtime.errors import UserError
from runtime.keys import create_signing_key, fingerprint, load_signing_public
from runtime.settings import load_settings
from tests.border.rig import APP, OTHER, actions, border, held_by, script
from tests.oci_layout.images import single_image
from tests.receiver.peers import DockerRegistry
from tests.receiver.site import Cli, Site, release_image

# --- people ------------------------------------------------------------


async def test_hold_release_and_reject_with_a_real_registry(
    site: Site, registry: DockerRegistry, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    good, bad = single_image("good"), single_image("bad")
    site.fill(good, bad)
    site.release(release_image(APP, ["1"], good), release_image(OTHER, ["2"], bad))
    settings = border(site, f"{{registry: {{url: '{registry.url}'}}}}", hold="all")
    config = ("--config", site.config)
    good_digest, bad_digest = good.root.descriptor.digest, bad.root.descriptor.digest

    def run(*arguments: object) -> tuple[int, str, str]:
        return cli(*arguments, *config)

    async with site.publishing(settings), Registry(registry.host, plain_http=True) as client:
        await site.until(APP, "held")
        await site.until(OTHER, "held")
        code, out, _ = await asyncio.to_thread(run, "status")
        assert code == 1
        assert f"ALARM: {APP}:1: held: waits for a person: border.hold" in out
        code, out, _ = await asyncio.to_thread(run, "held", "--json")
        rows = json.loads(out)["held"]
        assert (code, [(row["image"], row["digest"], row["decision"]) for row in rows]) == (
            1,
            [(APP, good_digest, None), (OTHER, bad_digest, None)],
        )
        with pytest.raises(NotFound):
            await client.repository(f"internal/{APP}").manifest("1")
        code, out, _ = await asyncio.to_thread(run, "release", f"{APP}:1", "--reason", "looked at", "--by", "alice")
        assert (code, out) == (0, f"released: {APP}@{good_digest}; publish goes on with it\n")
        await site.until(APP, "published")  # no restart
        assert (await client.repository(f"internal/{APP}").manifest("1")).descriptor.digest == good_digest
        code, out, _ = await asyncio.to_thread(run, "reject", f"{OTHER}@{bad_digest[:19]}", "--reason", "a miner")
        assert (code, out.partition(";")[2].strip()) == (0, "it will not be published, until it is released")
        async with asyncio.timeout(5):
            while "rejected by" not in str(site.images()[OTHER]["error"]):
                await asyncio.sleep(0.01)
    # nor in a later release, under another name, without any hold, after a restart
    site.release(release_image(APP, ["1"], good), release_image("docker.io/x/y", ["2"], bad), sequence=2)
    assert await site.once(border(site, f"{{registry: {{url: '{registry.url}'}}}}")) == 1
    assert site.images()["docker.io/x/y"]["error"].endswith(": a miner")
    assert not [one for one in registry.requests if "x/y" in one and one.startswith("P")]
    code, out, err = run("release", f"docker.io/x/y@{bad_digest}", "--reason", "a mistake")
    assert (code, err) == (0, "")
    assert await site.once(border(site, f"{{registry: {{url: '{registry.url}'}}}}")) == 0
    records = list(Audit(settings.audit).records())
    assert [(one.action, one.object) for one in records if one.action != "held"] == [
        ("released", f"{APP}@{good_digest}"),
        ("published", f"{APP}@{good_digest}"),
        ("rejected", f"{OTHER}@{bad_digest}"),
        ("released", f"docker.io/x/y@{bad_digest}"),
        ("published", f"docker.io/x/y@{bad_digest}"),
    ]
    by = {one.action: one for one in records[:4]}
    assert (by["released"].actor, by["released"].reason) == ("alice", "looked at")
    assert by["released"].facts["account"] != "alice"
    assert by["published"].facts["release"]["sequence"] == 1
    assert by["published"].facts["place"] == f"{registry.url}/internal/{APP}"


async def test_a_release_by_hand_overrides_policy_hook_and_hold(site: Site, cli: Cli) -> None:
    image = single_image()
    run = script(site, "exit 1")
    settings = {"verify": {"max_blob": 1, "hook": {"run": run}}, "hold": "all"}
    reason = await held_by(site, image, settings)
    assert "verify.max_blob" in reason
    assert "waits for a person" in reason
    assert cli("release", APP, "--reason", "known", "--config", site.config)[0] == 0
    assert await site.once(border(site, **settings)) == 0


async def test_a_decision_before_the_image_comes(site: Site, cli: Cli) -> None:
    image = single_image()
    site.fill(image)
    border(site, hold="all")
    digest = image.root.descriptor.digest
    code, out, err = cli("release", f"{APP}@{digest}", "--reason", "announced", "--config", site.config)
    assert (code, out, err) == (
        0,
        f"released: {APP}@{digest}; no newest release has it; it will pass when it comes\n",
        "",
    )
    site.release(release_image(APP, ["1"], image), release_image(OTHER, ["1"], image))
    assert await site.once(border(site, hold="all")) == 1
    rows = site.images()
    assert (rows[APP]["state"], rows[OTHER]["state"]) == ("published", "held")  # released is this name only


async def test_rejecting_what_is_published_says_so_and_shows(site: Site, cli: Cli) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(APP, ["1"], image))
    settings = border(site)
    assert await site.once(settings) == 0
    code, out, _ = cli("reject", f"{APP}:1", "--reason", "recalled", "--config", site.config)
    assert code == 0
    assert "it is in the target already: take it out there" in out
    code, out, _ = cli("status", "--config", site.config)
    assert code == 1
    assert f"ALARM: {APP}:1: rejected by" in out
    assert "(recalled); it was published before it was rejected: take it out of the target" in out
    assert await site.once(settings) == 1
    assert "recalled" in site.images()[APP]["error"]


async def test_many_held_images_are_one_alarm(site: Site, cli: Cli) -> None:
    image = single_image()
    site.fill(image)
    site.release(*(release_image(f"quay.io/team/app{number}", ["1"], image) for number in range(6)))
    assert await site.once(border(site, hold="all")) == 1
    out = cli("status", "--config", site.config)[1]
    assert "ALARM: 6 images are held at the border" in out
    assert out.count("ALARM: quay.io") == 0
    assert cli("held", "--config", site.config)[1].count("waits for a person: border.hold") == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["release", APP], "--reason"),
        (["release", APP, "--reason", "  "], "--reason: is empty"),
        (["release", APP, "--reason", "x", "--by", " "], "--by: is empty"),
        (["reject", "quay.io/no/such", "--reason", "x"], "no newest release has such an image"),
        (["reject", f"{APP}@sha256:12", "--reason", "x"], "'sha256:12' is no digest; give sha256:<64 hex digits>"),
        (["reject", "Bad Name", "--reason", "x"], "reference 'Bad Name'"),
        (["release", APP, "--reason", "x"], "means 2 images; give one with its digest"),
    ],
)
async def test_mistakes_at_the_command_line_change_nothing(
    site: Site, cli: Cli, arguments: list[str], words: str
) -> None:
    one, two = single_image("one"), single_image("two")
    site.fill(one, two)
    site.release(release_image(APP, ["1"], one), release_image(APP, ["2"], two))
    assert await site.once(border(site, hold="all")) == 1
    before = actions(site)
    code, out, err = cli(*arguments, "--config", site.config)
    assert (code in (1, 2), out) == (True, "")
    assert words in err
    assert actions(site) == before
    assert cli("held", "--config", site.config)[0] == 1


async def test_what_cannot_be_recorded_is_not_decided(site: Site, cli: Cli) -> None:
    image = single_image()
    settings = {"hold": "all"}
    await held_by(site, image, settings)
    with (site.folder / "state/audit.jsonl").open("a") as log:
        log.write("tampered\n")
    code, _, err = cli("release", APP, "--reason", "x", "--config", site.config)
    assert code == 1
    assert "nothing was decided, as it could not be recorded" in err
    assert await site.once(border(site, **settings)) == 1
    assert site.images()[APP]["state"] == "held"
    assert "audit log" in cli("status", "--config", site.config)[1]


async def test_publishing_waits_for_a_disk_that_takes_no_record_and_goes_on_with_a_log_that_is_damaged(
    site: Site, cli: Cli
) -> None:
    one, two = single_image("one"), single_image("two")
    site.fill(one, two)
    settings = border(site)
    settings.audit.mkdir()  # no file can be opened there
    site.release(release_image(APP, ["1"], one))
    async with site.publishing(settings):
        async with asyncio.timeout(5):
            while "Is a directory" not in str(site.images().get(APP, {}).get("error")):
                await asyncio.sleep(0.01)
        settings.audit.rmdir()
        await site.until(APP, "published")
    assert actions(site) == [("published", f"{APP}@{one.root.descriptor.digest}")]
    with settings.audit.open("a") as log:
        log.write("not ours\n")
    site.release(release_image(APP, ["1"], two), sequence=2)
    assert await site.once(settings) == 0
    assert f"ALARM: audit log {settings.audit}: the last line is none of ours" in cli("status", "-c", site.config)[1]


# --- who may send ------------------------------------------------------------


async def test_collections_and_senders_that_are_not_allowed(site: Site, cli: Cli) -> None:
    create_signing_key(site.folder / "keys/second.pem")
    config = site.config
    senders = "senders: [keys/sender.pub, keys/second.pub]"
    second = Ed25519PrivateKey.generate()

    def configured(**settings: Any) -> ReceiverSettings:
        border(site, **settings)
        config.write_text(config.read_text().replace("senders: [keys/sender.pub]", senders))
        return load_settings(config, ReceiverSettings)

    image = single_image()
    site.fill(image)
    site.release(release_image(APP, ["1"], image))
    assert await site.once(configured(collections=["edge-*"])) == 1
    print2 = fingerprint(load_signing_public(site.folder / "keys/second.pub"))
    assert await site.once(configured(senders={"default": [print2]})) == 1
    assert await site.once(configured(senders={"*": ["keys/second.pub"]})) == 1
    assert site.images() == {}
    code, out, _ = cli("status", "--config", config)
    assert code == 1
    assert "sender_not_allowed: collection default: signed by no sender that border.senders allows for it" in out
    assert await site.once(configured(senders={"*": ["keys/second.pub"], "default": ["keys/sender.pub"]})) == 0
    stranger = fingerprint(second.public_key())
    with pytest.raises(UserError, match=r"border.senders.edge: SHA256:.* is no key of `senders`"):
        await site.once(configured(senders={"edge": [stranger]}))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"colections": []}, "border.colections: unknown key; did you mean collections?"),
        ({"senders": {"Bad": ["x"]}}, "'Bad' is not a name"),
        ({"senders": {"edge": []}}, "has too few items"),
        ({"hold": []}, "border.hold"),
        ({"rules": [{"match": "x"}]}, "border.rules[0].verify: is missing"),
        ({"rules": [{"match": "x", "verify": {"cosign": {}}}]}, "trusts nobody"),
        ({"again": "0s"}, "border.again"),
        ({"artifacts": 5}, "border.artifacts"),
    ],
)
def test_settings_that_are_wrong_are_refused(site: Site, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as raised:
        border(site, **settings)
    assert line in str(raised.value)
