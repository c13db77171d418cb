"""Whether manifests keep to the image spec where ``documents`` need not care: what a runtime will make of them.

``documents.children`` refuses what it cannot follow. This says, of a document that can be followed, what in it two
readers could understand in two ways or none at all: names, embedded data, platforms, the image's configuration.
Pure over bytes; *read* gives it the configuration's. Knows no policy.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from oci import limits
from oci.descriptor import IMAGE_TYPES, INDEX_TYPES, MANIFEST_TYPES, Descriptor, Manifest, hasher, short_digest
from oci.descriptor import check_digest as checked_digest
from oci.documents import FOREIGN_TYPES, Children, children, parse_document
from oci.errors import OciError, ReferenceError_

IMAGE_CONFIG_TYPES: Final = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
LAYER_TYPES: Final = FOREIGN_TYPES | {
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
}
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
EMPTY_DIGEST: Final = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}
_EMPTY_SIZE: Final = 2
# RFC 6838 section 4.2; parameters as cosign's bundles have them
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_PARAMETERS: Final = re.compile(r"(?:;[ ]?[A-Za-z0-9_.-]+=[A-Za-z0-9_.\"-]+)*")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")  # RFC 3986: a scheme, and no space or control character

BlobReader = Callable[[str, int], bytes]
"""Returns the verified blob of a digest, of at most so many bytes; OciError otherwise."""


def kind_of(manifest: Manifest, parts: Children) -> str | None:
    """Return the artifact type of *manifest*; None for an index and for an image with image layers only."""
    if manifest.descriptor.media_type in INDEX_TYPES:
        return parts.artifact_type
    if parts.config is None or parts.config.media_type not in IMAGE_CONFIG_TYPES:
        return parts.artifact_type
    if parts.artifact_type != parts.config.media_type:
        return parts.artifact_type
    return next((layer.media_type for layer in parts.layers if layer.media_type not in LAYER_TYPES), None)


def faults_of(manifest: Manifest, read: BlobReader) -> Iterator[str]:
    """Yield what in *manifest* breaks the image spec, one line each; a configuration is read if it is an image's.

    Raises what *read* raises: that the store has it not, or damaged, is not the image's fault.
    """
    where = f"manifest {short_digest(manifest.descriptor.digest)}"
    try:
        document = parse_document(manifest.raw, where)
        parts = children(manifest)
    except OciError as error:
        yield str(error)
        return
    for key, value in _descriptors(document):
        yield from _descriptor_faults(f"{where}: {key}", value)
    yield from _type_faults(where, document.get("artifactType"), "artifactType")
    yield from _annotation_faults(where, document.get("annotations"))
    if parts.subject is not None and parts.subject.media_type not in MANIFEST_TYPES:
        yield f"{where}: subject: {parts.subject.media_type} is no manifest; referrers refer to manifests"
    if manifest.descriptor.media_type not in IMAGE_TYPES or parts.config is None:
        return
    if parts.config.media_type == EMPTY_TYPE and not document.get("artifactType"):
        yield f"{where}: artifactType is missing; with an empty config it says what this is"
    if kind_of(manifest, parts) is None:
        if parts.config.size > limits.MANIFEST_BYTES_MAX:
            yield f"{where}: config has {parts.config.size:,} bytes; at most {limits.MANIFEST_BYTES_MAX:,} are read"
            return
        raw = read(parts.config.digest, parts.config.size)
        try:
            yield from _config_faults(f"config {short_digest(parts.config.digest)}", raw, parts.layers)
        except OciError as error:
            yield str(error)


def _descriptors(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where and what; ``children`` has seen that they are descriptors."""
    for key in ("config", "subject"):
        if document.get(key) is not None:
            yield key, document[key]
    for key in ("layers", "manifests"):
        for number, value in enumerate(document.get(key, [])):
            yield f"{key}[{number}]", value


def _descriptor_faults(where: str, value: dict[str, Any]) -> Iterator[str]:
    digest, size = value["digest"], value["size"]
    yield from _type_faults(where, value["mediaType"], "mediaType")
    yield from _type_faults(where, value.get("artifactType"), "artifactType")
    yield from _annotation_faults(where, value.get("annotations"))
    if value["mediaType"] == EMPTY_TYPE and (digest.startswith("sha256:") and digest != EMPTY_DIGEST):
        yield f"{where}: {EMPTY_TYPE} is {{}} and nothing else; it names {short_digest(digest)}"
    elif value["mediaType"] == EMPTY_TYPE and size != _EMPTY_SIZE:
        yield f"{where}: {EMPTY_TYPE} has {_EMPTY_SIZE} bytes; it says {size}"
    if value.get("data") is not None and not _is_content(value["data"], digest, size):
        yield f"{where}: its embedded data is not what its digest names: two readers would see two contents"
    for url in value.get("urls") or ():
        if _URL.fullmatch(url) is None:
            yield f"{where}: urls: {_shown(url)} is no URL"
    platform = value.get("platform")
    if platform is not None:
        for key in ("os", "architecture"):
            if not isinstance(platform.get(key), str):
                yield f"{where}: platform: {key} is missing; a platform has os and architecture"


def _is_content(data: object, digest: str, size: int) -> bool:
    if not isinstance(data, str):
        return False
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return False
    state = hasher(digest)
    state.update(content)
    return len(content) == size and state.hexdigest() == digest.partition(":")[2]


def _type_faults(where: str, value: str | None, key: str) -> Iterator[str]:
    if value:
        name = _MEDIA_TYPE.match(value)
        if name is None or _PARAMETERS.fullmatch(value, name.end()) is None:
            yield f"{where}: {key} {_shown(value)} is no media type (RFC 6838)"


def _annotation_faults(where: str, value: object) -> Iterator[str]:
    if value is None:
        return
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        yield f"{where}: annotations: expected an object of texts"
    elif "" in value:
        yield f"{where}: annotations: a name is empty"


def _config_faults(where: str, raw: bytes, layers: list[Descriptor]) -> Iterator[str]:
    """What a runtime needs to start it (image-spec config.md, Properties: REQUIRED).

    Texts may be empty: images of data that tools append to nothing have neither os nor architecture.
    """
    document = parse_document(raw, where)
    for key in ("os", "architecture"):
        if not isinstance(document.get(key), str):
            yield f"{where}: {key} is missing; expected a text such as {'linux' if key == 'os' else 'amd64'}"
    rootfs = document.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        yield f"{where}: rootfs: expected type 'layers' and diff_ids"
        return
    listed = rootfs.get("diff_ids")
    diff_ids = [] if listed is None else listed  # docker leaves it out where there is no layer
    if not isinstance(diff_ids, list) or not all(_is_digest(one) for one in diff_ids):
        yield f"{where}: rootfs.diff_ids: expected a list of digests"
    elif len(diff_ids) != len(layers):
        yield f"{where}: {len(diff_ids)} diff_ids for {len(layers)} layers; expected one for each"


def _is_digest(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(checked_digest(value))
    except ReferenceError_:
        return False


def _shown(text: str) -> str:
    line = repr(text)
    return line if len(line) <= 80 else line[:79] + "…"
