"""Keyless bundles of a Sigstore instance of our own: certificate authority, certificate log and signature log."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from judging.cosign import Key, Signature, Unverified, signature_tag
from judging.keyless import Keyless
from judging.policy import Subject, Verdict, judge, load_keys
from judging.policy_model import Cosign, KeylessSigner, Verify
from oci.closure import walk
from oci.layout import Layout
from oci.reference import parse_reference
from runtime.errors import UserError
from sender.desired import release_image
from tests.oci_layout.images import single_image
from tests.support.signed import (
    Case,
    bundle_form,
    case,
    dsse_bundle,
    new_key,
    pem,
    root_of,
    simple_form,
    simple_payload,
    statement,
    tag_form,
    text,
)

ROOT = root_of()
WHO, ISSUER = "dev@example.org", "https://id.example"
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SIGNED_AT = int(START.timestamp()) + 60
_FULCIO = "1.3.6.1.4.1.57264.1"
_STAMPS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


def der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def log_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(der(key)).digest()


def sha256_sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


class Instance:
    """What ``cosign sign`` talks to, and the trusted root that goes with it."""

    def __init__(self) -> None:
        self.authority, self.certificates, self.rekor = new_key(), new_key(), new_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        public = self.authority.public_key()
        self.root = (
            x509.CertificateBuilder(name, name, public, 1)
            .not_valid_before(START - datetime.timedelta(days=1))
            .not_valid_after(START + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .sign(self.authority, hashes.SHA256())
        )

    def certificate(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """A leaf for ten minutes with the certificate log's timestamp inside (RFC 6962 section 3.2)."""
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.authority.public_key())
        builder = (
            x509.CertificateBuilder(self.root.subject, x509.Name([]), key.public_key(), 2)
            .not_valid_before(START)
            .not_valid_after(START + datetime.timedelta(minutes=10))
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(WHO)]), True)
            .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), True)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)
        )
        for oid, value in ((f"{_FULCIO}.1", ISSUER.encode()), (f"{_FULCIO}.8", asn1.encode_der(ISSUER))):
            builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)
        bare = builder.sign(self.authority, hashes.SHA256()).tbs_certificate_bytes
        moment = (SIGNED_AT * 1000).to_bytes(8, "big")
        issuer = log_id(self.authority)
        logged = b"\0\0" + moment + b"\0\1" + issuer + len(bare).to_bytes(3, "big") + bare + b"\0\0"
        proof = sha256_sign(self.certificates, logged)
        stamp = b"\0" + log_id(self.certificates) + moment + b"\0\0" + b"\4\3" + len(proof).to_bytes(2, "big") + proof
        stamps = len(stamp).to_bytes(2, "big") + stamp
        listed = asn1.encode_der(len(stamps).to_bytes(2, "big") + stamps)
        return builder.add_extension(x509.UnrecognizedExtension(_STAMPS, listed), False).sign(
            self.authority, hashes.SHA256()
        )

    def bundle(self, digest: str) -> dict[str, Any]:
        """What ``cosign sign --new-bundle-format`` writes: envelope, certificate and an entry of the log."""
        key = new_key()
        made = self.certificate(key)
        document = dsse_bundle(key, statement(digest))
        envelope = document["dsseEnvelope"]
        verifier = made.public_bytes(serialization.Encoding.PEM)
        body = json.dumps(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
                    "payloadHash": {
                        "algorithm": "sha256",
                        "value": hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest(),
                    },
                    "signatures": [{"signature": envelope["signatures"][0]["sig"], "verifier": text(verifier)}],
                },
            }
        ).encode()
        document["verificationMaterial"] = {
            "certificate": {"rawBytes": text(made.public_bytes(serialization.Encoding.DER))},
            "tlogEntries": [self.entry(body)],
        }
        return document

    def entry(self, body: bytes) -> dict[str, Any]:
        """The only entry of a log: promise, proof and checkpoint (Rekor v1)."""
        leaf = text(hashlib.sha256(b"\0" + body).digest())
        note = f"log.example - 1\n1\n{leaf}\n"
        sealed = text(log_id(self.rekor)[:4] + sha256_sign(self.rekor, note.encode()))
        promise = {
            "body": text(body),
            "integratedTime": SIGNED_AT,
            "logID": log_id(self.rekor).hex(),
            "logIndex": 0,
        }
        canonical = json.dumps(promise, separators=(",", ":"), sort_keys=True).encode()
        return {
            "logIndex": "0",
            "logId": {"keyId": text(log_id(self.rekor))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(SIGNED_AT),
            "inclusionPromise": {"signedEntryTimestamp": text(sha256_sign(self.rekor, canonical))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": leaf,
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n— log.example {sealed}\n"},
            },
            "canonicalizedBody": text(body),
        }

    def trusted_root(self, path: Path) -> Path:
        since = {"start": "2025-01-01T00:00:00Z"}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = {"rawBytes": text(der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since}
            return {
                "baseUrl": "https://log.example",
                "hashAlgorithm": "SHA2_256",
                "publicKey": public,
                "logId": {"keyId": text(log_id(key))},
            }

        chain = {"certificates": [{"rawBytes": text(self.root.public_bytes(serialization.Encoding.DER))}]}
        authority = {
            "subject": {"organization": "test", "commonName": "test authority"},
            "uri": "https://ca.example",
            "certChain": chain,
            "validFor": since,
        }
        document = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.rekor)],
            "certificateAuthorities": [authority],
            "ctlogs": [log(self.certificates)],
            "timestampAuthorities": [],
        }
        path.write_text(json.dumps(document))
        return path


