"""The lab of the system tests, for these as well."""

from tests.lab.conftest import lab, make_sides, registries

__all__ = ["lab", "make_sides", "registries"]
