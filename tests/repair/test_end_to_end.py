"""From what a receiver lacks, by a code that a person carries, to just those blocks on the wire."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from protocol.repair_code import decode
from tests.repair.conftest import Started
from tests.repair.rig import Pair, until
from tests.support.content import some_bytes
from tests.transmit.rig import end

LAYER = some_bytes(24_000_000)
NO_CAROUSEL = "repeats: {carousel: 0, release_every: 1h}\n"


def mistyped(code: str) -> str:
    """Two characters wrong, as a person copies."""
    letters = list(code.lower())
    for at in (3, 21):
        letters[at] = "7" if letters[at] != "7" else "8"
    return "".join(letters).replace("-", " ")


def blocks_of(code: str) -> set[int]:
    """The blocks that a code names; a busy machine may lose some besides those that the test loses."""
    (section,), mended = decode(code)
    assert (section.release, section.whole, mended) == (False, (), 0)
    return {sbn for first, end in section.pieces[0].missing for sbn in range(first, end)}


def test_the_blocks_that_a_code_names_are_sent_and_no_others(tmp_path: Path, started: Started) -> None:
    pair = Pair(tmp_path, more=NO_CAROUSEL)
    (layer,) = pair.release(LAYER)
    geometry = pair.geometry(len(LAYER))
    lost = {1, 3, geometry.blocks - 1}
    assert geometry.blocks > 4
    with pair.link() as link:
        link.loses = lambda symbol: symbol[1] in lost
        started(pair.start_receiver())
        role = started(pair.low.start())
        assert 0 < pair.settle()[layer] <= len(LAYER) - sum(geometry.block(sbn).size for sbn in lost)
        toi = max(link.symbols, key=lambda symbol: symbol[1])[0]
        code = pair.code()
        assert len(code) <= 60, code
        assert "\n" not in code
        named = blocks_of(code)
        assert named >= lost
        link.symbols.clear()
        link.loses = lambda symbol: False
        done, out, err = pair.cli("sender", "repair", "--json", *mistyped(code).split())
        assert (done, err) == (0, "")
        found = json.loads(out)
        assert found["characters_mended"] == 2
        assert found["bytes"] == sum(geometry.block(sbn).size for sbn in named)
        until(lambda: pair.repairs() == [])
        assert link.of(toi) == {sbn: geometry.block(sbn).datagrams for sbn in named}
        assert not [symbol for symbol in link.symbols if symbol[0] != toi]
        until(lambda: pair.spool.size(layer) == len(LAYER))
        assert end(role)[0] == 0
    assert pair.spool.path(layer).read_bytes() == LAYER
    assert [event for event in pair.low.passes() if "layer" in event] == ["layer 0"], "a repair is no pass"
    assert pair.cli("receiver", "missing", "--code")[1:] == ("nothing is missing\n", "")


def test_a_repair_outlives_the_role_and_a_change_of_geometry(tmp_path: Path, started: Started) -> None:
    pair = Pair(tmp_path, more=NO_CAROUSEL)
    (layer,) = pair.release(LAYER)
    geometry = pair.geometry(len(LAYER))
    with pair.link() as link:
        link.loses = lambda symbol: symbol[1] == 2
        started(pair.start_receiver())
        role = started(pair.low.start())
        assert layer in pair.settle()
        role.kill()
        role.wait()
        code = pair.code()
        named = blocks_of(code)
        done, out, _ = pair.cli("sender", "repair", "-", stdin=f"\n {code}\n")
        assert done == 0
        assert "to go first" in out
        assert pair.cli("sender", "repair", "-", stdin=code)[0] == 0, "given twice, it is queued once"
        status = json.loads(pair.cli("sender", "status", "--json")[1])
        assert status["queued_repairs"] == 1
        assert status["repair_bytes"] == sum(geometry.block(sbn).size for sbn in named)
        assert "repairs     1 object, " in pair.cli("sender", "status")[1]
        pair.low.config.write_text(pair.low.config.read_text().replace("rate:", "mtu: 1400, rate:"))
        other = pair.geometry(len(LAYER))
        assert other.symbol_bytes != geometry.symbol_bytes
        link.loses = lambda symbol: False
        link.symbols.clear()
        assert started(pair.low.start(once=True)).wait(60) == 0
        until(lambda: pair.spool.size(layer) == len(LAYER))
    sent = {sbn for toi, sbn in link.symbols if sbn}
    assert 2 in named
    assert len(sent) <= len(named) + 2
    assert pair.repairs() == []


def test_a_receiver_that_loses_the_same_part_of_every_round_is_whole_after_some(
    tmp_path: Path, started: Started
) -> None:
    """Built from nothing, after all was sent; each round of the carousel loses its third fifth, whatever that is."""
    pair = Pair(tmp_path, rate="100Mbit", more="repeats: {carousel: 10ms, spacing: 1ms, release_every: 1s}\n")
    layers = [LAYER[:9_000_000], *(some_bytes(200_000, seed) for seed in range(1, 7))]
    digests = pair.release(*layers)
    one_round = sum(pair.geometry(len(layer)).datagrams() for layer in layers) + pair.geometry(300).datagrams()
    with pair.link() as link:
        started(pair.low.start())
        until(lambda: len([label for label in pair.low.passes() if "release" not in label]) >= len(layers) + 1)
        heard: Counter[str] = Counter()

        def loses(symbol: tuple[int, int]) -> bool:
            if symbol[0] == toi_of_release:
                return False
            heard["symbols"] += 1
            return 0.4 <= heard["symbols"] % one_round / one_round < 0.6

        def say() -> str:
            return f"{heard['symbols'] / one_round:.1f} rounds, {pair.here()}, {pair.low.passes()[-20:]}"

        toi_of_release = 1  # the first that a session gives out
        link.loses = loses
        started(pair.start_receiver())
        until(lambda: all(pair.spool.size(digest) is not None for digest in digests), 90, say)
        rounds = heard["symbols"] / one_round
        until(lambda: pair.cli("receiver", "missing")[0] == 0)  # and the release is known, so nothing is missing
    assert 1 < rounds < 12, rounds
