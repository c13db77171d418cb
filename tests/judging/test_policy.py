"""The policy of an entry: what its settings accept, and what each check holds against an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from judging.cosign import Key, signature_tag
from judging.policy import Subject, Verdict, admissible, admissible_source, judge, load_keys, signers_of
from judging.policy_model import Verify
from oci.closure import walk
from oci.layout import Layout
from oci.reference import parse_reference
from runtime.document import load_yaml
from runtime.errors import UserError
from runtime.settings import Section, validate
from sender.desired import release_image
from tests.oci_layout.images import Image, multi_image, single_image
from tests.support.signed import bundle_form, dsse_bundle, new_key, pem, statement, tag_form

KEY = new_key()
SIGNER = Key(KEY.public_key()).signer.identity


class _File(Section):
    verify: Verify


def policy(folder: Path, **settings: Any) -> Verify:
    """As in images.yaml: JSON is YAML, keys and hooks start from its folder."""
    path = folder / "images.yaml"
    path.write_text(json.dumps({"verify": settings}))
    return validate(load_yaml(path), _File).verify


def key_file(folder: Path, name: str = "cosign.pub", content: bytes | None = None) -> str:
    (folder / name).write_bytes(pem(KEY) if content is None else content)
    return name


async def subject_of(spool: Layout, image: Image, *attached: Image, tagged: Image | None = None) -> Subject:
    await image.push(spool, None)
    root = image.root.descriptor
    for one in attached:
        await one.push(spool, None)
    if tagged is not None:
        await tagged.push(spool, signature_tag(root.digest))
    reference = parse_reference(f"registry.example/team/app:1@{root.digest}")
    return Subject(reference, release_image(reference.name, await walk(spool, root), foreign=False), {"image": "x"})


@pytest.fixture
def spool(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "spool")


async def verdict(asked: Verify, subject: Subject, spool: Layout) -> Verdict:
    return await judge(asked, load_keys(asked), subject, spool.blobs, spool.root.parent / "scratch")


def test_everything_is_optional_and_paths_start_from_the_file(tmp_path: Path) -> None:
    assert policy(tmp_path) == Verify()
    asked = policy(
        tmp_path,
        cosign={"keys": ["keys/a.pub"]},
        registries="*.example",
        max_image="2GiB",
        max_blob=5,
        hook={"run": "hooks/scan.sh"},
    )
    assert asked.cosign is not None
    assert asked.cosign.keys == (tmp_path / "keys/a.pub",)
    assert asked.cosign.at_least == 1
    assert asked.registries == ("*.example",)
    assert (asked.max_image, asked.max_blob) == (2 << 30, 5)
    assert asked.hook is not None
    assert asked.hook.run == (str(tmp_path / "hooks/scan.sh"),)
    assert asked.hook.timeout == 600
    named = policy(tmp_path, hook={"run": ["trivy", "image", "a/b"], "timeout": "90s"})
    assert named.hook is not None
    assert (named.hook.run, named.hook.timeout) == (("trivy", "image", "a/b"), 90)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"cosing": {}}, "verify.cosing: unknown key; did you mean cosign?"),
        ({"cosign": {}}, "verify.cosign: trusts nobody; give keys"),
        ({"cosign": {"keys": ["a"], "at_least": 2}}, "verify.cosign: at_least 2 of 1 can never be; give at most 1"),
        ({"cosign": {"keys": ["a"], "at_least": 0}}, "verify.cosign.at_least: 0 is too small; give at least 1"),
        ({"cosign": {"keyless": {"identity": "a"}}}, "verify.cosign.keyless.issuer: is missing; add this key"),
        ({"cosign": {"keys": [3]}}, "verify.cosign.keys[0]: 3 is not a path"),
        ({"registries": []}, "verify.registries: [] has too few items; give at least 1"),
        ({"registries": [1]}, "verify.registries[0]: 1 is not text; put it in quotes"),
        ({"max_image": "5 Mb"}, "verify.max_image: '5 Mb' is not a size; give e.g. 10GiB or 500MB"),
        ({"hook": {"run": []}}, "verify.hook.run: '[]' is no command; give a path, or a list"),
        ({"hook": {"run": ""}}, "verify.hook.run: '' is no executable; give its path"),
        ({"hook": {"run": "x", "timeout": "0s"}}, "verify.hook.timeout: 0 s leaves no time; give e.g. 10m"),
    ],
)
def test_settings_that_are_wrong_are_refused_with_file_and_line(
    tmp_path: Path, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as raised:
        policy(tmp_path, **settings)
    assert str(raised.value).startswith(f"{tmp_path}/images.yaml:1: {line}")


def private_pem() -> bytes:
    return KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such key file"),
        (b"garbage", "is not a PEM public key"),
        (private_pem(), "is a private key; give the public half, cosign.pub"),
        (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nc2VjcmV0\n", "is a private key; give the public half"),
        (b"x" * 20_000, "larger than 16384 bytes"),
        (pem(rsa.generate_private_key(65537, 1024)), "is an RSA key of 1024 bits; one of at least 2048"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "is a key on curve secp256k1; one on P-256"),
        (pem(dsa.generate_private_key(2048)), "holds a key of another kind"),  # type: ignore[arg-type]
    ],
)
def test_key_files_that_are_wrong_are_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "cosign.key").write_bytes(content)
    with pytest.raises(UserError) as raised:
        load_keys(policy(tmp_path, cosign={"keys": ["cosign.key"]}))
    assert str(raised.value).startswith(f"{tmp_path}/cosign.key: ")
    assert reason in str(raised.value)
    secret = private_pem().splitlines()[1].decode()
    assert secret not in str(raised.value)


def test_every_wrong_key_file_has_its_line_and_one_key_counts_once(tmp_path: Path) -> None:
    keys = [key_file(tmp_path), key_file(tmp_path, "again.pub"), "missing.pub"]
    with pytest.raises(UserError) as raised:
        load_keys(policy(tmp_path, cosign={"keys": keys, "at_least": 2}))
    assert [line.partition(": ")[2].partition(";")[0] for line in str(raised.value).splitlines()] == [
        "holds a key that verify.cosign.keys names already",
        "no such key file",
    ]


async def test_what_descriptors_show_is_said_without_any_blob(tmp_path: Path, spool: Layout) -> None:
    subject = await subject_of(spool, single_image())
    total = sum(part.size for part in (subject.image.root, *subject.image.closure))
    asked = policy(
        tmp_path,
        registries=["docker.io", "*.internal:5000"],
        repositories=["registry.example/base/*"],
        media_types=["application/vnd.oci.image.manifest*", "*.tar"],
        max_blob=400,
        max_image=total - 1,
    )
    assert admissible_source(asked, subject.reference) == (
        "registry registry.example is not allowed; verify.registries allows docker.io, *.internal:5000",
        "repository registry.example/team/app is not allowed; verify.repositories allows registry.example/base/*",
    )
    reasons = admissible(asked, subject)
    assert reasons[:2] == admissible_source(asked, subject.reference)
    assert reasons[2] == (
        "media type application/vnd.oci.image.config.v1+json, application/vnd.oci.image.layer.v1.tar+gzip is not "
        "allowed; verify.media_types allows application/vnd.oci.image.manifest*, *.tar"
    )
    assert reasons[3].endswith("larger than verify.max_blob, 400 bytes")
    assert reasons[4] == f"{total:,} bytes in all are more than verify.max_image, {total - 1:,} bytes"
    assert (await verdict(asked, subject, spool)).held == reasons
    exact = policy(tmp_path, registries="registry.*", repositories="*/team/*", media_types="*", max_image=total)
    assert await verdict(exact, subject, spool) == Verdict((), ("unsigned",))


@pytest.mark.parametrize("form", ["tag", "bundle"])
async def test_a_signed_index_crosses_and_its_signer_has_a_name(tmp_path: Path, spool: Layout, form: str) -> None:
    image = multi_image()
    digest = image.root.descriptor.digest
    asked = policy(tmp_path, cosign={"keys": [key_file(tmp_path)]})
    if form == "tag":
        subject = await subject_of(spool, image, tagged=tag_form(image.root, KEY))
    else:
        subject = await subject_of(spool, image, bundle_form(image.root, dsse_bundle(KEY, statement(digest))))
    assert await verdict(asked, subject, spool) == Verdict((), (SIGNER,))
    assert await verdict(Verify(), subject, spool) == Verdict((), ("unknown key",))
    assert signers_of(subject.image, spool.blobs) == ("unknown key",)


async def test_a_signature_of_a_child_does_not_sign_the_index(tmp_path: Path, spool: Layout) -> None:
    image = multi_image()
    child = image.manifests[0]
    asked = policy(tmp_path, cosign={"keys": [key_file(tmp_path)]})
    await tag_form(child, KEY).push(spool, signature_tag(child.descriptor.digest))
    subject = await subject_of(spool, image)
    assert signature_tag(child.descriptor.digest) in dict(subject.image.extra_tags)  # it does travel along
    result = await verdict(asked, subject, spool)
    assert result.signers == ()
    assert result.held[0].startswith("unsigned: no cosign signature of sha256:")


async def test_a_stranger_is_nobody_trusted(tmp_path: Path, spool: Layout) -> None:
    image = single_image()
    asked = policy(tmp_path, cosign={"keys": [key_file(tmp_path)]}, max_image=1)
    subject = await subject_of(spool, image, tagged=tag_form(image.root, new_key()))
    result = await verdict(asked, subject, spool)
    assert result.signers == ()
    assert "verify.max_image" in result.held[0]  # all reasons, not only the first
    assert result.held[1] == "signed by nobody trusted"
    assert result.held[2].endswith("layer 0: not made by the key given")


async def test_at_least_counts_signers_and_not_signatures(tmp_path: Path, spool: Layout) -> None:
    image, other = single_image(), new_key()
    keys = [key_file(tmp_path), key_file(tmp_path, "other.pub", pem(other))]
    asked = policy(tmp_path, cosign={"keys": keys, "at_least": 2})
    digest = image.root.descriptor.digest
    twice = await subject_of(spool, image, tagged=tag_form(image.root, KEY, KEY))
    result = await verdict(asked, twice, spool)
    assert result.held == ("signed by 1 of those trusted; verify.cosign.at_least is 2",)
    both = await subject_of(spool, image, bundle_form(image.root, dsse_bundle(other, statement(digest))))
    assert (await verdict(asked, both, spool)).held == ()
    assert (await verdict(asked, both, spool)).signers == tuple(
        sorted((SIGNER, Key(other.public_key()).signer.identity))
    )


async def test_a_signature_manifest_that_cannot_be_read_is_a_reason(tmp_path: Path, spool: Layout) -> None:
    image = single_image()
    signature = tag_form(image.root, KEY)
    subject = await subject_of(spool, image, tagged=signature)
    asked = policy(tmp_path, cosign={"keys": [key_file(tmp_path)]})
    path = spool.blobs.path(signature.root.descriptor.digest)
    path.write_bytes(path.read_bytes().replace(b"simplesigning", b"simplesigninG"))
    result = await verdict(asked, subject, spool)
    assert result.held[0] == "signed by nobody trusted"
    assert "do not have the digest of its name" in result.held[1]
    spool.blobs.remove(image.root.descriptor.digest)
    result = await verdict(asked, subject, spool)
    assert "no blob" in result.held[0]


async def test_the_hook_has_the_last_word_and_is_not_asked_in_vain(tmp_path: Path, spool: Layout) -> None:
    script = tmp_path / "scan.sh"
    script.write_text(f'#!/bin/sh\necho "$(cat)" >> {tmp_path}/asked\necho CVE-2026-1 in libx; exit 2\n')
    script.chmod(0o755)
    subject = await subject_of(spool, single_image())
    held = await verdict(policy(tmp_path, hook={"run": "./scan.sh"}), subject, spool)
    assert held == Verdict(("hook scan.sh: exit code 2: CVE-2026-1 in libx",), ("unsigned",))
    assert (tmp_path / "asked").read_text() == '{"image": "x"}\n'
    held = await verdict(policy(tmp_path, hook={"run": "./scan.sh"}, max_image=1), subject, spool)
    assert len(held.held) == 1
    assert (tmp_path / "asked").read_text() == '{"image": "x"}\n'
