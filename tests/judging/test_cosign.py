"""Signatures in every form that cosign writes, and every way in which one is none."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from judging.cosign import Found, Key, Unverified, named_signers, pae, verify
from tests.oci_layout.images import referrer_to
from tests.support.signed import (
    Case,
    PrivateKey,
    bundle_form,
    case,
    dsse_bundle,
    message_bundle,
    new_key,
    root_of,
    sign,
    simple_form,
    simple_payload,
    statement,
    tag_form,
    text,
)

FORMS = ("tag", "artifact", "dsse", "message")
KEY = new_key()
ROOT = root_of()
DIGEST = ROOT.descriptor.digest
SIGNATURE = "dev.cosignproject.cosign/signature"
SIGNED = {form: case(form, KEY, ROOT).found().signatures for form in FORMS}  # once: ECDSA is randomised
DSSE = dsse_bundle(KEY, statement(DIGEST))
MESSAGE = message_bundle(KEY, ROOT)


def trusted(key: PrivateKey = KEY) -> Key:
    return Key(key.public_key())


@pytest.mark.parametrize("form", FORMS)
def test_each_form_names_its_signer(form: str) -> None:
    found = case(form, KEY).found()
    assert not found.faults
    (one,) = found.signatures
    signer = verify(one, [trusted(new_key()), trusted()])
    assert signer == trusted().signer
    assert signer.identity == f"key sha256:{signer.distinct[:12]}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
        Ed25519PrivateKey.generate(),
    ],
    ids=lambda key: type(key).__name__ + str(getattr(key, "key_size", "")),
)
def test_each_kind_of_key(form: str, key: PrivateKey) -> None:
    (one,) = case(form, key).found().signatures
    assert verify(one, [trusted(), trusted(key)]) == trusted(key).signer
    with pytest.raises(Unverified, match="not made by the key given"):
        verify(one, [trusted()])


@pytest.mark.parametrize(("curve", "kind"), [(ec.SECP384R1(), hashes.SHA384()), (ec.SECP521R1(), hashes.SHA512())])
def test_larger_curves_sign_with_the_hash_of_their_size(curve: ec.EllipticCurve, kind: hashes.HashAlgorithm) -> None:
    key = ec.generate_private_key(curve)
    payload = simple_payload(DIGEST)
    found = Case(ROOT, simple_form([(payload, {SIGNATURE: text(sign(key, payload, kind))})])).found()
    assert verify(found.signatures[0], [trusted(key)]) == trusted(key).signer


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_any_changed_byte_of_message_or_signature_is_refused(form: str, data: st.DataObject) -> None:
    (one,) = SIGNED[form]
    part = data.draw(st.sampled_from(["message", "value"]))
    before: bytes = getattr(one, part)
    place = data.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Unverified):
        verify(replace(one, **{part: bytes(changed)}), [trusted()])


def test_several_signatures_under_one_tag_each_have_their_signer() -> None:
    other = new_key()
    found = Case(ROOT, tag_form(ROOT, KEY, other)).found()
    keys = [trusted(), trusted(other)]
    assert [verify(one, keys) for one in found.signatures] == [key.signer for key in keys]


def simple(payload: bytes, **annotations: str) -> Found:
    return Case(ROOT, simple_form([(payload, annotations or {SIGNATURE: text(sign(KEY, payload))})])).found()


PAYLOAD = simple_payload(DIGEST)
OTHER = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (lambda: simple(simple_payload(OTHER)), "signs sha256:000000000000…, not sha256:"),
        (lambda: simple(simple_payload(DIGEST, "atomic container signature")), "critical.type 'atomic container"),
        (lambda: simple(b"[]"), "expected a JSON object"),
        (lambda: simple(b'{"critical":{},"critical":{}}'), "appears twice"),
        (lambda: simple(b'{"critical":{"type":"cosign container image signature"}}'), "critical.image is missing"),
        (lambda: simple(PAYLOAD, other="x"), f"has no annotation {SIGNATURE}"),
        (lambda: simple(PAYLOAD, **{SIGNATURE: text(sign(KEY, PAYLOAD))[:-1]}), "is not base64"),
        (lambda: simple(PAYLOAD, **{SIGNATURE: "é" * 8}), "is not base64"),
        (lambda: simple(PAYLOAD, **{SIGNATURE: "A" * 2_000_000}), "2,000,000 characters; at most 16,384"),
        (lambda: simple(PAYLOAD + b" " * 300_000), "at most 262,144 are read"),
        (
            lambda: simple(PAYLOAD, **{SIGNATURE: "AAAA", "dev.sigstore.cosign/certificate": "no PEM"}),
            "annotation dev.sigstore.cosign/certificate",
        ),
    ],
)
def test_simple_signing_that_is_no_signature_of_the_image(found: Callable[[], Found], reason: str) -> None:
    result = found()
    assert result.signatures == ()
    (line,) = result.faults
    assert reason in line
    assert line.startswith("tag sha256-")
    assert "\n" not in line


def test_signature_of_another_payload_is_found_and_refused() -> None:
    (one,) = simple(PAYLOAD, **{SIGNATURE: text(sign(KEY, PAYLOAD + b"\n"))}).signatures
    with pytest.raises(Unverified, match=r"layer 0: not made by the key given"):
        verify(one, [trusted()])


def test_a_bad_layer_takes_no_good_one_along() -> None:
    good = (PAYLOAD, {SIGNATURE: text(sign(KEY, PAYLOAD))})
    found = Case(ROOT, simple_form([(simple_payload(OTHER), good[1]), good])).found()
    assert len(found.faults) == 1
    assert verify(found.signatures[0], [trusted()]) == trusted().signer


def test_the_number_of_signatures_is_bounded() -> None:
    found = Case(ROOT, simple_form([(PAYLOAD, {SIGNATURE: "AAAA"})] * 300)).found()
    assert len(found.signatures) == 256
    assert "more than 256 signatures" in found.faults[0]


def bundle(change: Callable[[dict[str, Any]], object], payload: bytes | None = None) -> Found:
    document = dsse_bundle(KEY, payload if payload is not None else statement(DIGEST))
    change(document)
    return Case(ROOT, None, (bundle_form(ROOT, document),)).found()


def nothing(_: dict[str, Any]) -> None:
    return None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (lambda: bundle(nothing, statement(OTHER)), "signs sha256:000000000000…, not"),
        (lambda: bundle(nothing, statement(DIGEST, subject=[])), "no single subject"),
        (lambda: bundle(nothing, statement(DIGEST, subject=[{"digest": {"sha512": "0"}}])), "signs sha256:None"),
        (lambda: bundle(nothing, statement(DIGEST, _type="x")), "_type 'x' is no in-toto statement"),
        (
            lambda: bundle(lambda doc: doc["dsseEnvelope"].update(payloadType="text/plain")),
            "payloadType 'text/plain'",
        ),
        (
            lambda: bundle(
                lambda doc: doc["dsseEnvelope"]["signatures"].append(doc["dsseEnvelope"]["signatures"][0])
            ),
            "envelope with 2 signatures",
        ),
        (lambda: bundle(lambda doc: doc["dsseEnvelope"].update(signatures=[])), "envelope with 0 signatures"),
        (lambda: bundle(lambda doc: doc["dsseEnvelope"].update(payload="%")), "dsseEnvelope.payload is not base64"),
        (lambda: bundle(lambda doc: doc.update(mediaType="x")), "mediaType 'x' is no bundle we know"),
        (lambda: bundle(lambda doc: doc.update(messageSignature={})), "either dsseEnvelope or messageSignature"),
        (lambda: bundle(lambda doc: doc.pop("verificationMaterial")), "verificationMaterial is missing"),
        (
            lambda: bundle(lambda doc: doc.update(verificationMaterial={"certificate": {"rawBytes": "AAAA"}})),
            "certificate: ",
        ),
        (lambda: bundle(nothing, statement(DIGEST, padding="x" * 1_500_000)), "at most 1,048,576 are read"),
        (lambda: Case(ROOT, None, (bundle_form(ROOT, b"{}", b"{}"),)).found(), "2 layers; a bundle is one"),
        (lambda: Case(ROOT, None, (bundle_form(ROOT, b"\xff"),)).found(), "not a JSON document"),
        (
            lambda: Case(ROOT, None, (bundle_form(ROOT, message_bundle(KEY, root_of("other"))),)).found(),
            "signs sha256:",
        ),
    ],
)
def test_bundles_that_are_no_signature_of_the_image(found: Callable[[], Found], reason: str) -> None:
    result = found()
    assert result.signatures == ()
    (line,) = result.faults
    assert reason in line
    assert line.startswith("referrer sha256:")


def test_attestations_and_other_referrers_sign_nothing() -> None:
    provenance = dsse_bundle(KEY, statement(DIGEST, "https://slsa.dev/provenance/v1"))
    referrers = (bundle_form(ROOT, provenance), referrer_to(ROOT.descriptor, "application/spdx+json"))
    assert Case(ROOT, None, referrers).found() == Found()


def test_a_bundle_that_refers_to_another_image_is_not_looked_at() -> None:
    other = root_of("other")
    good = dsse_bundle(KEY, statement(DIGEST))
    assert Case(ROOT, None, (bundle_form(other, good),)).found() == Found()


def test_older_bundle_types_are_understood() -> None:
    old = "application/vnd.dev.sigstore.bundle+json;version=0.2"
    (one,) = bundle(lambda doc: doc.update(mediaType=old)).signatures
    assert verify(one, [trusted()]) == trusted().signer


def test_pre_authentication_encoding_is_that_of_the_specification() -> None:
    # the example of DSSE's protocol.md
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def certificate(name: x509.GeneralName, issuer: str | None) -> x509.Certificate:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    empty = x509.Name([])
    builder = (
        x509.CertificateBuilder(empty, empty, KEY.public_key(), 1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(minutes=10))
        .add_extension(x509.SubjectAlternativeName([name]), True)
    )
    if issuer is not None:
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, asn1.encode_der(issuer)), False)
    return builder.sign(KEY, hashes.SHA256())


@pytest.mark.parametrize(
    ("name", "issuer", "shown"),
    [
        (
            x509.RFC822Name("dev@example.org"),
            "https://id.example",
            "claims to be dev@example.org (https://id.example)",
        ),
        (x509.UniformResourceIdentifier("https://ci.example/w"), None, "claims to be https://ci.example/w"),
        (x509.DNSName("example.org"), None, "claims to be a certificate without a name"),
        (x509.RFC822Name("a\x1b[2J@example.org"), None, "claims to be a [2J@example.org"),
        (
            x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7"), asn1.encode_der("someone!example.org")),
            None,
            "claims to be someone!example.org",
        ),
    ],
)
@pytest.mark.parametrize("form", ["tag", "dsse"])
def test_certificates_are_shown_by_name_as_a_claim(
    form: str, name: x509.GeneralName, issuer: str | None, shown: str
) -> None:
    made = certificate(name, issuer)
    if form == "tag":
        chain = made.public_bytes(serialization.Encoding.PEM).decode()
        found = simple(PAYLOAD, **{SIGNATURE: "AAAA", "dev.sigstore.cosign/certificate": chain})
    else:
        raw = text(made.public_bytes(serialization.Encoding.DER))
        found = bundle(lambda doc: doc.update(verificationMaterial={"certificate": {"rawBytes": raw}}))
    assert named_signers(found) == (shown,)


def test_without_certificate_the_key_is_unknown_and_without_signature_it_is_unsigned() -> None:
    assert named_signers(case("tag", KEY).found()) == ("unknown key",)
    assert named_signers(Found()) == ("unsigned",)


@given(
    raw=st.binary(max_size=300)
    | st.builds(
        lambda value: json.dumps(value).encode(),
        st.recursive(
            st.none() | st.text(max_size=5) | st.integers(),
            lambda inner: (
                st.dictionaries(
                    st.sampled_from(["mediaType", "verificationMaterial", "dsseEnvelope", "payload", "signatures"]),
                    inner,
                )
                | st.lists(inner, max_size=2)
            ),
            max_leaves=10,
        ),
    )
)
def test_no_layer_raises(raw: bytes) -> None:
    found = Case(ROOT, simple_form([(raw, {SIGNATURE: "AAAA"})]), (bundle_form(ROOT, raw),)).found()
    assert found.signatures == ()
    assert len(found.faults) == 2


JUNK = st.none() | st.text(max_size=5) | st.integers() | st.just({}) | st.just([]) | st.lists(st.just({}), max_size=2)


@given(data=st.data())
def test_no_mangled_bundle_raises(data: st.DataObject) -> None:
    document = json.loads(json.dumps(data.draw(st.sampled_from([DSSE, MESSAGE]))))
    node = document
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(JUNK)
    found = Case(ROOT, None, (bundle_form(ROOT, document),)).found()
    assert len(found.signatures) + len(found.faults) == 1
