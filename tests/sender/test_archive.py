"""The way across by hand: what a sender archives a receiver without a link publishes, and a sender imports."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from oci.client import Registry
from oci.layout import Layout
from runtime import keys
from sender.decisions import Decisions
from sender.releases import Signer
from tests.oci_layout.images import (
    Image,
    layout_files,
    legacy_files,
    multi_image,
    referrer_to,
    single_image,
    tar_of,
    write_files,
)
from tests.receiver.conftest import cli as receiver_cli  # noqa: F401 - a fixture
from tests.receiver.site import Cli
from tests.receiver.site import Site as ReceiverSite
from tests.receiver.test_retention import whole
from tests.sender.conftest import Site, Upstream
from tests.sender.test_cli import call
from tests.sender.watched import push
from tests.support.signed import new_key, tag_form

SPDX = "application/spdx+json"


@pytest.fixture
async def image(site: Site, upstream: Upstream) -> Image:
    """A release of an image with a referrer and a cosign signature, signed by this sender."""
    _, host = await upstream()
    site.registries[host] = {"plain_http": True}
    made = multi_image()
    await push(host, "team/app", "1", made)
    async with Registry(host, plain_http=True) as registry:
        repository = registry.repository("team/app")
        await referrer_to(made.root.descriptor, SPDX).push(repository, None)
        tag = made.root.descriptor.digest.replace(":", "-") + ".sig"
        await tag_form(made.root, new_key()).push(repository, tag)
    site.write({"image": f"{host}/team/app", "tags": ["1"], "as": "hub.example/app"})
    assert (await site.round()).failed == 0
    journal = site.journal()
    assert Signer(journal, keys.load_signing_key(site.folder / "keys/sender.pem")).sign_approved()
    journal.close()
    return made


async def test_from_a_sender_by_hand_to_a_pull(
    site: Site,
    image: Image,
    tmp_path: Path,
    receiver_cli: Cli,  # noqa: F811
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    code, out, err = call("archive", 1, "--out", media / "r.tar", "--volume-size", "64KiB", "--config", site.config)
    assert (code, err) == (0, "")
    assert "release default 1, " in out
    high = ReceiverSite(tmp_path / "high")
    shutil.copy(site.folder / "keys/sender.pub", high.folder / "keys/sender.pub")
    settings = high.configure("{layout: published, serve: {on: '127.0.0.1:0'}}")
    assert receiver_cli("import", media, "--config", high.config)[0] == 0
    lock = high.journal.connection.execute("SELECT lock FROM locks").fetchone()[0]
    assert lock.decode() == call("lock", 1, "--config", site.config)[1]
    async with high.publishing(settings):
        await high.until("hub.example/app", "published")
        place = str(high.journal.live()["publish"][0]["target"]).removeprefix("http://")
        async with Registry(place, plain_http=True) as client:
            repository = client.repository("internal/hub.example/app")
            assert (await repository.resolve("1")).digest == image.root.descriptor.digest
            assert len(await whole(repository, "1")) == len(image.all_files())
            assert len(await repository.referrers(image.root.descriptor.digest)) == 1
            assert await repository.resolve(image.root.descriptor.digest.replace(":", "-") + ".sig")
    # an archive that was made of it over there is the same, lock and all
    assert receiver_cli("archive", 1, "--out", tmp_path / "again.tar", "--config", high.config)[0] == 0
    joined = b"".join(path.read_bytes() for path in sorted(media.glob("r.tar.0*")))
    assert (tmp_path / "again.tar").read_bytes() == joined
    high.journal.close()


async def test_a_sender_takes_an_archive_of_a_release_as_a_source(site: Site, image: Image, tmp_path: Path) -> None:
    assert call("export", 1, "--out", tmp_path / "r.tar", "--config", site.config)[0] == 0
    other = Site(tmp_path / "elsewhere")
    keys.create_signing_key(other.folder / "keys/sender.pem")
    keys.create_hpke_key(other.folder / "keys/receiver.pem")
    other.write()
    code, lines, err = call("import", "--verify-only", tmp_path / "r.tar", "--config", other.config)
    assert (code, lines) == (0, "")
    assert "release default 1: 1 images, is whole" in err
    assert not (other.folder / "state/imports").exists()
    code, lines, err = call("import", tmp_path / "r.tar", "--config", other.config)
    assert code == 0
    assert f"image: hub.example/app:1@{image.root.descriptor.digest}" in lines
    assert lines.count("image:") == 1  # signatures and SBOMs travel with their subject
    (tmp_path / "r.tar").unlink()  # the medium is taken away
    other.images.write_text("images:\n" + lines)
    assert (await other.round()).failed == 0
    (proposed,) = other.proposal()
    assert len(proposed.referrers) == 1
    assert [tag for tag, _ in proposed.extra_tags] == [image.root.descriptor.digest.replace(":", "-") + ".sig"]
    assert "signed by this sender" in _imported_again(site, image, tmp_path)


def _imported_again(site: Site, image: Image, tmp_path: Path) -> str:
    assert call("archive", 1, "--out", tmp_path / "r2.tar", "--config", site.config)[0] == 0
    return call("import", tmp_path / "r2.tar", "--config", site.config)[2]


@pytest.mark.parametrize("kind", ["layout", "oci-archive", "docker-archive"])
async def test_a_sender_takes_what_other_tools_write(site: Site, tmp_path: Path, kind: str) -> None:
    made = single_image("theirs")
    source = tmp_path / ("theirs" if kind == "layout" else "theirs.tar")
    if kind == "docker-archive":
        files, links, _, _ = legacy_files()
        source.write_bytes(tar_of(files, links))
    elif kind == "layout":
        write_files(source, layout_files(made))
    else:
        source.write_bytes(tar_of(layout_files(made)))
    site.write()
    for _ in range(2):  # once more changes nothing
        code, lines, err = await asyncio.to_thread(call, "import", source, "--config", site.config)
        assert (code, lines.count("image:")) == (0, 1), err
    name = "example.org/app:1.0@" if kind == "docker-archive" else "localhost/theirs:latest@"
    assert name in lines
    site.images.write_text("images:\n" + lines)
    assert (await site.round()).failed == 0
    assert len(site.proposal()) == 1
    layout = Layout.open(site.folder / "state/imports")
    assert len(await layout.tags()) == (2 if kind == "docker-archive" else 1)


async def test_damage_is_named_on_this_side_too(site: Site, image: Image, tmp_path: Path) -> None:
    arguments = ("--volume-size", "64KiB", "--config", site.config)
    assert call("archive", 1, "--out", tmp_path / "r.tar", *arguments)[0] == 0
    path = tmp_path / "r.tar.001"
    data = bytearray(path.read_bytes())
    data[-3_000] ^= 1
    path.write_bytes(data)
    code, out, err = call("import", tmp_path, "--config", site.config)
    assert (code, out) == (1, "")
    assert "r.tar.001: damaged" in err
    assert Layout(site.folder / "state/imports").entries() == []


async def test_what_was_evicted_is_listed(site: Site, image: Image, tmp_path: Path) -> None:
    digest = image.root.descriptor.digest
    Layout(site.settings().spool).blobs.remove(digest)
    code, _, err = call("archive", 1, "--out", tmp_path / "r.tar", "--json", "--config", site.config)
    assert (code, f"missing: {digest}" in err) == (1, True)
    code, _, err = call("archive", 8, "--out", tmp_path / "r.tar", "--config", site.config)
    assert (code, err) == (1, "error: collection default has no release 8; `history` lists those there are\n")
    assert list(tmp_path.glob("*r.tar*")) == []
    journal = site.journal()
    assert json.dumps(Decisions(journal).releases()[0].sequence) == "1"
    journal.close()
