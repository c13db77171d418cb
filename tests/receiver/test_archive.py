"""``archive`` and ``import``: a release carried by hand comes into spool and journal as it does over the link."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.blobs import BlobStore
from oci.bundle import Bundle, index_entries
from oci.descriptor import sha256_digest
from oci.layout import Layout
from oci.volumes import VOLUME_BYTES_MIN, VolumeWriter
from protocol.archive import ENVELOPE, LOCK
from protocol.release import Release, payload_of, seal_release
from receiver.archive import named
from receiver.desired import desired_marks, release_of
from receiver.retention import Keeping
from runtime.database import transaction
from tests.oci_layout.images import Image, multi_image, referrer_to, single_image
from tests.receiver.site import Cli, Site, noise, release_image
from tests.receiver.test_retention import gc, whole

NGINX = "docker.io/library/nginx"


@pytest.fixture
def other(site: Site, tmp_path: Path) -> Site:
    """Another receiver that trusts the same sender, and has no link."""
    made = Site(tmp_path / "other")
    shutil.copy(site.folder / "keys/sender.pub", made.folder / "keys/sender.pub")
    made.configure("{layout: published}")
    return made


@pytest.fixture
def large() -> tuple[Image, Image]:
    """An image that fills several small volumes, and what refers to it."""
    image = multi_image()
    for number in range(3):
        image.blobs.update(single_image(f"more {number}").blobs)
        image.add_blob("application/vnd.oci.image.layer.v1.tar+zstd", noise(90_000, number))
    return image, referrer_to(image.root.descriptor, "application/vnd.example.signature")


@pytest.fixture
def made(site: Site, large: tuple[Image, Image], cli: Cli, tmp_path: Path) -> Path:
    """The folder with the volumes of release 1."""
    site.configure("{layout: published}")
    site.fill(*large)
    site.release(release_image(NGINX, ["1.27", "latest"], *large))
    folder = tmp_path / "media"
    folder.mkdir()
    arguments = ("--out", folder / "one.tar", "--volume-size", VOLUME_BYTES_MIN, "--config", site.config)
    code, out, err = cli("archive", 1, *arguments)
    assert (code, err) == (0, "")
    assert "wrote one.tar.001 to one.tar.00" in out
    return folder


async def test_what_one_receiver_archives_another_publishes(
    site: Site, other: Site, made: Path, large: tuple[Image, Image], cli: Cli
) -> None:
    code, out, _ = cli("import", "--verify-only", made, "--config", other.config)
    assert (code, out.startswith("release default 1 is whole: 1 images")) == (0, True)
    assert not (other.folder / "state/spool").exists()
    for path in sorted(made.iterdir(), reverse=True):  # a medium that cannot be written to
        path.chmod(0o400)
    made.chmod(0o500)
    code, out, err = cli("import", made, "--config", other.config)
    assert (code, err) == (0, "")
    assert out.startswith("release default 1 is here: 1 images")
    (row,) = other.journal.releases()
    assert row.envelope == site.journal.releases()[0].envelope
    settings = other.configure("{layout: published}")
    async with other.publishing(settings):
        await other.until(NGINX, "published")
    repository = Layout.open(other.folder / "published").repository(f"internal/{NGINX}")
    assert await whole(repository, "1.27") == await whole(repository, "latest")
    assert len(await repository.referrers(large[0].root.descriptor.digest)) == 1
    code, out, _ = cli("import", made / "one.tar.003", "--json", "--config", other.config)  # its siblings are found
    found = json.loads(out[out.index("\n{\n") + 1 :] if not out.startswith("{") else out)
    assert (code, found["known"], found["new"], found["desired"]) == (0, True, 0, True)


def test_the_same_release_gives_the_same_bytes_again(site: Site, other: Site, made: Path, cli: Cli) -> None:
    assert cli("import", made, "--config", other.config)[0] == 0
    whole_tar = made.parent / "whole.tar"
    assert cli("archive", 1, "--out", whole_tar, "--config", other.config)[0] == 0
    joined = b"".join(path.read_bytes() for path in sorted(made.glob("one.tar.0*")))
    assert whole_tar.read_bytes() == joined
    code, _, err = cli("archive", 1, "--out", whole_tar, "--config", other.config)
    assert (code, err) == (1, f"error: {whole_tar}: exists already; remove it, or give another name\n")
    assert cli("archive", 1, "--out", "x.zip", "--config", other.config)[0] == 2
    assert cli("archive", 1, "--out", "x.tar", "--volume-size", "4 gigs", "--config", other.config)[0] == 2


def test_an_import_mends_a_release_that_the_journal_has_damaged(site: Site, made: Path, cli: Cli) -> None:
    envelope = site.journal.releases()[0].envelope
    with transaction(site.journal.connection) as connection:
        connection.execute("UPDATE releases SET envelope = ?", (envelope[:-9],))
    code, out, _ = cli("status", "--json", "--config", site.config)
    assert (code, '"release_unusable"' in out) == (1, True)
    assert cli("import", made, "--config", site.config)[0] == 0
    assert site.journal.releases()[0].envelope == envelope
    assert '"release_unusable"' not in cli("status", "--json", "--config", site.config)[1]


def flip(path: Path, at: int = 30_000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: flip(folder / "one.tar.003"), ["one.tar.003: damaged", "blob sha256:"]),
        (lambda folder: flip(folder / "one.tar.001", 8_000), ["one.tar.001: damaged"]),
        (lambda folder: swap(folder / "one.tar.002", folder / "one.tar.003"), ["it holds what one.tar.003 should"]),
        (lambda folder: (folder / "one.tar.002").write_bytes(b""), ["one.tar.002: cut off: 0 bytes, its list says"]),
        (lambda folder: (folder / "one.tar.002").unlink(), ["one.tar.002 is missing; name the folder with it"]),
        (lambda folder: (folder / "one.tar.json").write_text("{}"), ["one.tar.json: damaged"]),
    ],
    ids=["flip", "flip-envelope", "swap", "cut", "missing", "list"],
)
def test_damage_is_named_and_nothing_of_the_release_is_recorded(
    other: Site, made: Path, cli: Cli, damage: Callable[[Path], object], says: list[str]
) -> None:
    damage(made)
    for options in (["--verify-only"], []):
        code, _, err = cli("import", *options, made, "--config", other.config)
        assert code == 1
        assert [line for line in says if line not in err] == []
    assert other.journal.releases() == []
    for digest in other.spool.digests():
        other.spool.verify(digest)


def test_an_import_that_broke_off_goes_on_where_it_was(other: Site, made: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "good")
    flip(made / "one.tar.004")
    assert cli("import", made, "--config", other.config)[0] == 1
    before = len(list(other.spool.digests()))
    assert before > 3
    code, out, _ = cli("import", tmp_path / "good", "--json", "--config", other.config)
    found = json.loads(out)
    assert (code, found["new"]) == (0, found["blobs"] - before)


def test_strangers_and_forged_lists_are_refused(site: Site, other: Site, made: Path, cli: Cli) -> None:
    stranger = site.release(
        release_image(NGINX, ["1"], single_image()), signer=Ed25519PrivateKey.generate(), sequence=7
    )
    assert stranger
    site.fill(single_image())
    assert cli("archive", 7, "--out", made / "x.tar", "--config", site.config)[0] == 0
    code, _, err = cli("import", made / "x.tar", "--config", other.config)
    assert (code, err) == (1, "error: x.tar: its release is refused: release_untrusted: signed by no trusted key\n")
    approvers = "approvals: {'*': {approvers: [keys/alice.pub]}}\n"
    from runtime.keys import create_signing_key

    create_signing_key(other.folder / "keys/alice.pem")
    other.configure("{layout: published}", more=approvers)
    code, _, err = cli("import", made / "one.tar.001", "--config", other.config)
    assert (code, "approved by 0 of 1" in err) == (1, True)


def test_an_index_that_leads_elsewhere_is_damage(site: Site, other: Site, cli: Cli, tmp_path: Path) -> None:
    """Other tools would believe it; the signature says what it should be."""
    image, evil = single_image(), single_image("evil")
    site.configure("{layout: published}")
    site.fill(image, evil)
    site.release(release_image(NGINX, ["1"], image))
    row = site.journal.releases()[0]
    blobs = {digest: len(data) for digest, data in image.all_files().items()}
    entries = index_entries([(f"{NGINX}:1", evil.root.descriptor)], site.spool)
    with VolumeWriter(tmp_path / "x.tar", None) as writer:
        Bundle({ENVELOPE: row.envelope}, entries, blobs).write(writer.write, site.spool)
        writer.commit()
    code, _, err = cli("import", tmp_path / "x.tar", "--config", other.config)
    assert (code, "index.json does not lead to what its release names" in err) == (1, True)
    extra = blobs | {digest: len(data) for digest, data in evil.all_files().items()}
    right = index_entries(named(release_of(row)), site.spool)
    for number, (documents, contents, says) in enumerate(
        [
            ({ENVELOPE: row.envelope}, extra, "is no content of it; refused"),
            ({ENVELOPE: row.envelope, "checkvalve/readme": b"x"}, blobs, "does not belong there; refused"),
            ({LOCK: b"x"}, blobs, "no checkvalve/release in it"),
            ({ENVELOPE: row.envelope}, dict(list(blobs.items())[1:]), "is not in it"),
            ({ENVELOPE: row.envelope[:-1]}, blobs, "its release is refused: "),
        ]
    ):
        path = tmp_path / f"bad-{number}.tar"
        with VolumeWriter(path, None) as writer:
            Bundle(documents, right, contents).write(writer.write, site.spool)
            writer.commit()
        code, _, err = cli("import", path, "--config", other.config)
        assert code == 1
        assert says in err
    assert other.journal.releases() == []


async def test_an_old_release_becomes_history_and_can_be_activated(
    site: Site, other: Site, made: Path, cli: Cli, large: tuple[Image, Image]
) -> None:
    newer = single_image("newer")
    settings = other.configure("{layout: published}", more="retention: {releases: 1}\n")
    other.fill(newer)
    first = site.journal.releases()[0].digest
    payload = payload_of(Release("default", 2, first, "2025-01-01T00:00:00Z", (release_image(NGINX, ["1"], newer),)))
    digest = sha256_digest(payload)
    other.journal.save_release("default", 2, digest, seal_release(payload, site.signer), time.time())
    code, out, _ = cli("import", made, "--config", other.config)
    assert (code, "a newer or activated one stays what the target shows" in out) == (0, True)
    assert desired_marks(other.journal)["default"] == (2, digest)
    await gc(other, settings)  # it came last: it is not let go at once
    assert other.spool.size(large[0].root.descriptor.digest) is not None
    assert cli("activate", 1, "--config", other.config)[0] == 0
    assert desired_marks(other.journal)["default"] == (1, first)
    assert Keeping(other.journal, settings.retention).kept() == {("default", 1), ("default", 2)}


@pytest.mark.parametrize(
    ("sequence", "previous", "says"),
    [
        (1, None, "another one with this number is here"),
        (2, "sha256:" + "2" * 64, "release 2, which is here, follows another one"),
    ],
)
def test_a_release_that_contradicts_the_ones_here_is_refused(
    other: Site, made: Path, cli: Cli, site: Site, sequence: int, previous: str | None, says: str
) -> None:
    payload = payload_of(Release("default", sequence, previous, "2025-01-01T00:00:00Z", ()))
    other.journal.save_release("default", sequence, sha256_digest(payload), seal_release(payload, site.signer), 1.0)
    code, _, err = cli("import", made, "--config", other.config)
    assert (code, says in err) == (1, True)
    assert len(other.journal.releases()) == 1


def test_what_is_not_whole_is_not_archived(site: Site, made: Path, cli: Cli, large: tuple[Image, Image]) -> None:
    layer = next(iter(large[0].blobs))
    site.spool.remove(layer)
    code, _, err = cli("archive", 1, "--out", made / "y.tar", "--config", site.config)
    assert (code, f"missing: {layer}" in err) == (1, True)
    site.spool.write(layer, large[0].blobs[layer][1])
    path = site.spool.path(layer)
    path.write_bytes(b"x" * path.stat().st_size)
    code, _, err = cli("archive", 1, "--out", made / "y.tar", "--config", site.config)
    assert (code, "has other bytes than its name says" in err) == (1, True)
    assert not [one for one in made.iterdir() if "y.tar" in one.name]


def test_memory_does_not_grow_with_what_is_archived(site: Site, other: Site, cli: Cli, tmp_path: Path) -> None:
    import tracemalloc

    image = single_image()
    layer = image.add_blob("application/vnd.oci.image.layer.v1.tar", bytes(64 << 20))
    site.configure("{layout: published}")
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    image.blobs.clear()
    tracemalloc.start()
    try:
        assert cli("archive", 1, "--out", tmp_path / "x.tar", "--config", site.config)[0] == 0
        assert cli("import", tmp_path / "x.tar", "--config", other.config)[0] == 0
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert BlobStore(other.folder / "state/spool").size(layer.digest) == 64 << 20
