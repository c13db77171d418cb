"""Vectors of WIRE_FORMAT.md §12 (repair codes), built from the document: bits as text, GF(32) by shifts."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from tests.vectors.model import Vector

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
REFUSED = "refused"


def multiply(a: int, b: int) -> int:
    product = 0
    for shift in range(5):
        product ^= (a << shift) if b >> shift & 1 else 0
    for shift in range(4, -1, -1):
        product ^= (0b100101 << shift) if product >> (shift + 5) & 1 else 0
    return product


def generator() -> list[int]:
    """(x - 1)(x - 2)(x - 4) ..., six factors, the highest power first."""
    found, root = [1], 1
    for _ in range(6):
        shifted = [0, *(multiply(coefficient, root) for coefficient in found)]
        found = [a ^ b for a, b in zip([*found, 0], shifted, strict=True)]
        root = multiply(root, 2)
    return found


def parity(data: list[int]) -> list[int]:
    """The rest of data * x^6 divided by the generator."""
    rest, divisor = [*data, *[0] * 6], generator()
    for at in range(len(data)):
        for step, coefficient in enumerate(divisor):
            rest[at + step] ^= multiply(coefficient, rest[at]) if step else 0
        rest[at] = 0
    return rest[-6:]


def text_of(bits: str) -> str:
    """§12.1: payload, checksum, parity, characters."""
    payload = [int(bits[at : at + 5].ljust(5, "0"), 2) for at in range(0, len(bits), 5)]
    while (6 + len(payload) + 6 * -(-(6 + len(payload)) // 25)) % 5:
        payload.append(0)
    hashed = int.from_bytes(sha256(b"checkvalve repair code v1\0" + bytes(payload)).digest()[:4], "big") >> 2
    data = [hashed >> shift & 31 for shift in range(25, -1, -5)] + payload
    words = -(-len(data) // 25)
    values = data + [0] * (6 * words)
    for word in range(words):
        values[word::words] = data[word::words] + parity(data[word::words])
    return "".join(ALPHABET[value] for value in values)


def fixed(value: int, width: int) -> str:
    return f"{value:0{width}b}"


def number(value: int) -> str:
    groups = []
    while True:
        value, low = divmod(value, 8)
        groups.append(("1" if value else "0") + fixed(low, 3))
        if not value:
            return "".join(groups)


def gamma(value: int) -> str:
    binary = f"{value:b}"
    return "0" * (len(binary) - 1) + binary


def rice(value: int, parameter: int) -> str:
    rest = fixed(value % 2**parameter, parameter) if parameter else ""
    return "1" * (value >> parameter) + "0" + rest


def runs(parameter: int, *ranges: tuple[int, int]) -> str:
    found, before = "0" + gamma(len(ranges)) + fixed(parameter, 4), -1
    for first, end in ranges:
        found += rice(first - before - 1, parameter) + gamma(end - first)
        before = end
    return found


def bitmap(first: int, members: str) -> str:
    return "1" + number(first) + number(len(members)) + members


def head(sequence: int = 120, digest: int = 0x9F86D08, version: int = 1) -> str:
    return fixed(version, 3) + number(sequence) + fixed(digest, 28)


def layer(blocks: int, missing: str, place: int = 40, symbol: int = 89, parameter: int = 5) -> str:
    one = runs(parameter, (place, place + 1))
    return "1" + fixed(symbol, 10) + one + fixed(0x9F86, 16) + number(blocks) + missing


BLOCKS = head() + "00" + layer(80, runs(5, (3, 4), (41, 42), (77, 78))) + "0"
BLOCKS_MEAN = "120 9f86d08 - | 1424: 40 9f86 80 3-3,41-41,77-77"


def swapped(text: str, *places: int) -> str:
    letters = list(text)
    for at in places:
        letters[at] = ALPHABET[ALPHABET.index(letters[at]) ^ 1]
    return "".join(letters)


def vectors() -> Iterator[Vector]:
    def code(name: str, rule: str, text: str, means: str = "", mended: int = 0) -> Vector:
        inputs = {"code": means, "mended": str(mended)} if means else {}
        return Vector(f"repair-{name}", rule, "repair-code", "ok" if means else REFUSED, (text.encode(),), inputs)

    text = text_of(BLOCKS)
    dashed = "-".join(text[at : at + 5] for at in range(0, len(text), 5))
    alike = dashed.lower().replace("0", "o").replace("1", "l").replace("v", "u").replace("-", " \n", 3)
    yield code("three-blocks", "12-1", dashed, BLOCKS_MEAN)
    yield code("look-alikes", "12-1", alike, BLOCKS_MEAN)
    yield code("empty", "12-1", " - ")
    yield code("not-whole-groups", "12-1", text[:-2])
    yield code("three-mistyped", "12-2", swapped(text, 0, 2, 4), BLOCKS_MEAN, 3)
    yield code("six-unreadable", "12-2", "??????" + text[6:], BLOCKS_MEAN, 6)
    yield code("four-mistyped-in-a-codeword", "12-2", swapped(text, 0, 2, 4, 6))
    yield code("one-left-out", "12-2", text[:20] + text[21:], BLOCKS_MEAN, 1)
    yield code("one-typed-twice", "12-2", text[:20] + text[19:], BLOCKS_MEAN, 1)
    data = [ALPHABET.index(letter) for letter in text[:-12]]
    data[0] ^= 1
    other = data + [0] * 12
    for word in range(2):
        other[word::2] = data[word::2] + parity(data[word::2])
    yield code("wrong-checksum", "12-2", "".join(ALPHABET[value] for value in other))
    yield code("release", "12-3", text_of(head() + "1000"), "120 9f86d08 release |")
    whole = head() + "01" + runs(3, (12, 30)) + "00"
    yield code("whole-image", "12-3", text_of(whole), "120 9f86d08 - 12-29 |")
    two = head()[3:] + "1000"
    yield code("two-sections", "12-3", text_of(BLOCKS[:-1] + "1" + two), f"{BLOCKS_MEAN}; 120 9f86d08 release |")
    scattered = bitmap(2, "1011")
    means = "120 9f86d08 - | 1424: 40 9f86 80 2-2,4-5"
    yield code("bitmap", "12-3", text_of(head() + "00" + layer(80, scattered) + "0"), means)
    own = "120 9f86d08 - | 1: 40 9f86 80 2-2,4-5"
    yield code("unknown-cut", "12-3", text_of(head() + "00" + layer(80, scattered, symbol=0) + "0"), own)
    yield code("version", "12-3", text_of(head(version=2) + "1000"))
    yield code("block-beyond-the-last", "12-3", text_of(head() + "00" + layer(80, runs(5, (80, 81))) + "0"))
    yield code("empty-bitmap", "12-3", text_of(head() + "00" + layer(80, bitmap(2, "000")) + "0"))
    yield code("too-many-blocks", "12-3", text_of(head() + "00" + layer((1 << 20) + 1, runs(5, (3, 4))) + "0"))
    yield code("ends-too-early", "12-3", text_of(head() + "011"))
    yield code("more-behind", "12-3", text_of(head() + "1000" + "00001"))
