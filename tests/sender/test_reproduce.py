"""A release comes out again from its archived lock alone, on another machine, whatever registries hold since."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.client import Registry
from runtime import keys
from runtime.errors import UserError
from sender.decisions import Decisions
from sender.releases import Signer
from sender.reproduce import Reproduced, archived_lock, parse_envelope, reproduce
from tests.oci_layout.images import multi_image, referrer_to, single_image
from tests.sender.conftest import Site, Upstream
from tests.sender.watched import push
from tests.support.signed import new_key, tag_form


@pytest.fixture
def elsewhere(site: Site, tmp_path: Path) -> Site:
    """Another machine, that has settings and nothing else."""
    folder = tmp_path / "elsewhere"
    keys.create_signing_key(folder / "keys" / "sender.pem")
    keys.create_hpke_key(folder / "keys" / "receiver.pem")
    return Site(folder, site.registries)


def release(site: Site) -> str:
    """Sign what is proposed; return the payload's digest."""
    journal = site.journal()
    assert Signer(journal, Ed25519PrivateKey.generate()).sign_approved()
    (row,) = journal.newest_releases()
    journal.close()
    return row.digest


async def made_again(site: Site, path: Path) -> Reproduced:
    return await asyncio.to_thread(reproduce, site.settings(), path)


async def released(site: Site, host: str) -> str:
    """A release of each kind of line; return its archived lock."""
    image, plain = multi_image(), single_image("plain")
    await push(host, "team/app", "1", image)
    await push(host, "team/plain", "1", plain)
    async with Registry(host, plain_http=True) as registry:
        repository = registry.repository("team/app")
        await referrer_to(image.root.descriptor, "application/spdx+json").push(repository, None)
        tag = image.root.descriptor.digest.replace(":", "-") + ".sig"
        await tag_form(image.root, new_key()).push(repository, tag)
    site.write(
        {"image": f"{host}/team/app", "tags": ["1"], "platforms": ["linux/amd64"]},
        {"image": f"{host}/team/app", "tags": ["1"], "as": "hub.example/app"},
        {"image": f"{host}/team/app", "tags": ["1"], "as": "hub.example/lean", "referrers": ["*spdx*"]},
        f"{host}/team/plain@{plain.root.descriptor.digest}",
    )
    assert (await site.round()).ready == 4, site.said
    release(site)
    # What registries hold changes: tags move, and more refers to what was released.
    await push(host, "team/app", "1", "another")
    async with Registry(host, plain_http=True) as registry:
        repository = registry.repository("team/app")
        await referrer_to(image.root.descriptor, "application/spdx+json", "later").push(repository, None)
        await tag_form(image.root, new_key()).push(repository, tag)
    return archived_lock(site.settings(), "default", 1)


async def test_bit_for_bit_from_registries_that_have_moved_on(
    site: Site, elsewhere: Site, upstream: Upstream, tmp_path: Path
) -> None:
    _, host = await upstream()
    site.registries[host] = {"plain_http": True, "requests": "1000/s"}
    lock = tmp_path / "release-1.lock"
    lock.write_text(await released(site, host))
    elsewhere.write()
    done = await made_again(elsewhere, lock)
    journal = site.journal()
    row = Decisions(journal).release("default", 1)
    journal.close()
    assert row is not None
    assert done.identical
    size = int.from_bytes(row.envelope[4:8], "little")
    assert done.payload == row.envelope[8 : 8 + size]
    images = {image.name: image for image in parse_envelope(row.envelope).images}
    assert images[f"{host}/team/app"].absent != ()
    assert images["hub.example/app"].absent == ()
    assert len(images["hub.example/app"].referrers) == len(images["hub.example/lean"].referrers) == 1
    assert not (elsewhere.folder / "state" / "journal.sqlite").exists()


async def test_a_line_that_was_changed_is_refused_by_its_number(
    site: Site, elsewhere: Site, upstream: Upstream, tmp_path: Path
) -> None:
    _, host = await upstream()
    site.registries[host] = {"plain_http": True, "requests": "1000/s"}
    lines = (await released(site, host)).splitlines()
    elsewhere.write()
    lock = tmp_path / "release-1.lock"

    async def refused(number: int, **changed: Any) -> str:
        document = json.loads(lines[number - 1]) | changed
        text = [*lines[: number - 1], json.dumps(document), *lines[number:]]
        lock.write_text("\n".join(text) + "\n")
        with pytest.raises(UserError) as caught:
            await made_again(elsewhere, lock)
        return str(caught.value)

    zeros = "sha256:" + "0" * 64
    for number in range(2, 6):
        line = json.loads(lines[number - 1])
        where = f"{lock}:{number}: {line['image']}: "
        assert await refused(number, size=line["size"] + 1) == (
            f"{where}size is {line['size'] + 1}; the image has {line['size']}"
        )
        said = await refused(number, mediaType="application/x")
        assert said.startswith(f"{where}mediaType is application/x; the image has application/vnd.oci")
        assert (await refused(number, closure=zeros)).startswith(f"{where}closure is {zeros}; the image has sha256:")
        assert (await refused(number, digest=zeros)).startswith(where)
        assert (await refused(number, size="1")).startswith(f"{lock}:{number}: size: ")
    both = [line.replace('"size": ', '"size": 1') for line in lines]
    lock.write_text("\n".join(both) + "\n")
    with pytest.raises(UserError) as caught:
        await made_again(elsewhere, lock)
    assert [line.removeprefix(f"{lock}:")[:2] for line in str(caught.value).splitlines()] == ["2:", "3:", "4:", "5:"]
    lock.write_text("\n".join(lines[:-1]) + "\n")  # a line that is gone shows in the digest only
    assert not (await made_again(elsewhere, lock)).identical
