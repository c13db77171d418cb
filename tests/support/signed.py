"""Signatures as cosign makes them, with real keys: tag form, both referrer forms, and what they hang on."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from judging.cosign import BUNDLE_TYPES, Found, found_signatures, pae
from oci.descriptor import OCI_MANIFEST, Manifest
from tests.oci_layout.images import Image, as_json, single_image

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | Ed25519PrivateKey
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
IN_TOTO = "application/vnd.in-toto+json"

assert BUNDLE in BUNDLE_TYPES


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def sign(key: PrivateKey, message: bytes, hashing: hashes.HashAlgorithm | None = None) -> bytes:
    kind = hashing or hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(kind))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), kind)
    return key.sign(message)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def simple_payload(digest: str, kind: str = "cosign container image signature") -> bytes:
    critical = {
        "identity": {"docker-reference": "registry.example/app"},
        "image": {"docker-manifest-digest": digest},
        "type": kind,
    }
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def simple_form(
    payloads: list[tuple[bytes, dict[str, str]]], subject: Manifest | None = None, image: Image | None = None
) -> Image:
    """The manifest of the tag form or, with *subject*, of the experimental referrer; its layers are *payloads*."""
    image = image or Image()
    config = image.add_blob(ARTIFACT if subject else "application/vnd.oci.image.config.v1+json", b'{"os":""}')
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": as_json(config),
        "layers": [
            as_json(image.add_blob(SIMPLE, payload), annotations=annotations) for payload, annotations in payloads
        ],
    }
    if subject:
        document |= {"subject": as_json(subject.descriptor)}
    image.add_manifest(document)
    return image


def tag_form(root: Manifest, *keys: PrivateKey) -> Image:
    """What ``cosign sign --key`` pushes under ``sha256-<hex>.sig``."""
    payload = simple_payload(root.descriptor.digest)
    return simple_form([(payload, {"dev.cosignproject.cosign/signature": text(sign(key, payload))}) for key in keys])


def statement(digest: str, predicate: str = "https://sigstore.dev/cosign/sign/v1", **more: Any) -> bytes:
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "", "digest": {"sha256": digest.partition(":")[2]}}],
            "predicateType": predicate,
            "predicate": {},
            **more,
        }
    ).encode()


def dsse_bundle(key: PrivateKey, payload: bytes, kind: str = IN_TOTO) -> dict[str, Any]:
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": "hint"}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": text(payload),
            "payloadType": kind,
            "signatures": [{"sig": text(sign(key, pae(kind, payload)))}],
        },
    }


def message_bundle(key: PrivateKey, root: Manifest) -> dict[str, Any]:
    digest = bytes.fromhex(root.descriptor.digest.partition(":")[2])
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": ""}},
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": text(digest)},
            "signature": text(sign(key, root.raw)),
        },
    }


def bundle_form(subject: Manifest, *bundles: dict[str, Any] | bytes) -> Image:
    """What ``cosign sign --key --new-bundle-format`` pushes as a referrer; more than one bundle it never does."""
    image = Image()
    raws = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in bundles]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": as_json(image.add_blob("application/vnd.oci.empty.v1+json", b"{}")),
        "layers": [as_json(image.add_blob(BUNDLE, raw)) for raw in raws],
        "subject": as_json(subject.descriptor),
    }
    image.add_manifest(document)
    return image


@dataclass
class Case:
    """An image with what was attached to it, and how to look for signatures."""

    root: Manifest
    tagged: Image | None = None
    referrers: tuple[Image, ...] = ()

    def found(self) -> Found:
        held: dict[str, bytes] = {}
        for image in (*([self.tagged] if self.tagged else []), *self.referrers):
            held |= image.all_files()
        tagged = self.tagged.root if self.tagged else None
        return found_signatures(
            self.root, tagged, [one.root for one in self.referrers], lambda digest, _: held[digest]
        )


def root_of(name: str = "signed") -> Manifest:
    return single_image(name).root


def case(form: str, key: PrivateKey, root: Manifest | None = None) -> Case:
    """One good signature by *key* in the *form* of that name."""
    root = root or root_of()
    forms: dict[str, Callable[[], Case]] = {
        "tag": lambda: Case(root, tag_form(root, key)),
        "artifact": lambda: Case(root, None, (_as_referrer(root, key),)),
        "dsse": lambda: Case(root, None, (bundle_form(root, dsse_bundle(key, statement(root.descriptor.digest))),)),
        "message": lambda: Case(root, None, (bundle_form(root, message_bundle(key, root)),)),
    }
    return forms[form]()


def _as_referrer(root: Manifest, key: PrivateKey) -> Image:
    payload = simple_payload(root.descriptor.digest)
    return simple_form([(payload, {"dev.cosignproject.cosign/signature": text(sign(key, payload))})], root)
