"""Field types that people write with units: ``Rate``, ``Size``, ``Duration``, ``Frequency``, ``Ratio``,
``HostPort``.

Each ``parse_*`` takes what YAML or the environment gives (text or a number) and raises ``ValueError`` with
the value and an example. Refuses to guess: ``10G`` (1000 or 1024?) and ``5 Mb`` (bits or bytes?) are not units.
"""

from __future__ import annotations

import math
import re
import socket
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

_NUMBER = r"(\d+(?:\.\d+)?)"
_RATE = re.compile(_NUMBER + r"\s*([kmgt]?)bit(?:/s)?", re.IGNORECASE)
_SIZE = re.compile(_NUMBER + r"\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_DURATION = re.compile(_NUMBER + r"\s*(us|µs|ms|s|min|m|h|d)")
_FREQUENCY = re.compile(_NUMBER + r"\s*/\s*(s|min|m|h)")
_PERCENT = re.compile(_NUMBER + r"\s*%")
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]@]+)):(\d{1,5})", re.ASCII)

_POWERS_OF_1000 = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT_MAX = 1000.0
PORT_MAX = 65535


def parse_rate(value: object) -> int:
    """Bits per second, positive, from ``1Gbit``, ``2.5Gbit/s``, ``800Mbit`` or a whole number of bits/s."""
    hint = f"{value!r} is not a rate; give e.g. 1Gbit or 800Mbit"
    if (number := _whole(value)) is None:
        match = _RATE.fullmatch(_text(value, hint))
        if match is None:
            raise ValueError(hint)
        number = round(float(match[1]) * _POWERS_OF_1000[match[2].lower()])
    if number <= 0:
        raise ValueError(f"{value!r} is not a rate above zero; give e.g. 1Gbit or 800Mbit")
    return number


def parse_size(value: object) -> int:
    """Bytes, zero or more, from ``10GiB``, ``500MB`` or a whole number of bytes."""
    hint = f"{value!r} is not a size; give e.g. 10GiB or 500MB"
    number = _whole(value)
    if number is None:
        match = _SIZE.fullmatch(_text(value, hint))
        if match is None:
            raise ValueError(hint)
        number = round(float(match[1]) * _SIZES[match[2]])
    if number < 0:
        raise ValueError(hint)
    return number


def parse_duration(value: object) -> float:
    """Seconds, zero or more, from ``10ms``, ``5s``, ``1h30m`` or a number of seconds."""
    hint = f"{value!r} is not a duration; give e.g. 10ms, 5s or 1h"
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = _text(value, hint)
        try:
            seconds = float(text) if re.fullmatch(_NUMBER, text) else _sum_of_parts(text)
        except ValueError:
            raise ValueError(hint) from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(hint)
    return seconds


def parse_frequency(value: object) -> float:
    """How often a second, above zero, from ``20/s``, ``300/min`` or ``5000/h``; a bare number has no unit."""
    hint = f"{value!r} is not a frequency; give e.g. 20/s or 300/min"
    match = _FREQUENCY.fullmatch(_text(value, hint))
    if match is None:
        raise ValueError(hint)
    frequency = float(match[1]) / _SECONDS[match[2]]
    if not 0 < frequency < math.inf:
        raise ValueError(f"{value!r} is not a frequency above zero; give e.g. 20/s or 300/min")
    return frequency


def parse_ratio(value: object) -> float:
    """A share: ``0.1`` and ``10%`` are the same; a bare number above 1 is refused (10 probably meant 10%)."""
    hint = f"{value!r} is not a ratio; give e.g. 0.1 or 10%"
    if isinstance(value, int | float) and not isinstance(value, bool):
        ratio = float(value)
    else:
        text = _text(value, hint)
        if match := _PERCENT.fullmatch(text):
            percent = float(match[1])
            if percent > _PERCENT_MAX:
                raise ValueError(hint)
            return percent / 100
        if not re.fullmatch(_NUMBER, text):
            raise ValueError(hint)
        ratio = float(text)
    if not 0 <= ratio <= 1:
        raise ValueError(hint)
    return ratio


@dataclass(frozen=True, order=True)
class HostPort:
    """A host name or address and a port; ``str()`` gives the form that ``parse`` takes."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> HostPort:
        """From ``10.0.0.1:4000``, ``name:4000`` or ``[::1]:4000``; port 0 lets the kernel choose."""
        if isinstance(value, HostPort):
            return value
        hint = f"{value!r} is not host:port; give e.g. 10.0.0.1:4000 or [::1]:4000"
        match = _HOST_PORT.fullmatch(_text(value, hint))
        if match is None:
            raise ValueError(hint)
        port = int(match[3])
        if port > PORT_MAX:
            raise ValueError(f"{value!r} has port {port}; give one from 0 to {PORT_MAX}")
        return cls(match[1] or match[2], port)

    @property
    def family(self) -> socket.AddressFamily:
        """``AF_INET6`` for an IPv6 address, else ``AF_INET``."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def lane(self, number: int) -> HostPort:
        """The place of a further lane: the port that is *number* higher."""
        return HostPort(self.host, self.port + number)

    def check_lanes(self, lanes: int, key: str) -> None:
        """ValueError if *lanes* ports from this one on do not exist; *key* names the setting."""
        most = PORT_MAX + 1 - lanes
        if lanes > 1 and not 0 < self.port <= most:
            raise ValueError(f"{key}: {self} leaves no ports for {lanes} lanes, one each; give port 1 to {most}")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic parse the text form and write it back on serialisation."""
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.to_string_ser_schema()
        )


_WITH_UNIT = WithJsonSchema({"type": ["number", "string"]})
Rate = Annotated[int, BeforeValidator(parse_rate), _WITH_UNIT]
"""Bits per second."""
Size = Annotated[int, BeforeValidator(parse_size), _WITH_UNIT]
"""Bytes."""
Duration = Annotated[float, BeforeValidator(parse_duration), _WITH_UNIT]
"""Seconds."""
Frequency = Annotated[float, BeforeValidator(parse_frequency), _WITH_UNIT]
"""Times a second."""
Ratio = Annotated[float, BeforeValidator(parse_ratio), _WITH_UNIT]
"""A share; 1.0 is the whole."""


def _whole(value: object) -> int | None:
    """The whole number in ``value`` if it is one without a unit, else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) <= 20:
        return int(value)
    return None


def _text(value: object, hint: str) -> str:
    if not isinstance(value, str) or len(value) > 300:
        raise ValueError(hint)
    return value.strip()


def _sum_of_parts(text: str) -> float:
    compact = text.replace(" ", "")
    parts = list(_DURATION.finditer(compact))
    if not parts or "".join(part[0] for part in parts) != compact:
        raise ValueError(text)
    return sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
