"""The repair code: how long it is for what is typically lacking, and what becomes of mistyped characters.

Codes are those that ``checkvalve-receiver missing --code`` prints, of a release of ten images with eight contents
each; the layer is 1 GB, cut as for a link of 1 Gbit/s and an MTU of 1500. Nothing is sent.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.measure import Spread, timed
from protocol.geometry import profile_for_link
from protocol.repair_code import Pieces, Ranges, decode, joined
from protocol.repair_text import ALPHABET, VALUES_MAX, BadRepairCode, grouped
from receiver.missing import Part, codes

LAYER_BYTES: Final = 1_000_000_000
SYMBOL_BYTES: Final = 1_424
DATAGRAMS_PER_SECOND: Final = 1e9 / 8 / 1_500
IMAGES: Final = 10
CONTENTS: Final = 8  # of an image
SEQUENCE: Final = 120
_RELEASE: Final = (SEQUENCE, 0x9F86D08)
_LAYER: Final = 43  # the layer's place in the release


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each code is mistyped for each number of wrong characters, and timed."""

    tries: int = 2_000
    runs: int = 20


FULL: Final = Effort()
QUICK: Final = Effort(200, 5)
TINY: Final = Effort(10, 1)


def measure(effort: Effort) -> dict[str, Any]:
    """Return a row for each case, and what becomes of wrong characters in the code for three blocks."""
    geometry = profile_for_link(SYMBOL_BYTES, DATAGRAMS_PER_SECOND, 0.1, 0.01).geometry(LAYER_BYTES)
    rows, three = [], ""
    for name, parts in _cases(geometry.blocks):
        (code,) = codes(parts, VALUES_MAX)
        encode = Spread.of([1000 * timed(lambda p=parts: codes(p, VALUES_MAX)) for _ in range(effort.runs)])  # type: ignore[misc]
        read = Spread.of([1000 * timed(lambda c=code.text: decode(c)) for _ in range(effort.runs)])  # type: ignore[misc]
        rows.append(
            {
                "case": name,
                "parts": len(parts),
                "characters": len(code.text),
                "printed": len("\n".join(grouped(code.text))),
                "lines": len(grouped(code.text)),
                "encode_ms": encode.as_json(),
                "decode_ms": read.as_json(),
            }
        )
        three = code.text if name == "3 blocks of the layer" else three
    return {
        "layer_bytes": LAYER_BYTES,
        "blocks": geometry.blocks,
        "rows": rows,
        "mistyped": [_mistyped(three, wrong, effort.tries) for wrong in range(1, 9)],
    }


def _cases(blocks: int) -> Iterator[tuple[str, list[Part]]]:
    scattered = sorted(random.Random(1).sample(range(blocks), blocks // 2))
    yield "1 block of the layer", [_layer(blocks, [blocks // 3])]
    yield "3 blocks of the layer", [_layer(blocks, [blocks // 9, blocks // 2, blocks - 2])]
    yield "3 of 10 images", [Part(*_RELEASE, image * CONTENTS + at) for image in (1, 4, 8) for at in range(CONTENTS)]
    yield "all of an image", [Part(*_RELEASE, 5 * CONTENTS + at) for at in range(CONTENTS)]
    yield "the release, heard of in beacons", [Part(*_RELEASE)]
    yield "half of the layer's blocks, scattered", [_layer(blocks, scattered)]


def _layer(blocks: int, missing: list[int]) -> Part:
    ranges: Ranges = joined((at, at + 1) for at in missing)
    return Part(*_RELEASE, _LAYER, SYMBOL_BYTES, Pieces(_LAYER, 0x9F86, blocks, ranges))


def _mistyped(text: str, wrong: int, tries: int) -> dict[str, Any]:
    rng, right, refused = random.Random(wrong), 0, 0
    meant = decode(text)[0]
    for _ in range(tries):
        letters = list(text)
        for at in rng.sample(range(len(text)), wrong):
            letters[at] = rng.choice([letter for letter in ALPHABET if letter != letters[at]])
        try:
            right += decode("".join(letters))[0] == meant
        except BadRepairCode:
            refused += 1
    return {"wrong": wrong, "tries": tries, "mended": right, "refused": refused, "misread": tries - right - refused}
