"""Policies of images.yaml in whole rounds: what fails is held with its reason, looked at again, and released then."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci.client import Registry
from oci.descriptor import referrers_tag
from sender.lock import load_lock
from tests.oci_layout.images import Image, single_image
from tests.sender.conftest import Site, Upstream
from tests.support.signed import new_key, pem, tag_form


async def push(host: str, image: Image, tag: str) -> None:
    async with Registry(host, plain_http=True) as registry:
        await image.push(registry.repository("app"), tag)


@pytest.fixture
async def host(site: Site, upstream: Upstream) -> str:
    _, found = await upstream()
    site.registries[found] = {"plain_http": True}
    return found


def hook(site: Site, text: str) -> Path:
    path = site.folder / "scan.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_a_signature_that_comes_later_lets_the_image_pass(site: Site, host: str) -> None:
    key, image, other = new_key(), single_image("one"), single_image("other")
    (site.folder / "release.pub").write_bytes(pem(key))
    await push(host, image, "1")
    await push(host, other, "2")
    policy = {"cosign": {"keys": ["release.pub"]}}
    site.write({"image": f"{host}/app", "tags": ["1"], "verify": policy}, {"image": f"{host}/app", "tags": ["2"]})
    outcome = await site.round()
    assert (outcome.ready, outcome.failed) == (1, 1)
    assert "held: unsigned: no cosign signature of sha256:" in site.said[0]
    assert site.states() == {f"{host}/app:1": "held", f"{host}/app:2": "ready"}
    assert [one.tags for one in site.proposal()] == [("2",)]
    assert len(site.queue()) == 1, "what is held is not prepared for the wire"
    await push(host, tag_form(image.root, key), referrers_tag(image.root.descriptor.digest) + ".sig")
    assert (await site.round()).failed == 0
    assert [one.tags for one in site.proposal()] == [("1",), ("2",)]
    entry = load_lock(site.settings().lock_file).entries["default", f"{host}/app", "1"]
    assert [one.startswith("key sha256:") for one in entry.signers] == [True]
    assert list(entry.tagged) == [referrers_tag(image.root.descriptor.digest) + ".sig"]


async def test_a_scanner_sees_the_image_and_the_lock_and_says_no_until_it_says_yes(site: Site, host: str) -> None:
    await push(host, single_image("one"), "1")
    seen = site.folder / "seen"
    hook(site, f'cat > {seen}; test -f "$1/index.json" || exit 9; echo "CVE-2026-1 in libfoo"; exit 1')
    site.write({"image": f"{host}/app", "tags": ["1"], "verify": {"hook": {"run": "./scan.sh"}}})
    await site.round()
    assert "CVE-2026-1 in libfoo" in site.said[0]
    assert f'"image":"{host}/app:1"' in seen.read_text().replace(" ", "")
    assert site.proposal() == ()
    hook(site, f"echo again >> {seen}; exit 0")
    assert (await site.round()).ready == 1
    asked = seen.read_text()
    assert (await site.round()).ready == 1
    assert seen.read_text() == asked, "what was found good is not scanned again"


async def test_a_policy_that_comes_later_leaves_what_was_released_where_it_is(site: Site, host: str) -> None:
    first = single_image("one")
    await push(host, first, "1")
    rule = {"image": f"{host}/app", "tags": ["1"], "follow": "digest"}
    site.write(rule)
    await site.round()
    before = site.proposal()
    site.write({**rule, "verify": {"repositories": ["registry.example/*"]}})
    outcome = await site.round()
    assert (outcome.ready, outcome.failed, outcome.proposed) == (0, 1, False)
    assert f"repository {host}/app is not allowed; verify.repositories allows registry.example/*" in site.said[0]
    assert site.proposal() == before
    await push(host, single_image("two"), "1")
    await site.round()
    assert site.proposal() == before
