from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci import limits
from oci.descriptor import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    sha256_digest,
)
from oci.documents import children, detect_media_type, is_foreign
from oci.errors import ContentMismatch, OciError, TooLarge, Unsupported

HEX = "ab" * 32
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"sha256:{HEX}", "size": 7}
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": f"sha256:{HEX[::-1]}", "size": 0}
IMAGE: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
ENTRY = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{HEX}", "size": 7}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [ENTRY]}


def manifest(document: object, media_type: str | None = None) -> Manifest:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    if media_type is None:
        media_type = document.get("mediaType", OCI_MANIFEST) if isinstance(document, dict) else OCI_MANIFEST
    return Manifest(Descriptor(str(media_type), sha256_digest(raw), len(raw)), raw)


def test_image_manifest() -> None:
    parts = children(manifest(IMAGE | {"unknown": [1], "subject": ENTRY, "artifactType": "a/b"}))
    assert parts.config == Descriptor(CONFIG["mediaType"], CONFIG["digest"], 7)
    assert [layer.media_type for layer in parts.layers] == [LAYER["mediaType"]]
    assert parts.subject == Descriptor(OCI_MANIFEST, ENTRY["digest"], 7)
    assert (parts.artifact_type, parts.manifests) == ("a/b", [])


def test_artifact_type_falls_back_to_the_config_type() -> None:
    assert children(manifest(IMAGE)).artifact_type == CONFIG["mediaType"]


def test_index_with_nested_index_attestation_and_an_entry_that_is_a_blob() -> None:
    entries = [
        ENTRY | {"platform": {"os": "linux", "architecture": "arm", "variant": "v7"}},
        ENTRY | {"mediaType": DOCKER_LIST},
        ENTRY | {"platform": {"os": "unknown", "architecture": "unknown"}, "annotations": {"a": "b"}},
        ENTRY | {"mediaType": "application/x-whatever", "artifactType": "x/y"},
    ]
    parts = children(manifest(INDEX | {"manifests": entries}))
    assert [entry.platform for entry in parts.manifests] == ["linux/arm/v7", None, "unknown/unknown"]
    assert parts.manifests[2].annotations == {"a": "b"}
    assert [(entry.media_type, entry.artifact_type) for entry in parts.layers] == [("application/x-whatever", "x/y")]


def test_foreign_layers_keep_their_urls() -> None:
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": f"sha256:{HEX}",
        "size": 9,
        "urls": ["https://example.org/layer"],
    }
    document = IMAGE | {"mediaType": DOCKER_MANIFEST, "layers": [foreign, LAYER | {"urls": ["https://example.org"]}]}
    layers = children(manifest(document)).layers
    assert layers[0].urls == ("https://example.org/layer",)
    assert [is_foreign(layer) for layer in layers] == [True, False]


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (IMAGE, OCI_MANIFEST),
        (INDEX, OCI_INDEX),
        (INDEX | {"mediaType": DOCKER_LIST}, DOCKER_LIST),
        ({key: value for key, value in IMAGE.items() if key != "mediaType"}, OCI_MANIFEST),
        ({key: value for key, value in INDEX.items() if key != "mediaType"}, OCI_INDEX),
    ],
)
def test_media_type_is_stated_or_shown(document: dict[str, Any], media_type: str) -> None:
    assert detect_media_type(json.dumps(document).encode()) == media_type
    children(manifest(document, media_type))