def signature(document: dict[str, Any]) -> Signature:
    (one,) = Case(ROOT, None, (bundle_form(ROOT, document),)).found().signatures
    return one


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requirements/keyless\.txt"):
        load_keys(Verify(cosign=Cosign(keyless=KeylessSigner(identity=WHO, issuer=ISSUER))))


@pytest.fixture
def instance() -> Instance:
    pytest.importorskip(
        "sigstore", reason="the optional extra sigstore is not installed (run: .venv/bin/pip install sigstore)"
    )
    return Instance()


def test_a_bundle_by_the_identity_and_issuer_asked_for_is_verified(instance: Instance, tmp_path: Path) -> None:
    root = instance.trusted_root(tmp_path / "root.json")
    one = signature(instance.bundle(ROOT.descriptor.digest))
    trust = load_keys(Verify(cosign=Cosign(keyless=KeylessSigner(identity=WHO, issuer=ISSUER, trusted_root=root))))
    assert trust.keyless is not None
    assert trust.keyless.verify(one).identity == f"{WHO} ({ISSUER})"


@pytest.mark.parametrize(("who", "issuer"), [("other@example.org", ISSUER), (WHO, "https://other.example")])
def test_another_identity_or_issuer_is_refused_by_name(
    instance: Instance, tmp_path: Path, who: str, issuer: str
) -> None:
    keyless = Keyless(who, issuer, instance.trusted_root(tmp_path / "root.json"))
    with pytest.raises(Unverified, match=r"by dev@example\.org \(https://id\.example\): "):
        keyless.verify(signature(instance.bundle(ROOT.descriptor.digest)))


def _swap_payload(document: dict[str, Any]) -> None:
    document["dsseEnvelope"]["payload"] = text(statement(ROOT.descriptor.digest, note="another"))


@pytest.mark.parametrize("first", ["dsseEnvelope", "dsse_envelope"])
def test_an_envelope_that_only_the_package_reads_does_not_count(
    instance: Instance, tmp_path: Path, first: str
) -> None:
    # protobuf's JSON has two spellings: one with our image, unsigned, and one that is signed, for another
    keyless = Keyless(WHO, ISSUER, instance.trusted_root(tmp_path / "root.json"))
    document = instance.bundle(root_of("another").descriptor.digest)
    signed = document.pop("dsseEnvelope")
    unsigned = {**signed, "payload": text(statement(ROOT.descriptor.digest))}
    envelopes = {"dsseEnvelope": unsigned, "dsse_envelope": signed}
    document |= {name: envelopes[name] for name in sorted(envelopes, key=lambda name: name != first)}
    with pytest.raises(Unverified):
        keyless.verify(signature(document))


