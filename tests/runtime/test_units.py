"""Values with units: what is understood, and what is refused with an example."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.units import HostPort, parse_duration, parse_frequency, parse_rate, parse_ratio, parse_size


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_rate, "1Gbit", 10**9),
        (parse_rate, "2.5Gbit/s", 2_500_000_000),
        (parse_rate, "800 Mbit", 800_000_000),
        (parse_rate, "9600bit", 9600),
        (parse_rate, "100kbit/s", 100_000),
        (parse_rate, 10**9, 10**9),
        (parse_rate, 1e9, 10**9),
        (parse_rate, "1000000", 10**6),
        (parse_size, "10GiB", 10 * 2**30),
        (parse_size, "500MB", 500_000_000),
        (parse_size, "1.5 kB", 1500),
        (parse_size, 0, 0),
        (parse_size, "4096", 4096),
        (parse_duration, "10ms", 0.01),
        (parse_duration, "250us", 0.00025),
        (parse_duration, "5s", 5.0),
        (parse_duration, "1h", 3600.0),
        (parse_duration, "1h30m", 5400.0),
        (parse_duration, "1 min 5 s", 65.0),
        (parse_duration, "2d", 172800.0),
        (parse_duration, 1.5, 1.5),
        (parse_duration, "3", 3.0),
        (parse_ratio, 0.1, 0.1),
        (parse_ratio, "10%", 0.1),
        (parse_ratio, "0.25", 0.25),
        (parse_ratio, 0, 0.0),
        (parse_ratio, "150 %", 1.5),
    ],
)
def test_understood(parse: Callable[[object], float], text: object, value: float) -> None:
    assert parse(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("parse", "value", "hint"),
    [
        (parse_rate, "fast", "'fast' is not a rate; give e.g. 1Gbit or 800Mbit"),
        (parse_rate, "10G", "1Gbit"),
        (parse_rate, "10MB/s", "1Gbit"),
        (parse_rate, 0, "above zero"),
        (parse_rate, -5, "above zero"),
        (parse_rate, True, "not a rate"),
        (parse_rate, "1Gbit extra", "not a rate"),
        (parse_rate, None, "not a rate"),
        (parse_rate, float("inf"), "not a rate"),
        (parse_size, "10G", "'10G' is not a size; give e.g. 10GiB or 500MB"),
        (parse_size, "10Mb", "not a size"),
        (parse_size, -1, "not a size"),
        (parse_size, [], "not a size"),
        (parse_duration, "soon", "'soon' is not a duration; give e.g. 10ms, 5s or 1h"),
        (parse_duration, "5s x", "not a duration"),
        (parse_duration, -1, "not a duration"),
        (parse_duration, float("nan"), "not a duration"),
        (parse_duration, "", "not a duration"),
        (parse_ratio, 10, "10 is not a ratio; give e.g. 0.1 or 10%"),
        (parse_ratio, "-1%", "not a ratio"),
        (parse_ratio, "2000%", "not a ratio"),
        (parse_ratio, float("nan"), "not a ratio"),
        (parse_ratio, False, "not a ratio"),
    ],
)
def test_refused_with_an_example(parse: Callable[[object], float], value: object, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse(value)


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for parse in (parse_rate, parse_size, parse_duration, parse_ratio, HostPort.parse):
        with suppress(ValueError):
            assert parse(text) is not None


@pytest.mark.parametrize(
    ("text", "host", "port", "family"),
    [
        ("10.0.0.1:4000", "10.0.0.1", 4000, socket.AF_INET),
        ("[::1]:4000", "::1", 4000, socket.AF_INET6),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1, socket.AF_INET6),
        ("diode.example:0", "diode.example", 0, socket.AF_INET),
    ],
)
def test_host_port(text: str, host: str, port: int, family: socket.AddressFamily) -> None:
    parsed = HostPort.parse(text)
    assert (parsed.host, parsed.port, parsed.family) == (host, port, family)
    assert str(parsed) == text
    assert HostPort.parse(parsed) == parsed


@pytest.mark.parametrize(
    "value", [":4000", "10.0.0.1", "::1:4000", "[10.0.0.1:1", "h:70000", "h:-1", "h:1/x", "http://h:1", 4000, None]
)
def test_host_port_refused(value: object) -> None:
    with pytest.raises(ValueError, match="give"):
        HostPort.parse(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20/s", 20.0), ("300/min", 5.0), ("300 / m", 5.0), ("5000/h", 5000 / 3600), ("0.5/s", 0.5)],
)
def test_frequencies(text: str, expected: float) -> None:
    assert parse_frequency(text) == pytest.approx(expected)


@pytest.mark.parametrize("value", ["20", 20, "20/d", "20 per s", "-1/s", "0/s", "1e3/s", "", None, True])
def test_what_is_no_frequency(value: object) -> None:
    with pytest.raises(ValueError, match=r"frequency.*give e\.g\. 20/s or 300/min"):
        parse_frequency(value)
