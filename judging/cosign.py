"""Who signed an image: the forms in which cosign leaves signatures, and their check with given public keys.

Pure over bytes, which it asks of a reader; it knows neither network nor policy. Three forms are understood:

- *tag* (cosign's SIGNATURE_SPEC.md): a manifest under ``sha256-<hex>.sig``, each layer a "simple signing" payload;
- *experimental referrer*: the same layers in a manifest whose ``subject`` is the image;
- *bundle* (cosign's BUNDLE_SPEC.md): a referrer whose one layer is a Sigstore bundle with a DSSE envelope around an
  in-toto statement, or a signature over the image's manifest itself.

With a given key no transparency log is asked and no log entry required, as ``cosign verify --key
--insecure-ignore-tlog`` does: the key is what is trusted, and the log would need the network. The repository that a
payload names (``docker-reference``) is not compared, as cosign does not: a mirror keeps signatures of elsewhere.
What is signed is the pinned root. A signed index covers the images in it by their digests; signatures of those
(``cosign sign --recursive``) travel along and count for nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from oci.closure import cosign_tags
from oci.descriptor import Descriptor, Manifest, short_digest
from oci.documents import children, parse_document
from oci.errors import OciError
from runtime.keys import VerificationKey

SIGNATURES_MAX: Final = 256  # of one image
PAYLOAD_BYTES_MAX: Final = 256 * 1024
BUNDLE_BYTES_MAX: Final = 1024 * 1024
SIGNATURE_TEXT_MAX: Final = 16 * 1024  # base64; RSA-16384 takes 2,732
CERTIFICATE_TEXT_MAX: Final = 64 * 1024
NAME_CHARS_MAX: Final = 200

SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ARTIFACT: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE_TYPES: Final = (  # a tuple: JSON may hold what has no hash
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
)
IN_TOTO: Final = "application/vnd.in-toto+json"
SIGN_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"

_SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
_CLAIM: Final = "cosign container image signature"
_SHA256: Final = hashes.SHA256()
_STATEMENTS: Final = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
# Fulcio's certificate extensions (its oid-info.md): issuer as UTF8String, the same as bare text, and a SAN's type
_ISSUER_V2: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_ISSUER_V1: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_OTHER_NAME: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7")

BlobReader = Callable[[str, int], bytes]
"""Returns the verified blob of a digest, of at most so many bytes; OciError otherwise."""


class Unverified(Exception):
    """A signature that does not hold; ``str()`` is one line: which, and why."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature that claims to be of the image; nothing of it is verified yet but that it names the image."""

    where: str  # for messages: which tag or referrer, which layer
    message: bytes = field(repr=False)  # what was signed
    value: bytes = field(repr=False)
    certificate: x509.Certificate | None = field(default=None, repr=False)
    bundle: bytes | None = field(default=None, repr=False)  # as it came, for keyless
    enveloped: bool = False  # the bundle has a DSSE envelope


