"""Many small blobs in one transport object: manifests, configs, charts (WIRE_FORMAT.md §4.3).

offset size field
0      4    magic "CVB1"
4      4    number of members, 1..4096
then for each member: digest algorithm (1; 0 = sha256, 1 = sha512), reserved (3), size (4),
digest (32 or 64); then the bodies, end to end, in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from protocol.drops import Drop
from protocol.errors import ProtocolMisuse, WireError
from protocol.limits import BATCH_MEMBER_BYTES_MAX, BATCH_MEMBERS_MAX, CONTROL_OBJECT_BYTES_MAX
from protocol.reader import Reader

MAGIC: Final = b"CVB1"
_ALGORITHMS: Final = (("sha256", 32), ("sha512", 64))


def pack(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the batch of (digest, body) pairs, in the order given."""
    table, bodies = [], []
    for digest, body in members:
        name, _, hexadecimal = digest.partition(":")
        algorithm = [known for known, _ in _ALGORITHMS].index(name)
        if len(body) > BATCH_MEMBER_BYTES_MAX:
            raise ProtocolMisuse(f"batch member of {len(body)} bytes")
        table.append(bytes((algorithm, 0, 0, 0)) + len(body).to_bytes(4, "little") + bytes.fromhex(hexadecimal))
        bodies.append(body)
    if not 1 <= len(bodies) <= BATCH_MEMBERS_MAX:
        raise ProtocolMisuse(f"batch of {len(bodies)} members")
    batch = b"".join((MAGIC, len(bodies).to_bytes(4, "little"), *table, *bodies))
    if len(batch) > CONTROL_OBJECT_BYTES_MAX:
        raise ProtocolMisuse(f"batch of {len(batch)} bytes")
    return batch


def unpack(batch: bytes | memoryview) -> Iterator[tuple[str, bytes]]:
    """Yield (digest, body) of each member, verified; WireError(BAD_BATCH) on the first rule broken.

    The whole table is checked against the length before the first member is yielded.
    """
    reader = Reader(batch, Drop.BAD_BATCH)
    reader.expect(MAGIC)
    count = reader.uint(4)
    if not 1 <= count <= BATCH_MEMBERS_MAX:
        raise WireError(Drop.BAD_BATCH, f"{count} members")
    table = []
    for _ in range(count):
        algorithm = reader.uint(1)
        reader.expect(bytes(3))
        size = reader.uint(4)
        if algorithm >= len(_ALGORITHMS) or size > BATCH_MEMBER_BYTES_MAX:
            raise WireError(Drop.BAD_BATCH, f"digest algorithm {algorithm}, member of {size} bytes")
        name, width = _ALGORITHMS[algorithm]
        table.append((name, reader.take(width), size))
    if sum(size for _, _, size in table) != reader.left:
        raise WireError(Drop.BAD_BATCH, f"sizes do not add up to the {reader.left} bytes of bodies")
    for name, digest, size in table:
        body = reader.take(size)
        if hashlib.new(name, body).digest() != digest:
            raise WireError(Drop.BAD_BATCH, f"member {name}:{digest.hex()} does not match its digest")
        yield f"{name}:{digest.hex()}", body
