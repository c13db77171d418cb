"""Manifests that other readers would understand otherwise, or not at all; and that good ones are left alone."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci import limits
from oci.conformance import EMPTY_TYPE, faults_of, kind_of
from oci.descriptor import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, sha256_digest
from oci.documents import children
from oci.errors import NotFound
from tests.oci_layout.images import multi_image, referrer_to, single_image

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER = {"mediaType": LAYER_TYPE, "digest": sha256_digest(b"layer"), "size": 5}
GOOD: dict[str, Any] = {
    "os": "linux",
    "architecture": "amd64",
    "rootfs": {"type": "layers", "diff_ids": [sha256_digest(b"x")]},
}


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256_digest(data), "size": len(data), **more}


def faults(document: dict[str, Any], config: bytes = b"") -> list[str]:
    raw = json.dumps(document).encode()
    manifest = Manifest(Descriptor(document["mediaType"], sha256_digest(raw), len(raw)), raw)
    held = {sha256_digest(config): config}

    def read(digest: str, most: int) -> bytes:
        if digest not in held:
            raise NotFound(f"no blob {digest}")
        return held[digest]

    return list(faults_of(manifest, read))


def image(config: object = GOOD, **changes: Any) -> list[str]:
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(raw, CONFIG_TYPE),
        "layers": [LAYER],
    }
    return faults(document | changes, raw)


def index(*entries: dict[str, Any], **changes: Any) -> list[str]:
    return faults({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), **changes})


ENTRY = {"mediaType": OCI_MANIFEST, "digest": sha256_digest(b"m"), "size": 1}


def test_good_images_have_no_faults() -> None:
    one = multi_image()
    for made in (single_image(), one, referrer_to(one.root.descriptor, "application/spdx+json")):
        files = made.all_files()
        for manifest in made.manifests:
            assert list(faults_of(manifest, lambda digest, _: files[digest])) == []  # noqa: B023
    assert image() == []
    assert image({**GOOD, "rootfs": {"type": "layers"}}, layers=[]) == []  # docker, FROM scratch
    assert image({**GOOD, "os": "", "architecture": ""}) == []  # crane append, Tekton bundles
    embedded = descriptor(b"{}", EMPTY_TYPE) | {"data": base64.b64encode(b"{}").decode()}
    assert (
        faults(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": "application/vnd.dev.sigstore.bundle+json;version=0.2",
                "config": embedded,
                "layers": [embedded],
                "subject": ENTRY,
            }
        )
        == []
    )
    assert index(ENTRY | {"platform": {"os": "unknown", "architecture": "unknown"}}) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (image(b"not json"), "not a JSON document"),
        (image(b'{"os":"linux","os":"linux"}'), "appears twice"),
        (image(["list"]), "expected a JSON object"),
        (image({**GOOD, "os": None}), "os is missing"),
        (image({"os": "linux", "rootfs": GOOD["rootfs"]}), "architecture is missing; expected a text such as amd64"),
        (image({**GOOD, "rootfs": None}), "rootfs: expected type 'layers'"),
        (image({**GOOD, "rootfs": {"type": "layers", "diff_ids": []}}), "0 diff_ids for 1 layers"),
        (image({**GOOD, "rootfs": {"type": "layers", "diff_ids": ["sha256:1"]}}), "expected a list of digests"),
        (image(layers=[LAYER, LAYER]), "1 diff_ids for 2 layers"),
        (image(config=GOOD, artifactType="no type"), "artifactType 'no type' is no media type"),
        (image(annotations={"": "x"}), "a name is empty"),
        (image(annotations=["x"]), "annotations: expected an object of texts"),
        (image(subject={**ENTRY, "mediaType": LAYER_TYPE}), "is no manifest; referrers refer to manifests"),
        (image(layers=[LAYER | {"mediaType": "tar"}]), "layers[0]: mediaType 'tar' is no media type"),
        (image(layers=[LAYER | {"mediaType": "a/b\tc"}]), "mediaType"),
        (image(layers=[LAYER | {"urls": ["javascript: x"]}]), "urls: 'javascript: x' is no URL"),
        (image(layers=[LAYER | {"data": base64.b64encode(b"other").decode()}]), "two readers would see two contents"),
        (image(layers=[LAYER | {"data": base64.b64encode(b"layer").decode() + "\n"}]), "two readers"),
        (image(layers=[LAYER | {"data": 5}]), "two readers"),
        (image(manifests=[]), "has both 'manifests' and 'layers'"),
        (image(mediaType=DOCKER_MANIFEST, schemaVersion=1), "schema 1"),
        (image(schemaVersion=3), "schemaVersion 3: expected 2"),
        (image(config={}, layers={}), "layers: expected a list"),
        (index(ENTRY | {"platform": {"os": "linux"}}), "platform: architecture is missing"),
        (
            index(ENTRY | {"platform": {"os": 1, "architecture": "arm"}}),
            "platform: os, architecture and variant",
        ),
        (index(ENTRY | {"data": "AA=="}), "manifests[0]: its embedded data"),
        (index(ENTRY | {"size": -1}), "size -1"),
        (index(ENTRY | {"digest": "sha256:../../etc"}), "digest"),
        (index(ENTRY, annotations={"": ""}), "a name is empty"),
        (
            faults(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_MANIFEST,
                    "config": descriptor(b"{}", EMPTY_TYPE),
                    "layers": [],
                }
            ),
            "artifactType is missing",
        ),
        (image(layers=[descriptor(b"[]", EMPTY_TYPE)]), "is {} and nothing else"),
    ],
)
def test_what_is_hostile_or_broken_is_named(found: list[str], words: str) -> None:
    assert any(words in line for line in found), found
    assert all("\n" not in line and line.isprintable() for line in found)


def test_a_configuration_that_is_not_here_is_not_the_images_fault() -> None:
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(b"?", CONFIG_TYPE), "layers": []}
    with pytest.raises(NotFound):
        faults(document)
    large = document["config"] | {"size": limits.MANIFEST_BYTES_MAX + 1}  # type: ignore[operator]
    assert "config has 4,194,305 bytes; at most 4,194,304 are read" in faults(document | {"config": large})[0]


def kind(document: dict[str, Any]) -> str | None:
    raw = json.dumps(document).encode()
    manifest = Manifest(Descriptor(document["mediaType"], sha256_digest(raw), len(raw)), raw)
    return kind_of(manifest, children(manifest))


def test_kinds_of_artifacts() -> None:
    config = descriptor(b"{}", CONFIG_TYPE)
    plain = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [LAYER]}
    cosign = {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": LAYER["digest"], "size": 5}
    helm = descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json")
    assert kind(plain) is None
    assert kind(plain | {"layers": []}) is None
    assert kind(plain | {"layers": [LAYER, cosign]}) == cosign["mediaType"]  # as cosign's tag form has it
    assert kind(plain | {"config": helm}) == helm["mediaType"]
    assert kind(plain | {"artifactType": "a/b"}) == "a/b"
    assert kind({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [ENTRY]}) is None
    assert kind({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "artifactType": "a/b"}) == "a/b"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(ENTRY) | st.just(LAYER),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["mediaType", "digest", "size", "data", "urls", "platform", "os"]), inner)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["config", "layers", "manifests", "subject", "annotations", "artifactType", "x"])


@given(st.dictionaries(KEYS, JSON), st.sampled_from([OCI_MANIFEST, OCI_INDEX]), JSON)
def test_whatever_a_manifest_holds_it_is_never_an_exception(
    document: dict[str, Any], media_type: str, config: Any
) -> None:
    raw = json.dumps(config).encode()
    named = {"schemaVersion": 2, "mediaType": media_type, **document}
    with suppress(NotFound):  # of a configuration with another digest
        assert isinstance(faults(named, raw), list)
    assert isinstance(faults({**named, "config": descriptor(raw, CONFIG_TYPE), "layers": [LAYER]}, raw), list)
