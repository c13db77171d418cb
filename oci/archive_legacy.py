"""Images of a ``docker save`` tarball before Docker 25 (manifest.json, configs, layer.tar), as OCI images.

Such a tarball has no manifest, so one is made up: the config as it is, each layer by the digest of the bytes in
the tarball. The JSON below is part of what pins mean: it must never change, neither its keys nor its spacing.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from oci.archive_members import Members, Part
from oci.descriptor import OCI_MANIFEST, Descriptor, check_digest, sha256_digest
from oci.errors import ContentMismatch, NotFound, OciError, ReferenceError_
from oci.layout_index import CONTAINERD_NAME, REF_NAME, Entry, parse_json
from oci.limits import MANIFEST_BYTES_MAX

CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
_COMPRESSED: Final = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}
_HEX_NAME: Final = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.json)?")


def legacy_entries(members: Members) -> tuple[list[Entry], dict[str, bytes], dict[str, Part]]:
    """Return (entries as in index.json, made-up manifests by digest, where configs and layers lie by digest).

    ContentMismatch if a layer or config is not what the archive says, NotFound if one is missing.
    """
    where = f"{members.path}: manifest.json"
    images = parse_json(members.read("manifest.json", MANIFEST_BYTES_MAX), where)
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise OciError(f"{where}: not a list of images, as docker save writes it")
    entries: list[Entry] = []
    made_up: dict[str, bytes] = {}
    builder = _Builder(members)
    for number, image in enumerate(images):
        raw = builder.manifest(image, f"{where}: image {number}")
        digest = sha256_digest(raw)
        made_up[digest] = raw
        entry: Entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(raw)}
        stated = image.get("RepoTags")
        tags = [tag for tag in stated if isinstance(tag, str)] if isinstance(stated, list) else []
        # As containerd and Docker 25 name the same image, so both kinds of archive are asked alike.
        named = [{REF_NAME: tag.rpartition(":")[2], CONTAINERD_NAME: tag} for tag in tags]
        entries += [{**entry, "annotations": names} for names in named] or [entry]
    return entries, made_up, builder.ranges


class _Builder:
    def __init__(self, members: Members) -> None:
        self._members = members
        self._digests: dict[Part, str] = {}
        self.ranges: dict[str, Part] = {}

    def manifest(self, image: dict[str, Any], where: str) -> bytes:
        """Return the bytes of the manifest for one image of manifest.json."""
        config_name, layer_names = image.get("Config"), image.get("Layers") or []
        if not isinstance(config_name, str) or not isinstance(layer_names, list):
            raise OciError(f"{where}: Config (a text) and Layers (a list) are needed")
        raw_config = self._members.read(config_name, MANIFEST_BYTES_MAX)
        config = self._add(config_name, CONFIG_TYPE, where)
        match = _HEX_NAME.fullmatch(config_name)
        if match and config.digest != f"sha256:{match[1]}":
            raise ContentMismatch(f"{where}: {config_name!r} has the digest {config.digest}; copy the file again")
        layers = [self._add(name, LAYER_TYPE, where) for name in layer_names]
        self._compare(raw_config, layers, f"{where}: {config_name!r}")
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _as_json(config),
            "layers": [_as_json(layer) for layer in layers],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def _add(self, name: object, media_type: str, where: str) -> Descriptor:
        part = self._members.find(name) if isinstance(name, str) else None
        if part is None:
            raise NotFound(f"{where}: {name!r} is not in the archive")
        # Layers repeat, by links mostly; each is hashed once.
        digest = self._digests.get(part) or self._members.digest(part)
        self._digests[part] = digest
        self.ranges[digest] = part
        if media_type == LAYER_TYPE:
            media_type += self._members.compression(part, _COMPRESSED)
        return Descriptor(media_type, digest, part.size)

    def _compare(self, raw_config: bytes, layers: list[Descriptor], where: str) -> None:
        """Check plain layers against the config's diff_ids, which are digests of the same bytes."""
        config = parse_json(raw_config, where)
        rootfs = config.get("rootfs") if isinstance(config, dict) else None
        diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(diff_ids, list) or len(diff_ids) != len(layers):
            raise ContentMismatch(f"{where}: rootfs.diff_ids should name {len(layers)} layers, as manifest.json does")
        for layer, diff_id in zip(layers, diff_ids, strict=True):
            try:
                check_digest(str(diff_id))
            except ReferenceError_ as error:
                raise ContentMismatch(f"{where}: diff_ids: {error}") from None
            if layer.media_type == LAYER_TYPE and layer.digest != diff_id and diff_id.startswith("sha256:"):
                raise ContentMismatch(f"{where}: layer {layer.digest} should be {diff_id}; copy the file again")


def _as_json(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