@pytest.mark.parametrize(
    "change",
    [
        _swap_payload,
        lambda document: document["verificationMaterial"].update(tlogEntries=[]),
        lambda document: document["verificationMaterial"]["tlogEntries"][0].update(integratedTime="1"),
        lambda document: document["verificationMaterial"]["tlogEntries"][0].update(inclusionProof=None),
        lambda document: document["verificationMaterial"].update(tlogEntries={"a": [None]}),
    ],
)
def test_bundles_that_do_not_hold_are_refused(
    instance: Instance, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    keyless = Keyless(WHO, ISSUER, instance.trusted_root(tmp_path / "root.json"))
    document = instance.bundle(ROOT.descriptor.digest)
    change(document)
    with pytest.raises(Unverified):
        keyless.verify(signature(document))


def test_a_bundle_of_another_instance_is_refused(instance: Instance, tmp_path: Path) -> None:
    keyless = Keyless(WHO, ISSUER, instance.trusted_root(tmp_path / "root.json"))
    with pytest.raises(Unverified):
        keyless.verify(signature(Instance().bundle(ROOT.descriptor.digest)))


@pytest.mark.parametrize("form", ["dsse", "tag"])
def test_signatures_by_a_key_are_not_keyless(instance: Instance, tmp_path: Path, form: str) -> None:
    keyless = Keyless(WHO, ISSUER, instance.trusted_root(tmp_path / "root.json"))
    (one,) = case(form, new_key(), ROOT).found().signatures
    with pytest.raises(Unverified, match="made with a key"):
        keyless.verify(one)


def test_what_we_read_must_be_what_the_package_verified(instance: Instance, tmp_path: Path) -> None:
    keyless = Keyless(WHO, ISSUER, instance.trusted_root(tmp_path / "root.json"))
    one = signature(instance.bundle(ROOT.descriptor.digest))
    with pytest.raises(Unverified, match="reads another statement"):
        keyless.verify(replace(one, message=one.message + b" "))


def test_keyless_in_the_tag_form_says_what_to_do(instance: Instance, tmp_path: Path) -> None:
    keyless = Keyless(WHO, ISSUER, instance.trusted_root(tmp_path / "root.json"))
    payload = simple_payload(ROOT.descriptor.digest)
    key = new_key()
    annotations = {
        "dev.cosignproject.cosign/signature": text(sha256_sign(key, payload)),
        "dev.sigstore.cosign/certificate": instance.certificate(key)
        .public_bytes(serialization.Encoding.PEM)
        .decode(),
    }
    (one,) = Case(ROOT, simple_form([(payload, annotations)])).found().signatures
    with pytest.raises(Unverified, match="cannot be verified offline; sign with cosign 3"):
        keyless.verify(one)


async def test_a_key_and_an_identity_are_two_signers(instance: Instance, tmp_path: Path) -> None:
    image, key = single_image("judged"), new_key()
    (tmp_path / "cosign.pub").write_bytes(pem(key))
    digest = image.root.descriptor.digest
    spool = Layout(tmp_path / "spool")
    for part in (image, bundle_form(image.root, instance.bundle(digest))):
        await part.push(spool, None)
    by_certificate = KeylessSigner(
        identity=WHO, issuer=ISSUER, trusted_root=instance.trusted_root(tmp_path / "root.json")
    )
    asked = Verify(cosign=Cosign(keys=(tmp_path / "cosign.pub",), keyless=by_certificate, at_least=2))

    async def verdict() -> Verdict:
        release = release_image("r.example/app", await walk(spool, image.root.descriptor), foreign=False)
        subject = Subject(parse_reference(f"r.example/app@{digest}"), release, {})
        return await judge(asked, load_keys(asked), subject, spool.blobs, tmp_path / "scratch")

    assert await verdict() == Verdict(
        ("signed by 1 of those trusted; verify.cosign.at_least is 2",), (f"{WHO} ({ISSUER})",)
    )
    await tag_form(image.root, key).push(spool, signature_tag(digest))
    both = await verdict()
    assert both.held == ()
    assert both.signers == (f"{WHO} ({ISSUER})", Key(key.public_key()).signer.identity)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]"])
def test_a_file_that_is_no_trusted_root_is_refused(instance: Instance, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "root.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"root\.json: is no trusted root: .*; verify.cosign.keyless.trusted_root"):
        Keyless(WHO, ISSUER, path)
    with pytest.raises(UserError, match=r"missing\.json: cannot be read: No such file"):
        Keyless(WHO, ISSUER, tmp_path / "missing.json")
