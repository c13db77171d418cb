"""All vectors, in the order of WIRE_FORMAT.md."""

from __future__ import annotations

from tests.vectors import catalogue_control, catalogue_objects, catalogue_repair, catalogue_session
from tests.vectors.model import Vector


def catalogue() -> list[Vector]:
    """Build every vector anew; deterministic."""
    found = [
        *catalogue_session.vectors(),
        *catalogue_objects.vectors(),
        *catalogue_control.vectors(),
        *catalogue_repair.vectors(),
    ]
    names = [vector.name for vector in found]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return found
