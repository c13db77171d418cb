"""The border with the real publish role: what it holds and why, and what outlives a restart."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from oci.descriptor import sha256_digest
from protocol.release import Content
from receiver.border import Border, HeldAtBorder
from runtime.errors import UserError
from tests.border.rig import APP, KEY, OTHER, actions, border, held, held_by, script, signed
from tests.oci_layout.images import Image, as_json, multi_image, referrer_to, single_image
from tests.receiver.site import Cli, Site, release_image
from tests.support.signed import bundle_form, dsse_bundle, new_key, pem, statement

# --- each key of the policy ------------------------------------------------------------

LARGE = single_image("large")
LAYER = next(item for item, _ in LARGE.blobs.values() if item.media_type.endswith("gzip"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"verify": {"registries": ["docker.io", "quay.*/x"]}}, ""),
        (
            {"rules": [{"match": APP, "verify": {"repositories": "docker.io/*"}}]},
            "verify.repositories allows docker.io/*",
        ),
        ({"rules": [{"match": APP, "verify": {"registries": "docker.io"}}]}, "registry quay.io is not allowed"),
        (
            {"rules": [{"match": "*/team/*", "verify": {"media_types": "*.image.[cm]*"}}]},
            "verify.media_types",
        ),
        ({"rules": [{"match": [APP], "verify": {"max_blob": LAYER.size - 1}}]}, "larger than verify.max_blob"),
        (
            {"rules": [{"match": [APP], "verify": {"max_image": "1kB"}}]},
            "are more than verify.max_image, 1,000 bytes",
        ),
        ({"hold": ["quay.io/team/*"]}, "waits for a person: border.hold"),
        ({"hold": APP}, "waits for a person: border.hold"),
    ],
)
async def test_each_key_holds_that_image_only(site: Site, settings: dict[str, Any], words: str) -> None:
    entry = release_image(APP, ["1"], LARGE)
    if not words:  # a key that holds both
        site.fill(LARGE)
        site.release(entry)
        assert await site.once(border(site, **settings)) == 1
        assert "registry quay.io is not allowed" in site.images()[APP]["error"]
        return
    assert words in await held(site, LARGE, entry, **settings)


async def test_what_the_policy_allows_exactly_passes(site: Site) -> None:
    total = sum(item.size for item in (LARGE.root.descriptor, *(item for item, _ in LARGE.blobs.values())))
    site.fill(LARGE)
    site.release(release_image(APP, ["1"], LARGE))
    verify = {"registries": "quay.io", "repositories": "*/team/*", "media_types": "*", "max_image": total}
    assert await site.once(border(site, verify=verify, artifacts="known", hold="none", collections="def*")) == 0
    assert [action for action, _ in actions(site)] == ["published"]


async def test_the_size_that_counts_is_of_what_is_pushed_not_of_what_is_listed(site: Site) -> None:
    """A release that lists less than its manifests name, where the rest is here already, hides nothing."""
    entry = release_image(APP, ["1"], LARGE)
    short = replace(entry, closure=tuple(item for item in entry.closure if item.digest != LAYER.digest))
    rules = [{"match": APP, "verify": {"max_blob": LAYER.size - 1}}]
    assert "larger than verify.max_blob" in await held(site, LARGE, short, rules=rules)


@pytest.mark.parametrize(("artifacts", "words"), [("known", "artifacts"), (["application/spdx+json"], "artifacts")])
async def test_unknown_artifact_types(site: Site, artifacts: Any, words: str) -> None:
    image = single_image()
    strange = referrer_to(image.root.descriptor, "application/x-strange")
    sbom = referrer_to(image.root.descriptor, "application/spdx+json")
    reason = await held(
        site, image, release_image(APP, ["1"], image, sbom, strange), sbom, strange, artifacts=artifacts
    )
    assert f"of type application/x-strange: border.{words}" in reason
    assert "spdx" not in reason
    assert await site.once(border(site, artifacts=["application/x-*"])) == 0


# --- signatures ------------------------------------------------------------


async def test_cosign_keys_per_repository(site: Site) -> None:
    other_key = new_key()
    (site.folder / "team.pub").write_bytes(pem(KEY))
    (site.folder / "rest.pub").write_bytes(pem(other_key))
    rules = [
        {"match": "quay.io/team/*", "verify": {"cosign": {"keys": ["team.pub"]}}},
        {"match": "*", "verify": {"cosign": {"keys": ["rest.pub"]}}},
    ]
    image, fine = multi_image(), single_image("fine")
    entry, signature = signed(APP, image, other_key)  # a key that is good elsewhere
    other, other_signature = signed(OTHER, fine, other_key)
    site.fill(image, fine, signature, other_signature)
    site.release(entry, other)
    settings = border(site, rules=rules)
    assert await site.once(settings) == 1
    rows = site.images()
    assert (rows[APP]["state"], rows[OTHER]["state"]) == ("held", "published")
    assert "signed by nobody trusted" in rows[APP]["error"]
    # the right signature comes with the next release, as a bundle: no restart of anything is needed to look again
    digest = image.root.descriptor.digest
    bundle = bundle_form(image.root, dsse_bundle(KEY, statement(digest)))
    async with site.publishing(settings):
        await site.until(APP, "held")
        site.fill(bundle)
        site.release(release_image(APP, ["1"], image, bundle), other, sequence=2)
        await site.until(APP, "published")


async def test_an_unsigned_image_is_held_and_a_wrong_key_file_is_said_at_the_start(site: Site) -> None:
    image = single_image()
    (site.folder / "team.pub").write_bytes(pem(KEY))
    rules = [{"match": "quay.io/team/*", "verify": {"cosign": {"keys": ["team.pub"]}}}]
    assert (await held(site, image, release_image(APP, ["1"], image), rules=rules)).startswith("unsigned: ")
    (site.folder / "team.pub").write_text("no key")
    with pytest.raises(UserError, match=r"team.pub: is not a PEM public key"):
        await site.once(border(site, rules=rules))


# --- the image spec, and hostile manifests ------------------------------------------------------------


def with_manifest(image: Image, **changes: Any) -> Image:
    document = json.loads(image.root.raw) | changes
    image.manifests.clear()
    image.add_manifest(document)
    return image


def two_readers() -> Image:
    image = single_image("two readers")
    return with_manifest(image, config=json.loads(image.root.raw)["config"] | {"data": "e30="})


def lying_config() -> Image:
    image = single_image("lying")
    document = json.loads(image.root.raw)
    return with_manifest(image, config=as_json(image.add_blob(document["config"]["mediaType"], b'{"os":"linux"}')))


def both_kinds() -> Image:
    return with_manifest(single_image("both"), manifests=[])


def not_json() -> Image:
    image = single_image("text")
    raw = image.root.raw + b"}"
    image.manifests[-1] = replace(
        image.root, raw=raw, descriptor=replace(image.root.descriptor, digest=sha256_digest(raw), size=len(raw))
    )
    return image


def schema_one() -> Image:
    return with_manifest(single_image("old"), schemaVersion=1)


def nested() -> Image:
    image = single_image("deep")
    for _ in range(10):
        image.add_manifest(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [as_json(image.root.descriptor)],
            }
        )
    return image


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (two_readers, "embedded data is not what its digest names"),
        (lying_config, "architecture is missing"),
        (both_kinds, "has both 'manifests' and 'layers'"),
        (not_json, "not a JSON document"),
        (schema_one, "Docker schema 1 is not mirrored"),
        (nested, "indexes nested more than 8 deep"),
    ],
)
async def test_hostile_manifests_are_held_and_nobody_can_release_them(
    site: Site, cli: Cli, make: Any, words: str
) -> None:
    image = make()
    entry = release_image(APP, ["1"], image)
    reason = await held(site, image, entry)
    assert words in reason
    assert reason.startswith("not by the image spec: ")
    before = actions(site)
    code, _, err = cli("release", APP, "--reason", "please", "--config", site.config)
    assert code == 1
    assert f"{APP}@{entry.root.digest}: cannot be released by anybody: not by the image spec" in err
    assert await site.once(border(site)) == 1
    assert actions(site) == before  # held is said once, and no release was recorded
    (row,) = json.loads(cli("held", "--json", "--config", site.config)[1])["held"]
    assert row["may_be_released"] is False


async def test_a_descriptor_of_another_type_than_the_document(site: Site) -> None:
    image = single_image()
    entry = release_image(APP, ["1"], image)
    root = Content("application/vnd.docker.distribution.manifest.v2+json", entry.root.digest, entry.root.size)
    assert "both must be equal" in await held(site, image, replace(entry, root=root))


# --- the hook ------------------------------------------------------------


async def test_a_hook_sees_layout_and_entry_and_is_asked_once(site: Site) -> None:
    image = single_image()
    asked = site.folder / "asked"
    run = script(site, f"cat >> {asked}; ls $1/blobs/sha256 | wc -l >> {asked}; echo CVE-1; exit 3")
    settings = {"verify": {"hook": {"run": run}}}
    site.fill(image)
    site.release(release_image(APP, ["1", "1.2"], image))
    for _ in range(2):  # a restart scans nothing again
        assert await site.once(border(site, **settings)) == 1
        assert site.images()[APP]["error"] == "hook scan.sh: exit code 3: CVE-1"
    line, count = asked.read_text().splitlines()
    assert int(count) == len(image.all_files())
    digest = image.root.descriptor.digest
    assert json.loads(line) == {
        "image": f"{APP}@{digest}",
        "tags": ["1", "1.2"],
        "collection": "default",
        "release": 1,
        "signers": ["unsigned"],
    }
    assert [one for one in actions(site) if one[0] == "held"] == [("held", f"{APP}@{digest}")]
    assert list((site.folder / "state/judging").iterdir()) == []
    script(site, "exit 0 # another scanner")  # judges again
    assert await site.once(border(site, **settings)) == 0


async def test_a_hook_that_hangs_or_is_not_there_stops_nothing_and_is_asked_again(site: Site) -> None:
    image = single_image()
    run = script(site, f"echo x >> {site.folder}/asked; sleep 60")
    rules = [{"match": APP, "verify": {"hook": {"run": run, "timeout": "300ms"}}}]
    began = time.monotonic()
    reason = await held(site, image, release_image(APP, ["1"], image), rules=rules)
    assert reason == "hook scan.sh: not done after 0.3 s (verify.hook.timeout), so it was ended"
    assert time.monotonic() - began < 10
    assert await site.once(border(site, rules=rules)) == 1
    assert (site.folder / "asked").read_text() == "x\nx\n"  # that was no verdict
    assert len([one for one in actions(site) if one[0] == "held"]) == 1
    rules[0]["verify"] = {"hook": {"run": "./gone.sh"}}
    async with site.publishing(border(site, rules=rules, again="500ms")):
        async with asyncio.timeout(5):
            while "No such file" not in str(site.images()[APP]["error"]):
                await asyncio.sleep(0.01)
        (site.folder / "gone.sh").write_text("#!/bin/sh\nexit 0\n")
        (site.folder / "gone.sh").chmod(0o755)
        await site.until(APP, "published")  # after `again`, by itself


async def test_a_verdict_that_has_become_old_is_looked_at_again(site: Site) -> None:
    image = single_image()
    run = script(site, f"echo x >> {site.folder}/asked; test -e {site.folder}/database")
    site.fill(image)
    site.release(release_image(APP, ["1"], image))
    async with site.publishing(border(site, verify={"hook": {"run": run}}, again="300ms")):
        await site.until(APP, "held")
        (site.folder / "database").touch()  # the scanner learns that it is harmless
        await site.until(APP, "published")


async def test_a_changed_policy_judges_again(site: Site) -> None:
    image = single_image()
    run = script(site, f"echo x >> {site.folder}/asked")
    await held_by(site, image, {"verify": {"max_blob": 1, "hook": {"run": run}}})
    assert not (site.folder / "asked").exists()  # nothing is scanned that is held anyway
    assert await site.once(border(site, verify={"hook": {"run": run}})) == 0
    assert (site.folder / "asked").read_text() == "x\n"


@pytest.mark.parametrize("end", ["exit 1", "kill -9 $$"], ids=["answers", "dies"])
async def test_for_several_targets_at_once_an_image_is_judged_once(site: Site, end: str) -> None:
    image = single_image()
    site.fill(image)
    entry = release_image(APP, ["1"], image)
    site.release(entry)
    run = script(site, f"echo x >> {site.folder}/asked; sleep 0.2; {end}")
    judge = Border(border(site, verify={"hook": {"run": run}}), site.journal, site.spool)
    (row,) = site.journal.newest_releases()
    results = await asyncio.gather(*(judge.admit(row, entry) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in results] == [HeldAtBorder] * 3
    assert (site.folder / "asked").read_text() == "x\n"
    await asyncio.gather(*(judge.published(row, entry, f"target {number}") for number in range(3)))
    assert [action for action, _ in actions(site)] == ["held", "published"]


@pytest.mark.parametrize("part", ["config", "simplesigning"])
async def test_bytes_that_rotted_in_the_spool_are_received_again_and_hold_nothing(site: Site, part: str) -> None:
    """What the disk has done to a configuration or a signature is no fault of the image's."""
    (site.folder / "team.pub").write_bytes(pem(KEY))
    image = single_image()
    entry, signature = signed(APP, image)
    site.fill(image, signature)
    site.release(entry)
    blobs = (image if part == "config" else signature).blobs
    rotten = next(digest for digest, (item, _) in blobs.items() if part in item.media_type)
    path = site.spool.path(rotten)
    path.write_bytes(b"x" * path.stat().st_size)
    settings = border(site, verify={"cosign": {"keys": ["team.pub"]}})
    async with site.publishing(settings):
        assert (await site.until(APP, "receiving"))["missing"] == 1
        site.fill(image, signature)
        await site.until(APP, "published")
    assert [action for action, _ in actions(site)] == ["published"]