BAD: list[tuple[object, type[OciError], str]] = [
    (b"", ContentMismatch, "not a JSON document"),
    (b"[]", ContentMismatch, "expected a JSON object"),
    (b"\xff{}", ContentMismatch, "not a JSON document"),
    (b"[" * 100_000, ContentMismatch, "not a JSON document"),
    (b'{"schemaVersion":2,"schemaVersion":2}', ContentMismatch, "'schemaVersion' appears twice"),
    (b'{"schemaVersion":2,"x":NaN}', ContentMismatch, "NaN"),
    (b'{"schemaVersion":' + b"9" * 5000 + b"}", ContentMismatch, "not a JSON document"),
    (b" " * (limits.MANIFEST_BYTES_MAX + 1), TooLarge, "expected at most"),
    ({"schemaVersion": 1, "fsLayers": []}, Unsupported, "schema 1"),
    (IMAGE | {"mediaType": DOCKER_SCHEMA1[1]}, Unsupported, "schema 1"),
    (INDEX | {"manifests": [ENTRY | {"mediaType": DOCKER_SCHEMA1[0]}]}, Unsupported, "schema 1"),
    (IMAGE | {"schemaVersion": True}, ContentMismatch, "schemaVersion"),
    (IMAGE | {"schemaVersion": "2"}, ContentMismatch, "schemaVersion"),
    ({"schemaVersion": 2}, ContentMismatch, "neither an index"),
    (IMAGE | {"manifests": []}, ContentMismatch, "has both"),
    (IMAGE | {"mediaType": OCI_INDEX}, ContentMismatch, "contradicts"),
    (IMAGE | {"mediaType": "application/json"}, Unsupported, "expected one of"),
    (IMAGE | {"mediaType": ["x"]}, Unsupported, "expected one of"),
    (IMAGE | {"layers": None}, ContentMismatch, "layers"),
    (IMAGE | {"config": None}, ContentMismatch, "config"),
    (IMAGE | {"layers": [7]}, ContentMismatch, "layers[0]"),
    (IMAGE | {"layers": [LAYER | {"size": -1}]}, ContentMismatch, "size -1"),
    (IMAGE | {"layers": [LAYER | {"size": True}]}, ContentMismatch, "size True"),
    (IMAGE | {"layers": [LAYER | {"size": 1.0}]}, ContentMismatch, "size 1.0"),
    (IMAGE | {"layers": [LAYER | {"size": 1 << 60}]}, ContentMismatch, "size"),
    (IMAGE | {"layers": [LAYER | {"digest": "sha256:../../etc"}]}, ContentMismatch, "64 hex digits"),
    (IMAGE | {"layers": [LAYER | {"digest": None}]}, ContentMismatch, "digest"),
    (IMAGE | {"layers": [LAYER | {"mediaType": ""}]}, ContentMismatch, "mediaType"),
    (IMAGE | {"layers": [LAYER | {"mediaType": "a\r\nb"}]}, ContentMismatch, "mediaType"),
    (IMAGE | {"layers": [LAYER | {"urls": "https://x"}]}, ContentMismatch, "urls"),
    (IMAGE | {"layers": [LAYER | {"annotations": {"a": 1}}]}, ContentMismatch, "annotations"),
    (IMAGE | {"subject": []}, ContentMismatch, "subject"),
    (IMAGE | {"artifactType": 7}, ContentMismatch, "artifactType"),
    (INDEX | {"manifests": [ENTRY | {"platform": "linux"}]}, ContentMismatch, "platform"),
    (INDEX | {"manifests": [ENTRY | {"platform": {"os": 1}}]}, ContentMismatch, "platform"),
]


@pytest.mark.parametrize(("document", "kind", "says"), BAD)
def test_bad_documents_are_refused_in_one_line(document: object, kind: type[OciError], says: str) -> None:
    with pytest.raises(kind) as caught:
        children(manifest(document))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_content_type_and_document_must_agree() -> None:
    with pytest.raises(ContentMismatch, match="both must be equal"):
        children(manifest(IMAGE, DOCKER_MANIFEST))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*IMAGE, *ENTRY, "urls"]), inner),
    max_leaves=8,
)


@given(st.sampled_from([IMAGE, INDEX]), st.dictionaries(st.sampled_from([*IMAGE, *INDEX, "subject"]), JSON))
def test_only_oci_errors_come_out(base: dict[str, Any], changes: dict[str, Any]) -> None:
    said = ""
    try:
        children(manifest(base | changes, OCI_MANIFEST))
    except OciError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
