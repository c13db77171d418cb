"""Against real tools: skopeo reads what we write and serve, and we read what skopeo writes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oci.archive import open_archive
from oci.blobs import BlobStore
from oci.bundle import Bundle, index_entries
from oci.descriptor import Descriptor, sha256_digest
from oci.layout import Layout
from oci.server import RunningServer, serve
from oci.store import Source
from oci.volumes import VolumeWriter
from tests.oci_layout.images import legacy_files, multi_image, referrer_to, single_image, tar_of
from tests.oci_layout.test_archive import LEGACY_PIN, read_closure

pytestmark = [
    pytest.mark.registry,
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed"),
]

NAME = "internal/docker.io/library/app"


async def skopeo(tmp_path: Path, *arguments: str) -> bytes:
    # A policy of our own: the machine's may be missing.
    policy = tmp_path / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    command = ["skopeo", "--policy", str(policy), "--tmpdir", str(tmp_path), *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, error.decode()
    return out


async def run_copy(tmp_path: Path, source: str, target: str, *more: str, preserve: bool = True) -> None:
    # Without --preserve-digests skopeo compresses plain layers on the way.
    options = ["--src-tls-verify=false", "--dest-tls-verify=false", *more]
    await skopeo(tmp_path, "copy", *options, *(["--preserve-digests"] if preserve else []), source, target)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[Layout, RunningServer]]:
    layout = Layout(tmp_path / "served")
    server = await serve(layout)
    yield layout, server
    await server.close()


@pytest.mark.parametrize("kind", ["single", "multi"])
async def test_into_the_server_and_out_again(
    tmp_path: Path, running: tuple[Layout, RunningServer], kind: str
) -> None:
    layout, server = running
    image = single_image() if kind == "single" else multi_image()
    if kind == "multi":
        # skopeo 1.9 reads one level of index only.
        image.manifests.pop()
    await image.push(Layout(tmp_path / "from"), "1.0")
    remote = f"docker://127.0.0.1:{server.port}/{NAME}:1.0"
    await run_copy(tmp_path, f"oci:{tmp_path}/from:1.0", remote, "--all")
    assert await read_closure(layout.repository(NAME), "1.0") == image.all_files()
    raw = await skopeo(tmp_path, "inspect", "--tls-verify=false", "--raw", remote)
    assert raw == image.root.raw
    listed = json.loads(await skopeo(tmp_path, "list-tags", "--tls-verify=false", remote.rpartition(":")[0]))
    assert listed["Tags"] == ["1.0"]
    # The second time the server says that it has everything; then out, once more byte for byte.
    await run_copy(tmp_path, f"oci:{tmp_path}/from:1.0", remote, "--all")
    await run_copy(tmp_path, remote, f"oci:{tmp_path}/to:2.0", "--all")
    assert await read_closure(Layout.open(tmp_path / "to"), "2.0") == image.all_files()


async def test_served_by_digest_from_a_read_only_layout(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "served")
    image = single_image()
    await image.push(layout.repository(NAME), "1.0")
    server = await serve(layout, read_only=True)
    try:
        remote = f"docker://127.0.0.1:{server.port}/{NAME}@{image.root.descriptor.digest}"
        await run_copy(tmp_path, remote, f"oci:{tmp_path}/to:x")
        assert await read_closure(Layout.open(tmp_path / "to"), "x") == image.all_files()
        with pytest.raises(AssertionError, match="read-only"):
            await run_copy(tmp_path, f"oci:{tmp_path}/to:x", remote.partition("@")[0] + ":y")
    finally:
        await server.close()


async def test_users_of_skopeo(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "served")
    image = single_image()
    await image.push(layout.repository(NAME), "1.0")
    server = await serve(layout, users={"alice": "secret"})
    try:
        remote = f"docker://127.0.0.1:{server.port}/{NAME}:1.0"
        await run_copy(tmp_path, remote, f"oci:{tmp_path}/to:x", "--src-creds=alice:secret")
        with pytest.raises(AssertionError, match=r"authentication required|unauthorized"):
            await run_copy(tmp_path, remote, f"oci:{tmp_path}/to:y", "--src-creds=alice:wrong")
    finally:
        await server.close()


async def test_full_names_in_a_layout_of_ours(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "ours")
    image = single_image()
    await image.push(layout.repository(NAME), "1.0")
    await referrer_to(image.root.descriptor, "application/x.sig").push(layout.repository(NAME), None)
    await run_copy(tmp_path, f"oci:{tmp_path}/ours:{NAME}:1.0", f"oci:{tmp_path}/to:x")
    assert await read_closure(Layout.open(tmp_path / "to"), "x") == image.all_files()
    # And skopeo adds a name to ours without harm to what is there.
    other = single_image("other")
    await other.push(Layout(tmp_path / "other"), "1")
    await run_copy(tmp_path, f"oci:{tmp_path}/other:1", f"oci:{tmp_path}/ours:{NAME}:2.0")
    assert await layout.repository(NAME).tags() == ["1.0", "2.0"]
    assert await read_closure(layout.repository(NAME), "2.0") == other.all_files()
    assert len(await layout.referrers(image.root.descriptor.digest)) == 1


async def test_oci_archive_of_skopeo(tmp_path: Path) -> None:
    image = single_image()
    await image.push(Layout(tmp_path / "from"), "1.0")
    await run_copy(tmp_path, f"oci:{tmp_path}/from:1.0", f"oci-archive:{tmp_path}/a.tar:example.org/app:3")
    with open_archive(tmp_path / "a.tar") as source:
        assert await source.tags() == ["example.org/app:3"]
        assert await read_closure(source, image.root.descriptor.digest) == image.all_files()


async def move(source: Source, target: Layout, reference: str, tag: str) -> None:
    """Copy one image manifest with the public interface alone."""
    manifest = await source.manifest(reference)
    document = json.loads(manifest.raw)
    for entry in [document["config"], *document["layers"]]:
        descriptor = Descriptor(entry["mediaType"], entry["digest"], entry["size"])
        await target.push_blob(descriptor, lambda offset, item=descriptor: source.blob(item, offset))
    await target.push_manifest(manifest, tag)


async def test_docker_archive_of_skopeo(tmp_path: Path) -> None:
    image = single_image()
    await image.push(Layout(tmp_path / "from"), "1.0")
    archive = f"{tmp_path}/a.tar"
    await run_copy(
        tmp_path, f"oci:{tmp_path}/from:1.0", f"docker-archive:{archive}:example.org/app:4", preserve=False
    )
    target = Layout(tmp_path / "target")
    with open_archive(Path(archive)) as source:
        assert await source.tags() == ["4", "example.org/app:4"]
        await move(source, target, "example.org/app:4", "4")
    # The image made up is a real one: skopeo finds the same layers in it.
    await run_copy(tmp_path, f"oci:{tmp_path}/target:4", f"dir:{tmp_path}/dir")
    manifest = json.loads((tmp_path / "dir" / "manifest.json").read_bytes())
    original = json.loads(await skopeo(tmp_path, "inspect", "--config", "--raw", f"docker-archive:{archive}"))
    assert [layer["digest"] for layer in manifest["layers"]] == original["rootfs"]["diff_ids"]


async def test_legacy_archive_of_ours_is_one_for_skopeo_too(tmp_path: Path) -> None:
    files, links, config, _ = legacy_files()
    path = tmp_path / "legacy.tar"
    path.write_bytes(tar_of(files, links))
    found = await skopeo(tmp_path, "inspect", "--config", "--raw", f"docker-archive:{path}")
    assert sha256_digest(found) == sha256_digest(config)
    with open_archive(path) as source:
        await move(source, Layout(tmp_path / "target"), LEGACY_PIN, "1")
    await run_copy(tmp_path, f"oci:{tmp_path}/target:1", f"dir:{tmp_path}/dir")


async def test_skopeo_reads_what_archive_writes(tmp_path: Path) -> None:
    image = single_image("carried")
    store = BlobStore(tmp_path / "spool")
    for digest, data in image.all_files().items():
        store.write(digest, data)
    entries = index_entries([("docker.io/library/app:1.27", image.root.descriptor)], store)
    with VolumeWriter(tmp_path / "x.tar", 64 * 1024) as writer:
        blobs = {digest: len(data) for digest, data in image.all_files().items()}
        Bundle({"checkvalve/release": b"envelope"}, entries, blobs).write(writer.write, store)
        writer.commit()
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(path.read_bytes() for path in sorted(tmp_path.glob("x.tar.0*"))))
    out = Layout(tmp_path / "out")
    await run_copy(tmp_path, f"oci-archive:{joined}:docker.io/library/app:1.27", f"oci:{out.root}:copied")
    assert (await out.manifest("copied")).raw == image.root.raw