@dataclass(frozen=True, slots=True)
class Found:
    """The signatures that came with an image, and one line for each thing that is no usable one."""

    signatures: tuple[Signature, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed, verified. *identity* is stable text; *distinct* tells signers apart beyond any doubt."""

    identity: str
    distinct: str


@dataclass(frozen=True, slots=True)
class Key:
    """A public key that is trusted to sign images."""

    public: VerificationKey = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7)."""
        info = self.public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(info).hexdigest()

    @property
    def signer(self) -> Signer:
        """Whom a signature by this key names: ``key sha256:0123456789ab``."""
        return Signer(f"key sha256:{self.digest[:12]}", self.digest)


def signature_tag(digest: str) -> str:
    """Return the tag under which cosign keeps the signatures of *digest*."""
    return cosign_tags(digest)[0]


def found_signatures(
    root: Manifest, tagged: Manifest | None, referrers: Iterable[Manifest], read: BlobReader
) -> Found:
    """Return what claims to sign *root*: layers of *tagged* (``sha256-<hex>.sig``), and those of *referrers* to it.

    Nothing raises but what *read* raises beyond OciError: whatever is malformed, too large or of another image
    becomes a fault. Attestations (bundles with another predicate) are neither signature nor fault.
    """
    signatures: list[Signature] = []
    faults: list[str] = []
    sources: list[tuple[str, Manifest, bool]] = []
    if tagged is not None:
        sources.append((f"tag {signature_tag(root.descriptor.digest)[:19]}….sig", tagged, False))
    sources += [(f"referrer {short_digest(one.descriptor.digest)}", one, True) for one in referrers]
    for where, manifest, refers in sources:
        try:
            parts = children(manifest)
        except OciError as error:
            faults.append(f"{where}: {error}")
            continue
        if refers and (parts.subject is None or parts.subject.digest != root.descriptor.digest):
            continue
        bundled = refers and parts.artifact_type in BUNDLE_TYPES
        if refers and not bundled and parts.artifact_type != SIGNATURE_ARTIFACT:
            continue
        if bundled and len(parts.layers) != 1:
            faults.append(f"{where}: {len(parts.layers)} layers; a bundle is one")
            continue
        for number, layer in enumerate(parts.layers):
            place = where if bundled else f"{where} layer {number}"
            if len(signatures) + len(faults) >= SIGNATURES_MAX:
                faults.append(f"{where}: more than {SIGNATURES_MAX} signatures; the rest is not looked at")
                return Found(tuple(signatures), tuple(faults))
            try:
                one = _bundle(place, root, layer, read) if bundled else _simple(place, root, layer, read)
            except (Unverified, OciError) as error:
                faults.append(str(error) if isinstance(error, Unverified) else f"{place}: {error}")
                continue
            if one is not None:
                signatures.append(one)
    return Found(tuple(signatures), tuple(faults))


def verify(signature: Signature, keys: Sequence[Key]) -> Signer:
    """Return which of *keys* made *signature*; Unverified if none.

    ECDSA takes the hash of cosign's default for the curve or, as older versions used for all, SHA-256; RSA is PKCS #1
    v1.5 with SHA-256, which is the only kind that cosign makes (no PSS); Ed25519 is pure (RFC 8032).
    """
    for key in keys:
        if _holds(key.public, signature):
            return key.signer
    given = "the key given" if len(keys) == 1 else f"any of the {len(keys)} keys given"
    raise Unverified(f"{signature.where}: not made by {given}")


def named_signers(found: Found) -> tuple[str, ...]:
    """Return whom the signatures name, unverified: for display, where no policy says whom to trust."""
    if not found.signatures:
        return ("unsigned",)
    return tuple(
        sorted(
            {
                f"claims to be {certificate_identity(one.certificate)}" if one.certificate else "unknown key"
                for one in found.signatures
            }
        )
    )


def certificate_identity(certificate: x509.Certificate) -> str:
    """Return ``<subject alternative name> (<issuer>)`` of a Fulcio certificate, as far as it has them; unverified."""
    name = next(iter(_alternative_names(certificate)), "a certificate without a name")
    issuer = _issuer(certificate)
    return f"{name} ({issuer})" if issuer else name


def one_line(text: str, most: int = NAME_CHARS_MAX) -> str:
    """Return foreign *text* as one printable line of at most *most* characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _simple(where: str, root: Manifest, layer: Descriptor, read: BlobReader) -> Signature | None:
    """Return the signature of one simple signing layer; other layers are none."""
    if layer.media_type != SIMPLE_SIGNING:
        return None
    if layer.size > PAYLOAD_BYTES_MAX:
        raise Unverified(f"{where}: payload of {layer.size:,} bytes; at most {PAYLOAD_BYTES_MAX:,} are read")
    text = layer.annotations.get(_SIGNATURE)
    if text is None:
        raise Unverified(f"{where}: has no annotation {_SIGNATURE}")
    value = _decoded(text, where, f"annotation {_SIGNATURE}")
    payload = read(layer.digest, layer.size)
    critical = _mapping(parse_document(payload, where).get("critical"), where, "critical")
    if critical.get("type") != _CLAIM:
        raise Unverified(f"{where}: critical.type {one_line(repr(critical.get('type')), 80)} is not {_CLAIM!r}")
    image = _mapping(critical.get("image"), where, "critical.image")
    _same_digest(image.get("docker-manifest-digest"), root.descriptor.digest, where)
    certificate = layer.annotations.get(_CERTIFICATE)
    return Signature(where, payload, value, _pem_certificate(certificate, where) if certificate else None)


def _bundle(where: str, root: Manifest, layer: Descriptor, read: BlobReader) -> Signature | None:
    """Return the signature in a Sigstore bundle (sigstore_bundle.proto in its JSON form); None for attestations."""
    if layer.media_type not in BUNDLE_TYPES:
        raise Unverified(f"{where}: layer of type {one_line(repr(layer.media_type), 80)} is no Sigstore bundle")
    if layer.size > BUNDLE_BYTES_MAX:
        raise Unverified(f"{where}: bundle of {layer.size:,} bytes; at most {BUNDLE_BYTES_MAX:,} are read")
    raw = read(layer.digest, layer.size)
    document = parse_document(raw, where)
    if document.get("mediaType") not in BUNDLE_TYPES:
        raise Unverified(f"{where}: mediaType {one_line(repr(document.get('mediaType')), 80)} is no bundle we know")
    certificate = _bundle_certificate(
        _mapping(document.get("verificationMaterial"), where, "verificationMaterial"), where
    )
    if ("dsseEnvelope" in document) == ("messageSignature" in document):
        raise Unverified(f"{where}: expected either dsseEnvelope or messageSignature")
    if "messageSignature" in document:
        signed = _mapping(document["messageSignature"], where, "messageSignature")
        value = _decoded(signed.get("signature"), where, "messageSignature.signature")
        _message_digest(signed.get("messageDigest"), root, where)
        return Signature(where, root.raw, value, certificate, raw)
    envelope = _mapping(document["dsseEnvelope"], where, "dsseEnvelope")
    kind = envelope.get("payloadType")
    if kind != IN_TOTO:
        raise Unverified(f"{where}: payloadType {one_line(repr(kind), 80)} is not {IN_TOTO}")
    payload = _decoded(envelope.get("payload"), where, "dsseEnvelope.payload", BUNDLE_BYTES_MAX * 2)
    if not _signs(payload, root.descriptor.digest, where):
        return None
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1:
        count = len(signatures) if isinstance(signatures, list) else 0
        raise Unverified(f"{where}: envelope with {count} signatures; a bundle has exactly one")
    signed = _mapping(signatures[0], where, "dsseEnvelope.signatures[0]")
    value = _decoded(signed.get("sig"), where, "dsseEnvelope.signatures[0].sig")
    return Signature(where, pae(IN_TOTO, payload), value, certificate, raw, enveloped=True)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what a DSSE signature is over: the Pre-Authentication Encoding (DSSE protocol.md, v1)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _signs(payload: bytes, digest: str, where: str) -> bool:
    """Whether the in-toto statement is cosign's signature of *digest*; False for another predicate."""
    statement = parse_document(payload, where)
    if statement.get("_type") not in _STATEMENTS:
        raise Unverified(f"{where}: _type {one_line(repr(statement.get('_type')), 80)} is no in-toto statement")
    if statement.get("predicateType") != SIGN_PREDICATE:
        return False
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise Unverified(f"{where}: the statement has no single subject; cosign signs one image")
    digests = _mapping(_mapping(subjects[0], where, "subject[0]").get("digest"), where, "subject[0].digest")
    algorithm, _, _ = digest.partition(":")
    _same_digest(f"{algorithm}:{digests.get(algorithm)}", digest, where)
    return True


def _message_digest(value: object, root: Manifest, where: str) -> None:
    """Refuse a stated digest of another message; the signature itself is over the manifest's bytes anyway."""
    if value is None:
        return
    stated = _mapping(value, where, "messageDigest")
    if stated.get("algorithm") != "SHA2_256":
        raise Unverified(
            f"{where}: messageDigest.algorithm {one_line(repr(stated.get('algorithm')), 40)}: not SHA2_256"
        )
    digest = _decoded(stated.get("digest"), where, "messageDigest.digest")
    _same_digest(f"sha256:{digest.hex()}", f"sha256:{hashlib.sha256(root.raw).hexdigest()}", where)


def _same_digest(signed: object, digest: str, where: str) -> None:
    if signed != digest:
        shown = one_line(short_digest(signed), 40) if isinstance(signed, str) else repr(signed)[:40]
        raise Unverified(f"{where}: signs {shown}, not {short_digest(digest)}")


def _holds(public: VerificationKey, signature: Signature) -> bool:
    value, message = signature.value, signature.message
    if isinstance(public, ec.EllipticCurvePublicKey):
        kinds = {256: (_SHA256,), 384: (hashes.SHA384(), _SHA256), 521: (hashes.SHA512(), _SHA256)}
        checks = [partial(public.verify, value, message, ec.ECDSA(kind)) for kind in kinds[public.curve.key_size]]
    elif isinstance(public, rsa.RSAPublicKey):
        checks = [partial(public.verify, value, message, padding.PKCS1v15(), _SHA256)]
    else:
        checks = [partial(public.verify, value, message)]
    return any(map(_passes, checks))


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except InvalidSignature:
        return False
    return True


def _bundle_certificate(material: dict[str, Any], where: str) -> x509.Certificate | None:
    """Return the leaf: ``certificate`` (v0.3) or the first of ``x509CertificateChain`` (before); None with a key."""
    leaf = material.get("certificate")
    if leaf is None and "x509CertificateChain" in material:
        chain = _mapping(material["x509CertificateChain"], where, "x509CertificateChain").get("certificates")
        leaf = chain[0] if isinstance(chain, list) and chain else None
    if leaf is None:
        return None
    raw = _decoded(_mapping(leaf, where, "certificate").get("rawBytes"), where, "certificate", CERTIFICATE_TEXT_MAX)
    try:
        return x509.load_der_x509_certificate(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unverified(f"{where}: certificate: {one_line(str(error), 100)}") from None


def _pem_certificate(text: str, where: str) -> x509.Certificate:
    if len(text) > CERTIFICATE_TEXT_MAX:
        raise Unverified(
            f"{where}: certificate of {len(text):,} characters; at most {CERTIFICATE_TEXT_MAX:,} are read"
        )
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unverified(f"{where}: annotation {_CERTIFICATE}: {one_line(str(error), 100)}") from None


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []
    found = [*names.get_values_for_type(x509.RFC822Name), *names.get_values_for_type(x509.UniformResourceIdentifier)]
    for other in names.get_values_for_type(x509.OtherName):
        if other.type_id == _OTHER_NAME:
            found.append(_utf8_string(other.value))
    return [line for line in map(one_line, found) if line]


def _issuer(certificate: x509.Certificate) -> str:
    for oid, read in ((_ISSUER_V2, _utf8_string), (_ISSUER_V1, lambda raw: raw.decode("utf-8", "replace"))):
        try:
            extension = certificate.extensions.get_extension_for_oid(oid).value
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            continue
        if isinstance(extension, x509.UnrecognizedExtension):
            return one_line(read(extension.value))
    return ""


def _utf8_string(raw: bytes) -> str:
    try:
        return asn1.decode_der(str, raw)
    except ValueError:
        return ""


def _decoded(value: object, where: str, name: str, most: int = SIGNATURE_TEXT_MAX) -> bytes:
    """Return the bytes of base64 text (RFC 4648 section 4) of at most *most* characters."""
    if not isinstance(value, str):
        raise Unverified(f"{where}: {name} is missing; expected base64")
    if len(value) > most:
        raise Unverified(f"{where}: {name} has {len(value):,} characters; at most {most:,} are read")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Unverified(f"{where}: {name} is not base64") from None


def _mapping(value: object, where: str, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unverified(f"{where}: {name} is missing; expected an object")
    return value
