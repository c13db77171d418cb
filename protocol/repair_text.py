"""The characters of a repair code: grouped, hard to confuse, guarded by a checksum and by Reed-Solomon over GF(32).

Knows nothing of what the code means (repair_code.py); here it is a string of bits. WIRE_FORMAT.md §12.1:

    values   checksum (6) | payload, zero bits to the end of a group | parity (6 for each codeword)
    text     one character a value, groups of five, ten groups a line

Value i belongs to codeword i mod c, so that neighbours fall into different codewords. In each codeword three wrong
characters are mended, or six that are known to be unreadable (``?``).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from reedsolo import ReedSolomonError, RSCodec

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U
FORGIVEN: Final = {"I": "1", "L": "1", "O": "0", "U": "V"}
BITS: Final = 5  # of one character
GROUP: Final = 5
LINE_GROUPS: Final = 10  # 59 characters a line
PARITY: Final = 6
CODEWORD_MAX: Final = 31  # 2**5 - 1
CHECKSUM: Final = 6  # characters: 30 bits
VALUES_MAX: Final = 8_000  # of a code
SLIPS_MAX: Final = 200  # in longer codes a character that was left out or doubled is not looked for
_CONTEXT: Final = b"checkvalve repair code v1\0"
_VALUES: Final = {letter: value for value, letter in enumerate(ALPHABET)} | {
    letter: ALPHABET.index(meant) for letter, meant in FORGIVEN.items()
}
_UNREADABLE: Final = -1
# GF(32) by x^5 + x^2 + 1; the generator's roots are 2^0 .. 2^5
_CODEC: Final = RSCodec(PARITY, nsize=CODEWORD_MAX, c_exp=BITS, prim=0x25)


class BadRepairCode(ValueError):
    """A text that is no repair code, or too damaged; ``str()`` says in one line what is wrong."""


def write_text(bits: Sequence[int]) -> str:
    """Return the characters of *bits* (each 0 or 1), not grouped; BadRepairCode beyond VALUES_MAX characters."""
    padded = [*bits, *[0] * (-len(bits) % BITS)]
    payload = [_number(padded[at : at + BITS]) for at in range(0, len(padded), BITS)]
    while length_of(len(payload)) % GROUP:
        payload.append(0)
    if length_of(len(payload)) > VALUES_MAX:
        raise BadRepairCode(f"a code of {length_of(len(payload))} characters; the most is {VALUES_MAX}")
    data = _checksum(payload) + payload
    count = _codewords(length_of(len(payload)))
    parity = [0] * (PARITY * count)
    for each in range(count):
        words = _CODEC.encode(data[each::count])
        first = (each - len(data)) % count  # where this codeword goes on behind the data
        parity[first::count] = list(words[-PARITY:])
    return "".join(ALPHABET[value] for value in data + parity)


def length_of(payload: int) -> int:
    """Return the characters of a code whose payload has *payload* characters, before it is filled to a group."""
    data = CHECKSUM + payload
    return data + PARITY * -(-data // (CODEWORD_MAX - PARITY))


def grouped(text: str) -> list[str]:
    """Return the lines in which a code is printed."""
    groups = [text[at : at + GROUP] for at in range(0, len(text), GROUP)]
    return ["-".join(groups[at : at + LINE_GROUPS]) for at in range(0, len(groups), LINE_GROUPS)]


def read_text(text: str) -> tuple[list[int], int]:
    """Return (bits, characters mended) of a code as a person typed it; BadRepairCode.

    Case, white space and dashes do not matter; I and L are 1, O is 0, U is V; any other character is an unreadable
    one. One character that was left out or typed twice is found where the code is short.
    """
    values = list(_values(text))
    if not values:
        raise BadRepairCode("there is no code in it; give the groups that `missing --code` prints")
    if not length_of(1) <= len(values) + 1 or len(values) > VALUES_MAX:
        raise BadRepairCode(f"{len(values)} characters; a code has {length_of(1)} to {VALUES_MAX}")
    slip = len(values) % GROUP
    if slip == 0:
        return _decode(values)
    if slip in (1, GROUP - 1) and len(values) <= SLIPS_MAX:
        return _without_slip(values, doubled=slip == 1)
    raise BadRepairCode(
        f"{len(values)} characters, but a code consists of whole groups of {GROUP}: some are missing or too many"
    )


def _values(text: str) -> Iterator[int]:
    for letter in text:
        if not (letter.isspace() or letter == "_" or unicodedata.category(letter) in ("Pd", "Cf")):
            yield _VALUES.get(letter.upper(), _UNREADABLE)


def _without_slip(values: list[int], *, doubled: bool) -> tuple[list[int], int]:
    """Try each place at which a character may have been left out, or typed twice."""
    found: tuple[list[int], int] | None = None
    for at in range(len(values) if doubled else len(values) + 1):
        tried = values[:at] + ([] if doubled else [_UNREADABLE]) + values[at + 1 if doubled else at :]
        try:
            bits, mended = _decode(tried)
        except BadRepairCode:
            continue
        mended += doubled
        if found is not None and found[0] != bits:
            raise BadRepairCode("it can be read in two ways; compare it with what the receiver printed")
        if found is None or mended < found[1]:
            found = bits, mended
    if found is None:
        what = "one too many" if doubled else "one is missing"
        raise BadRepairCode(f"{len(values)} characters: {what}, and others are wrong; compare the groups")
    return found


def _decode(values: list[int]) -> tuple[list[int], int]:
    count = _codewords(len(values))
    size = len(values) - PARITY * count
    if size <= CHECKSUM or length_of(size - CHECKSUM) != len(values):
        raise BadRepairCode(f"{len(values)} characters; no code is as long as that")
    mended = 0
    whole = list(values)
    for each in range(count):
        word = values[each::count]
        lost = [at for at, value in enumerate(word) if value == _UNREADABLE]
        try:
            _, right, _ = _CODEC.decode([max(value, 0) for value in word], erase_pos=lost)
        except (ReedSolomonError, ZeroDivisionError):
            raise BadRepairCode(
                "too many characters are wrong to be mended; compare the groups with what the receiver printed"
            ) from None
        mended += sum(a != b for a, b in zip(word, right, strict=True))
        whole[each::count] = list(right)
    if whole[:CHECKSUM] != _checksum(whole[CHECKSUM:size]):
        raise BadRepairCode("its checksum does not fit; compare the groups with what the receiver printed")
    return [value >> shift & 1 for value in whole[CHECKSUM:size] for shift in range(BITS - 1, -1, -1)], mended


def _codewords(length: int) -> int:
    return -(-length // CODEWORD_MAX)


def _checksum(payload: Iterable[int]) -> list[int]:
    """The first 30 bits of a SHA-256: against accidents, not against forgers."""
    number = int.from_bytes(hashlib.sha256(_CONTEXT + bytes(payload)).digest()[:4], "big") >> 2
    return [number >> shift & 31 for shift in range(BITS * (CHECKSUM - 1), -1, -BITS)]


def _number(bits: Sequence[int]) -> int:
    return int("".join(map(str, bits)), 2)
