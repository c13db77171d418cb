"""The demo's two sides on disk: one folder with registries, settings, keys and logs, kept from run to run.

    upstream/ ─▶ sender/ ═▶ link ═▶ receiver/ ─▶ internal/

Ports change from run to run and are written into the settings; names of images never have one in them.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oci.closure import Closure, walk
from oci.descriptor import Descriptor, short_digest
from oci.errors import NotFound, OciError
from oci.layout import Layout
from runtime.errors import UserError
from tests.support.images import Size, machine_image
from tests.support.processes import Processes, command, module, run

REGISTRY: Final = "registry.example"  # RFC 2606: a name that is nobody's
REPOSITORY: Final = "demo/python"
TAG: Final = "1.0"
IMAGE: Final = f"{REGISTRY}/{REPOSITORY}:{TAG}"
PUBLISHED: Final = f"internal/{REGISTRY}/{REPOSITORY}"  # the source stays in the path
RATE: Final = "200Mbit"
OUTAGE: Final = "20ms"
UPSTREAM_KEY: Final = f"\n    {REGISTRY}:\n"
UPSTREAM: Final = f"""
fetch:
  registries:{UPSTREAM_KEY}\
      location: 127.0.0.1:5000       # the demo's upstream registry
      plain_http: true
"""


@dataclass(frozen=True, slots=True)
class Site:
    """The folders of one demo."""

    root: Path

    @property
    def sender(self) -> Path:
        """The connected side: sender.yaml, images.yaml, keys, state."""
        return self.root / "sender"

    @property
    def receiver(self) -> Path:
        """The isolated side: receiver.yaml, keys, state."""
        return self.root / "receiver"

    @property
    def logs(self) -> Path:
        """What every process printed."""
        return self.root / "logs"

    @property
    def sender_settings(self) -> Path:
        """The sender's settings file."""
        return self.sender / "sender.yaml"

    @property
    def receiver_settings(self) -> Path:
        """The receiver's settings file."""
        return self.receiver / "receiver.yaml"

    @property
    def unfinished(self) -> Path:
        """There while a run goes on: found at a start, the last run was cut short."""
        return self.root / "unfinished"

    def upstream_folder(self, size: Size) -> Path:
        """The layout that the upstream registry serves; each size has one of its own."""
        return self.root / ("upstream" if size == "full" else f"upstream-{size}")

    @property
    def internal_folder(self) -> Path:
        """The layout behind the internal registry."""
        return self.root / "internal"


async def make_image(site: Site, size: Size) -> tuple[Closure, bool]:
    """Return the closure of the demo's image upstream, and whether it had to be made."""
    layout = Layout(site.upstream_folder(size))
    repository = layout.repository(REPOSITORY)
    made = False
    try:
        root = await repository.resolve(TAG)
        closure = await walk(repository, root)
        whole = all([await repository.exists(blob) for blob in closure.blobs]) and bool(closure.referrers)
    except NotFound:
        whole = False
    if not whole:
        made = True
        root = (await machine_image(layout, REPOSITORY, TAG, size)).root
        closure = await walk(repository, root)
    return closure, made


def contents(closure: Closure) -> dict[str, Descriptor]:
    """Everything that must arrive, by digest."""
    return {part.digest: part for part in (*(manifest.descriptor for manifest in closure.manifests), *closure.blobs)}


def start_registry(processes: Processes, name: str, folder: Path, *, read_only: bool) -> str:
    """Start an embedded registry over a layout; return its URL."""
    option = ["--read-only"] if read_only else []
    process = processes.start(name, [*module("tests.support.registry"), "--layout", str(folder), *option])
    return str(json.loads(process.wait_line('"url"'))["url"])


def make_sides(site: Site, upstream: str, internal: str, *, offload: bool) -> bool:
    """Make settings and keys with the real commands where they are missing, and set the ports of this run.

    Returns whether anything was missing.
    """
    sender, receiver = command("checkvalve-sender"), command("checkvalve-receiver")
    carried = site.sender / "keys" / "receiver.pub"
    fresh = not (site.sender_settings.exists() and site.receiver_settings.exists() and carried.exists())
    if fresh:  # each side needs the other's public key, so the sender's init comes twice
        to_be_set = "127.0.0.1:4433"
        run([*sender, "init", str(site.sender), "--to", to_be_set, "--rate", RATE])
        key = str(site.sender / "keys" / "sender.pub")
        run([*receiver, "init", str(site.receiver), "-s", key, "--listen", "127.0.0.1:0", "--registry", internal])
        run([*sender, "init", str(site.sender), "-r", str(site.receiver / "keys" / "receiver.pub")])
    text = site.sender_settings.read_text()
    if UPSTREAM_KEY not in text:
        _write(site.sender_settings, text + UPSTREAM)
    _set(site.sender_settings, "rate", RATE)
    _set(site.sender_settings, "outage", OUTAGE)
    _set(site.sender_settings, "gso", "auto" if offload else "off")
    _set(site.sender_settings, "location", upstream.removeprefix("http://"))
    _set(site.receiver_settings, "gro", "auto" if offload else "off")
    _set(site.receiver_settings, "url", internal)
    return fresh


def set_link(site: Site, address: str) -> None:
    """Tell the sender where its end of the link is."""
    _set(site.sender_settings, "to", f'"{address}"')


def pin(site: Site, digest: str) -> str:
    """Make images.yaml name the image with its digest, as `checkvalve-sender pin` prints it; return the line."""
    path = site.sender / "images.yaml"
    if digest not in path.read_text():
        line = run([*command("checkvalve-sender"), "pin", IMAGE, "--config", str(site.sender_settings)])
        if digest not in line:
            raise OciError(f"`checkvalve-sender pin {IMAGE}` says {line.strip()!r}; expected {short_digest(digest)}")
        _write(path, f"images:\n{line}")
    return f"{IMAGE}@{short_digest(digest)}"


def _set(path: Path, key: str, value: str) -> None:
    """Set one key as a person would: change its line, or take the '#' away before it; its comment stays."""

    def changed(match: re.Match[str]) -> str:
        line = f"{match['indent']}{key}: {value}"
        return f"{line:<{len(match[0]) - 1}} " if match[0].endswith(" ") else line

    text, count = re.subn(rf"^(?P<indent> *)(?:# )?{key}: \S+(?: +(?=#))?", changed, path.read_text(), flags=re.M)
    if count != 1:
        raise UserError(
            f"{path}: {count} lines begin with {key!r}, expected 1; remove {path.parents[1]} to start anew"
        )
    _write(path, text)


def _write(path: Path, text: str) -> None:
    """Replace a file at once: a run that is cut short leaves the old one or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    os.replace(fresh, path)
