"""What a plan makes people look at: older builds, other signers, what is held, and what it costs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.client import Registry
from oci.descriptor import OCI_MANIFEST, referrers_tag
from sender import plan
from sender.lock import Lock, load_lock
from sender.lookup import look_up
from sender.preview import Preview
from sender.releases import Signer
from sender.sources import Sources
from sender.wire_cost import cost_of
from tests.oci_layout.images import CONFIG, LAYER, Image, as_json
from tests.sender.conftest import Site, Upstream
from tests.support.signed import PrivateKey, new_key, pem, tag_form

SENDER = Ed25519PrivateKey.generate()


def built(when: str, text: str) -> Image:
    image = Image()
    config = {"architecture": "amd64", "os": "linux", "created": when, "config": {}, "rootfs": {"diff_ids": []}}
    parts = [image.add_blob(CONFIG, json.dumps(config).encode()), image.add_blob(LAYER, text.encode())]
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": as_json(parts[0])}
    image.add_manifest({**document, "layers": [as_json(parts[1])]})
    return image


async def push(host: str, tag: str, image: Image, *signers: PrivateKey) -> None:
    async with Registry(host, plain_http=True) as registry:
        repository = registry.repository("team/app")
        await image.push(repository, tag)
        if signers:
            await tag_form(image.root, *signers).push(
                repository, referrers_tag(image.root.descriptor.digest) + ".sig"
            )


async def planned(site: Site, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    code = await asyncio.to_thread(plan.show, site.settings(), offline=False, as_json=True)
    return {**json.loads(capsys.readouterr().out), "code": code}


async def release(site: Site) -> None:
    await site.round()
    journal = site.journal()
    assert Signer(journal, SENDER).sign_approved()
    journal.close()


@pytest.fixture
async def host(site: Site, upstream: Upstream) -> str:
    _, found = await upstream()
    site.registries[found] = {"plain_http": True}
    return found


async def test_a_tag_that_moves_to_an_older_build_or_another_signer_is_pointed_out(
    site: Site, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = new_key()
    await push(host, "1", built("2026-11-20T00:00:00Z", "new"), ours)
    site.write({"image": f"{host}/team/app", "tags": ["1"], "follow": "digest"})
    await release(site)
    assert (await planned(site, capsys))["code"] == 0
    await push(host, "1", built("2026-11-10T00:00:00Z", "old"), ours)
    found = await planned(site, capsys)
    assert (found["code"], [one["change"] for one in found["changes"]["default"]]) == (plan.EXIT_CHANGES, ["moved"])
    assert found["warnings"] == [f"{host}/team/app:1: moves to an older build, by 10 d"]
    await push(host, "1", built("2026-11-21T00:00:00Z", "unsigned"))
    (warning,) = (await planned(site, capsys))["warnings"]
    assert warning.startswith(f"{host}/team/app:1: was signed by ")
    assert warning.endswith(", is unsigned")


async def test_with_a_policy_signers_are_known_by_their_keys(
    site: Site, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [new_key(), new_key()]
    for number, key in enumerate(keys):
        (site.folder / f"{number}.pub").write_bytes(pem(key))
    policy = {"cosign": {"keys": ["0.pub", "1.pub"]}}
    await push(host, "1", built("2026-11-20T00:00:00Z", "one"), keys[0])
    site.write({"image": f"{host}/team/app", "tags": ["1"], "follow": "digest", "verify": policy})
    await release(site)
    await push(host, "1", built("2026-11-21T00:00:00Z", "two"), keys[1])
    (warning,) = (await planned(site, capsys))["warnings"]
    before, after = warning.partition(": was signed by ")[2].split(", is signed by ")
    assert before != after
    assert before.startswith("key ")
    await push(host, "1", built("2026-11-22T00:00:00Z", "three"), new_key())
    found = await planned(site, capsys)
    assert (found["code"], found["changes"]["default"]) == (1, [])
    assert "signed by nobody trusted" in found["held"][0]
    await site.round()
    assert "held: signed by nobody trusted" in site.said[0]
    capsys.readouterr()
    assert await asyncio.to_thread(plan.show, site.settings(), offline=True, as_json=True) == 1
    (held,) = json.loads(capsys.readouterr().out)["held"]
    assert held.partition(": ")[2].startswith("signed by nobody trusted")


def test_the_cost_counts_repair_symbols_passes_and_headers(site: Site) -> None:
    site.write()
    settings = site.settings()
    cost = cost_of(settings, [100_000_000])
    assert 1.10 < cost.wire_bytes / cost.content_bytes < 1.25
    assert cost.seconds == pytest.approx(cost.wire_bytes * 8 / settings.link.rate)
    together = cost_of(settings, [100] * 50).wire_bytes
    assert together < 50 * cost_of(settings, [100]).wire_bytes / 20, "small ones travel together"
    assert cost_of(settings, []).wire_bytes == 0


async def test_what_came_to_refer_to_a_locked_image_since_is_not_planned(site: Site, host: str) -> None:
    image = built("2026-11-20T00:00:00Z", "one")
    await push(host, "1", image)
    site.write({"image": f"{host}/team/app", "tags": ["1"]})
    await site.round()
    await push(host, "1", image, new_key())
    lock = load_lock(site.settings().lock_file)
    async with Sources(site.settings().fetch) as sources:
        looked = await look_up(site.settings(), None, sources)
        (pin,) = looked.wanted.pins
        locked = await Preview(site.settings(), None, sources, lock).look(pin)
        unlocked = await Preview(site.settings(), None, sources, Lock()).look(pin)
    assert (locked.image.extra_tags if locked.image else None) == ()
    assert len(unlocked.image.extra_tags if unlocked.image else ()) == 1
