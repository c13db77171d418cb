"""The rows of ``doctor`` that both sides have: this machine's network, kernel, processor and disk against a rate.

Rates are bits per second; *mend* lines can be pasted into a shell or a settings file. Knows neither protocol nor
settings: what is needed comes as arguments.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from runtime.findings import Finding, Verdict
from runtime.host import Host, Rings
from runtime.measure import disk_speed, nearest_folder
from runtime.offload import Trial
from runtime.terminal import human_bytes, human_rate

STALL_S: Final = 0.2  # how long the process may be kept from running without losing anything
STALL_MIN_S: Final = 0.01  # shorter ones are daily business: a buffer for less loses all the time
MARGIN: Final = 1.25  # what is measured alone shall have this much in hand
FREE_BYTES_MIN: Final = 1 << 30
_CPU: Final = {
    "x86_64": {"AES": ("aes",), "SHA": ("sha_ni",), "AVX2": ("avx2",), "GFNI": ("gfni",)},
    "aarch64": {"AES": ("aes",), "SHA": ("sha2",), "SIMD": ("asimd",)},
}
_CPU_EXTRA: Final = frozenset({"GFNI"})  # the erasure code is fast enough without it


def throughput(
    check: str, found: float, needed: float, *, mend: str, what: str = "", essential: bool = True
) -> Finding:
    """Judge a measured rate; one that is not *essential* delays content but loses none."""
    verdict: Verdict = "ok"
    if found < needed:
        verdict = "fail" if essential else "warn"
    elif found < needed * MARGIN:
        verdict = "warn"
    shown = human_rate(found) + (f" ({what})" if what else "")
    return Finding(check, shown, human_rate(needed), verdict, "" if verdict == "ok" else mend, round(found), "bit/s")


def lanes(count: int, cores: int, key: str) -> Finding:
    """Judge how many lanes there are: each is a process that may take a core for itself."""
    few = cores < count
    mend = f"{key}: {cores}, on both sides, or more cores"
    return Finding(
        "lanes", f"{count} on {cores} cores", "a core each", "warn" if few else "ok", mend if few else "", count
    )


def lane_share(count: int, cores: int) -> float:
    """Return the share of the link's rate that a core has to manage."""
    return 1 / max(1, min(count, cores))


def lower_rate(key: str, found: float, needed: float, rate: float) -> str:
    """Return the line that sets *key* to what a piece of work that does *found* of *needed* leaves of *rate*."""
    megabits = rate * found / needed / MARGIN / 1e6
    return f"{key}: {max(1, math.floor(megabits))}Mbit"


def faster_by(package: str, otherwise: str) -> str:
    """Return how to mend slow work: by Debian's *package*, if that would be used here, or *otherwise*."""
    return f"apt-get install {package}; or {otherwise}" if package else otherwise


def interface_mtu(host: Host, interface: str, needed: int, route: int | None = None) -> Finding:
    """Judge the MTU of an interface, and of the route if the caller knows it, against the link's."""
    found = host.mtu(interface)
    narrow = route is not None and route < min(needed, found)
    found = route if narrow and route is not None else found
    mend = f"ip link set dev {interface} mtu {needed}"
    if narrow:
        mend = f"link.mtu: {found}"
    bad = found < needed
    return Finding(
        "mtu", f"{found} on {interface}", f"{needed}", "fail" if bad else "ok", mend if bad else "", found, "bytes"
    )


def interface_speed(host: Host, interface: str, rate: float) -> Finding:
    """Judge the speed of an interface against the rate."""
    if host.is_loopback(interface):
        return Finding("interface speed", "loopback has none", human_rate(rate))
    speed = host.speed(interface)
    if speed is None:
        return Finding("interface speed", f"{interface}: the driver tells none", human_rate(rate), unit="bit/s")
    bad = speed < rate
    return Finding(
        "interface speed",
        f"{human_rate(speed)} on {interface}",
        human_rate(rate),
        "fail" if bad else "ok",
        f"ethtool {interface}  # cable and negotiated speed; or set the rate to {speed // 1_000_000}Mbit"
        if bad
        else "",
        speed,
        "bit/s",
    )


def ring(host: Host, interface: str, read: Callable[[str], Rings], *, receiving: bool) -> Finding:
    """Judge the card's queue: as long as it can be, it bridges the longest time without an interrupt served."""
    name = "receive ring" if receiving else "transmit ring"
    if host.is_loopback(interface):
        return Finding(name, "loopback has none")
    try:
        found = read(interface)
    except OSError as error:
        return Finding(name, f"{interface}: the driver tells none ({error.strerror})")
    now, most = (found.receive, found.receive_max) if receiving else (found.transmit, found.transmit_max)
    # the transmit queue only delays; the receive queue loses
    short = receiving and now < most
    mend = f"ethtool -G {interface} rx {most}" if short else ""
    return Finding(
        name, f"{now} of {most} on {interface}", f"{most}" if receiving else "", "warn" if short else "ok", mend, now
    )


def queues(host: Host, interface: str, lanes: int, cores: int) -> Finding:
    """Judge the card's receive queues: a lane is one flow, and a flow is served by one queue and its processor."""
    if host.is_loopback(interface):
        return Finding("receive queues", "loopback has none")
    found = host.queues(interface)
    short = found < lanes <= cores
    return Finding(
        "receive queues",
        f"{found} on {interface}",
        f"{lanes}: one for each lane",
        "warn" if short else "ok",
        f"ethtool -L {interface} combined {lanes}" if short else "",
        found,
    )


