"""Every vector against the product, both ways, and against the document that names it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from protocol.announcement import SessionParameters, build
from protocol.decoder import Decoder, ReceiveBuffer
from protocol.encoder import Encoder
from protocol.events import SessionOpened
from protocol.fragments import fragment
from protocol.limits import RELEASE_SIGNATURES_MAX
from protocol.release import seal_release
from protocol.trust import Remembered, TrustedSenders
from protocol.wire import BurstView
from tests.vectors import catalogue_control, definition, hpke
from tests.vectors import session as s
from tests.vectors.catalogue import catalogue
from tests.vectors.checks import outcome
from tests.vectors.model import DIRECTORY, WIRE_FORMAT, Vector, parse

FILES = sorted(DIRECTORY.glob("*.txt"))
BUILT = {vector.name: vector for vector in catalogue()}
RULE = re.compile(r"^\*\*\[(?P<rule>[0-9.]+-[0-9]+)\]\*\*(?P<text>.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_leads_to_what_it_says(path: Path) -> None:
    vector = parse(path.read_text())
    assert outcome(vector) == vector.expect


def test_files_are_exactly_what_the_generator_writes() -> None:
    assert {path.stem: path.read_text() for path in FILES} == {name: v.render() for name, v in BUILT.items()}


def test_parsing_a_rendered_vector_gives_it_back() -> None:
    for vector in BUILT.values():
        assert parse(vector.render()) == vector


def test_vectors_stay_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < 300_000


def test_a_wrong_expectation_would_be_noticed() -> None:
    for vector in BUILT.values():
        if vector.kind != "fec-digest" and vector.expect != "ok":
            assert outcome(vector) != "ok"
    wrong = replace(BUILT["fec-4-2"], parts=(BUILT["fec-4-2"].parts[0], bytes(64)))
    with pytest.raises(AssertionError):
        outcome(wrong)


def rules() -> dict[str, str]:
    return {match["rule"]: match["text"] for match in RULE.finditer(WIRE_FORMAT.read_text())}


def test_every_rule_names_vectors_that_prove_it() -> None:
    for rule, text in rules().items():
        named = re.findall(r"`([a-z0-9-]+)`", text.partition("Vectors:")[2])
        assert named, f"rule {rule} names no vector"
        for name in named:
            assert name in BUILT, f"rule {rule} names {name}, which does not exist"
            assert BUILT[name].rule == rule, f"rule {rule} names {name}, which proves {BUILT[name].rule}"


def test_every_vector_proves_a_rule_that_exists_and_names_it() -> None:
    found = rules()
    for vector in BUILT.values():
        assert vector.rule in found, f"{vector.name} proves {vector.rule}, which WIRE_FORMAT.md does not have"
        assert f"`{vector.name}`" in found[vector.rule], f"rule {vector.rule} does not name {vector.name}"


def test_our_hpke_is_the_librarys() -> None:
    receiver, ephemeral = s.agreement_key("receiver"), s.agreement_key("ephemeral")
    sealed = hpke.seal(b"message", receiver.public_key(), b"info", ephemeral)
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    assert suite.decrypt(sealed, receiver, info=b"info") == b"message"


# --- the product's own builders give the bytes built by hand --------------------------------------------------


def parameters(session: s.Session) -> SessionParameters:
    return SessionParameters(
        session.epoch, session.session_id, session.datagram_bytes, session.created_ms, session.lanes
    )


def built(session: s.Session) -> bytes:
    wrapped = {s.key_id(s.agreement_key(name)): session.wrapped(name) for name in session.receivers}
    return build(parameters(session), wrapped, s.signing_key(session.sender))


@pytest.mark.parametrize(
    "session", [s.Session(), s.Session(lanes=2, receivers=("receiver", "another receiver"), datagram_bytes=1_472)]
)
def test_announcements_and_fragments_are_built_alike(session: s.Session) -> None:
    ordered = tuple(sorted(session.receivers, key=lambda name: s.key_id(s.agreement_key(name))))
    session = replace(session, receivers=ordered)
    assert built(session) == session.announcement
    assert fragment(session.announcement, session.tag, session.datagram_bytes) == session.fragments()


def test_the_encoder_sends_the_datagrams_built_by_hand() -> None:
    session = s.Session()
    encoder = Encoder(
        parameters(session), session.session_key, session.announcement, clock_ms=lambda now: 1_700_000_000_000
    )
    view = BurstView(memoryview(bytearray(560 * 4)), 560, 4)
    count = encoder.next_burst(view, 0.0)
    sent = [bytes(view.datagrams[i]) for i in range(count)]
    assert sent == [*session.fragments(), session.control(s.BEACON, 0, s.beacon())]


def test_releases_are_sealed_alike() -> None:
    payload = catalogue_control.encode(catalogue_control.document())
    names = [f"signer {i}" for i in range(RELEASE_SIGNATURES_MAX)]
    keys = [s.signing_key(name) for name in names]
    assert seal_release(payload, *keys) == catalogue_control.envelope(payload, *names)


def test_bytes_of_the_definition_reach_the_receiver_whatever_the_odd_sizes() -> None:
    """A session vector fed as one burst of another size must count, never raise."""
    vector: Vector = BUILT["session-one-object"]
    stream = b"".join(vector.parts)
    for size in (1, 31, 32, 47, 48, 304, 559, 561, 1_120, len(stream)):
        decoder = Decoder(
            TrustedSenders.of(s.signing_key("sender").public_key()), s.agreement_key("receiver"), Remembered()
        )
        buffer = ReceiveBuffer()
        buffer.memory[: len(stream)] = stream
        events = decoder.receive_burst(buffer, len(stream), size)
        assert all(isinstance(event, SessionOpened) for event in events)
        assert sum(decoder.counters.drops.values()) + decoder.counters.announcements == -(-len(stream) // size)


def test_the_reciprocals_of_the_definition() -> None:
    assert all(definition.multiply(a, definition.RECIPROCALS[a]) == 1 for a in range(1, 256))