def governor(governors: Mapping[str, str]) -> Finding:
    """Judge how processors leave their slow states: a burst after a pause must not meet one at half its speed."""
    # intel_pstate's and amd-pstate-epp's own "powersave" follows the load within a millisecond
    slow = sorted(name for name, said in governors.items() if said.startswith("powersave") and "pstate" not in said)
    shown = ", ".join(sorted(set(governors.values()))) or "none told: a virtual machine, or fixed"
    return Finding(
        "frequency governor",
        shown,
        "performance, or one that follows the load",
        "warn" if slow else "ok",
        "cpupower frequency-set -g performance" if slow else "",
    )


def cpu(flags: frozenset[str], machine: str) -> Finding:
    """Say which instructions the ciphers, hashes and codes find here; what they cost is measured elsewhere."""
    wanted = _CPU.get(machine)
    if wanted is None:
        return Finding("cpu", f"{machine}: nothing known about it", verdict="warn")
    has = [name for name, names in wanted.items() if flags.issuperset(names)]
    lacks = [name for name in wanted if name not in has]
    grave = [name for name in lacks if name not in _CPU_EXTRA]
    return Finding(
        "cpu",
        f"{', '.join(has) or 'none'}" + (f"; not {', '.join(lacks)}" if lacks else ""),
        ", ".join(name for name in wanted if name not in _CPU_EXTRA),
        "warn" if grave else "ok",
        f"a virtual machine hides {', '.join(grave)}? pass the host's processor through" if grave else "",
    )


def offloads(trials: Sequence[tuple[str, Trial]]) -> list[Finding]:
    """One row for each way of moving many datagrams in one call; only the lack of all is worth a warning."""
    none = not any(trial.works for _, trial in trials)
    rows = []
    for name, trial in trials:
        said = "works" if trial.works else trial.reason or "does not work"
        rows.append(
            Finding(
                name,
                said if trial.works is not None else f"not tried: {said}",
                "one of these",
                "warn" if none else "ok",
                "lift the sandbox's or container's ban on these calls" if none else "",
            )
        )
    return rows


def sysctl(host: Host, name: str, needed: int, why: str, *, index: int = 0) -> Finding:
    """Judge one number of a sysctl; too low a value is a warning, since what it spoils is judged by itself."""
    values = host.sysctl(name)
    if len(values) <= index:
        raise ValueError(f"{name} has {len(values)} numbers")
    short = values[index] < needed
    values_then = [*values[:index], needed, *values[index + 1 :]]
    quoted = f'"{" ".join(map(str, values_then))}"' if len(values) > 1 else str(needed)
    return Finding(
        name,
        f"{values[index]}",
        f"{needed}: {why}" if needed else why,
        "warn" if short else "ok",
        f"sysctl -w {name}={quoted}" if short else "",
        values[index],
    )


def send_buffer(granted: int, needed: int) -> Finding:
    """Judge the send buffer: a burst must fit, or the pacing is the kernel's."""
    short = granted < needed
    return Finding(
        "send buffer",
        human_bytes(granted),
        f"{human_bytes(needed)}: a burst",
        "warn" if short else "ok",
        f"sysctl -w net.core.wmem_max={needed}" if short else "",
        granted,
        "bytes",
    )


def receive_buffer(plain: int, forced: int | None, asked: int, rate: float, allowed: int | None = None) -> Finding:
    """Judge the receive buffer: what arrives during a stall of the process waits there, or is lost.

    *plain* and *forced* are granted for *asked* bytes without and with CAP_NET_ADMIN, *allowed* is rmem_max.
    """
    needed = math.ceil(rate / 8 * STALL_S)
    least = math.ceil(rate / 8 * STALL_MIN_S)
    granted = max(plain, forced or 0)
    mends = []
    if asked < needed:
        mends.append(f"listen.receive_buffer: {math.ceil(needed / (1 << 20))}MiB")
    if plain < min(asked, needed) or (allowed is not None and allowed < needed):
        mends.append(f"sysctl -w net.core.rmem_max={needed}")
    verdict: Verdict = "ok" if plain >= needed else "warn" if granted >= least else "fail"
    found = human_bytes(granted)
    if granted > plain:
        found += f" as this user, {human_bytes(plain)} for a service without CAP_NET_ADMIN"
    return Finding(
        "receive buffer",
        found,
        f"{human_bytes(needed)}: {STALL_S * 1000:.0f} ms of the link",
        verdict,
        "" if verdict == "ok" else " and ".join(mends),
        granted,
        "bytes",
    )


def disk_write(state: Path, needed: float, *, essential: bool, mend: str) -> Finding:
    """Measure and judge writing in the state folder (the nearest folder there is), fsync included."""
    folder = nearest_folder(state)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "disk write",
            f"not measured: {folder} is not ours to write",
            human_rate(needed),
            "warn",
            "run doctor as the service's user",
        )
    return throughput(
        "disk write", disk_speed(folder) * 8, needed, mend=mend, what=f"{folder}, with fsync", essential=essential
    )


def disk_free(state: Path, needed: int, why: str, *, key: str = "") -> Finding:
    """Judge the room of the state folder's disk; without a gigabyte nothing works for long.

    *key* is the setting that asks for *needed*, if one does.
    """
    folder = nearest_folder(state)
    free = shutil.disk_usage(folder).free
    verdict: Verdict = "fail" if free < FREE_BYTES_MIN else "warn" if free < needed else "ok"
    wanted = human_bytes(max(needed, FREE_BYTES_MIN))
    mend = f"{key}: {free * 9 // 10 >> 30}GiB" if key and verdict == "warn" else f"a disk with {wanted} for {folder}"
    return Finding(
        "disk free",
        f"{human_bytes(free)} at {folder}",
        f"{wanted}: {why}",
        verdict,
        "" if verdict == "ok" else mend,
        free,
        "bytes",
    )
