"""``checkvalve-receiver init``: settings and keys, each explained where it stands.

Overwrites nothing: what exists is kept and named. Knows no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from runtime import keys
from runtime.commandline import write_new
from runtime.errors import EXIT_USAGE, UserError
from runtime.units import HostPort

CREATED_BY: Final = "checkvalve-receiver init"
KEY: Final = "keys/receiver.pem"
EXAMPLE_SENDER: Final = "sender.pub"
SERVE_DEFAULT: Final = "127.0.0.1:5000"
T = TypeVar("T")

SETTINGS: Final = """\
# checkvalve-receiver: the isolated side. Relative paths start from the folder of this file.
# Every key can be set by an environment variable too: CHECKVALVE_RECEIVER__LISTEN__ON=10.0.0.2:4433

state: {state:<27} # spool, partial objects and journal; give it room for all the images
hpke_key: keys/receiver.pem        # X25519, mode 0600; its public half goes to the sender
senders:                           # public keys of the senders to trust, from `checkvalve-sender init`
{senders}

listen:
  on: {listen:<28} # where the diode's datagrams arrive; `rate: 1Gbit` below it is what `doctor` judges by
  # receive_buffer: 32MiB          # asked of the kernel: what arrives while the process is busy waits there
                                   # how long it may be silent: alarms, below
  # lanes: 1                       # as many as the sender has (link.lanes), at port, port + 1, …
  # gro: auto                      # mmsg: many datagrams a call without GRO; off: each by itself

publish:                           # to a registry, into an OCI image layout, or where nodes import from: one of these
{target}
  # prefix: internal               # before the source's name: internal/docker.io/library/nginx; '' for none
  # parallel: 4                    # images, and blobs, pushed at once
  # map: []                        # other names, by the first that fits: [{{from: docker.io/library/, to: hub/}}]
  # or `images: {{path: /var/lib/rancher/k3s/agent/images}}` as the target: archives that K3s imports by itself,
  #    compress: zstd or none; withdrawn: keep, or remove the archives of images that no release wants any more
  # or `targets: {{hall-1: {{registry: …}}, hall-2: {{images: …}}}}` alone: several at once, each with the keys above

# approvals: {{}}                    # whose signatures releases need besides; "*" is every collection not named:
#                                  # {{"*": {{approvers: [keys/alice.pub, keys/bob.pub], threshold: 2}}}}

# border:                          # what every image has to pass here, whatever the sender made of it
#   collections: ["*"]             # whose releases are taken; globs
#   senders: {{}}                    # who of those above may sign them:
#                                  # {{edge: [keys/edge.pub], "*": ["SHA256:…"]}}
#   verify: {{}}                     # as in the sender's images.yaml: {{cosign: {{keys: [keys/cosign.pub]}},
#                                  # repositories: ["quay.io/*"], media_types: […], max_image: 5GiB,
#                                  # max_blob: 2GiB, hook: {{run: hooks/scan.sh, timeout: 10m}}}}
#   rules: []                      # the first that matches is asked besides:
#                                  # {{match: docker.io/team/*, verify: {{…}}}}
#   artifacts: any                 # known: only images and their signatures, attestations and SBOMs; or globs
#   hold: none                     # all, or globs of names: a person releases (`checkvalve-receiver release`)
#   again: 1d                      # how long a verdict that holds an image counts

# limits:
#   object_size: 64GiB             # the largest object accepted
#   partial_space: 200GiB          # room for objects that have arrived in part
#   partial_age: 30d               # they are given up when a live link brought them nothing for so long
#                                  # `disk_reserve: 5GiB` stays free for journal and releases; without it 1 GiB,
#                                  # at most a twentieth of the file system

# alarms:
#   silence: 30s                   # no datagram, or no new beacon
#   behind: 10m                    # a release is heard of and does not come
#   repair_used: 80%               # of the repair symbols, by the worst block of the last hour

# retention:                       # what the desired state drops is kept, in spool and target, while either holds:
#   releases: 10                   # its last release is among so many of its collection that came last
#   age: 30d                       # another took its place less long ago, counted while publish is at work
#   shrink: 50%                    # a release that drops more of its images deletes nothing until `confirm`,
#   shrink_images: 3               # if these are at least so many, or all. `retention: {{}}` keeps everything

# logs:
#   format: auto                   # console on a terminal and under systemd, else json
#   level: info                    # debug, info, warning or error
"""

_REGISTRY: Final = """\
  registry:
    url: {url}
    # ca: ca.pem                   # certificates to trust besides the system's
    # cert: client.pem             # shown to the registry, with `key: client.key`
    # docker_config: ~/.docker/config.json   # logins; the default is where docker keeps it"""

_LAYOUT: Final = """\
  layout: {path:<24} # a folder; skopeo and others read it as oci:PATH:NAME
{serve}
  # registry:                      # instead of layout and serve
  #   url: https://registry.internal:5000
  #   ca: ca.pem                   # certificates to trust besides the system's
  #   docker_config: ~/.docker/config.json   # logins; the default is where docker keeps it"""

_SERVE: Final = """\
  serve:
    on: {on:<26} # the layout as a read-only registry (plain HTTP)"""

_NO_SERVE: Final = """\
  # serve:
  #   on: 127.0.0.1:5000           # the layout as a read-only registry (plain HTTP)"""


@dataclass(frozen=True, slots=True)
class Made:
    """What ``init`` found and did."""

    folder: Path
    fingerprint: str
    created: tuple[Path, ...]
    kept: tuple[Path, ...]
    open_points: tuple[str, ...]  # what is still to be filled in


def make(
    folder: Path,
    *,
    listen: str,
    senders: list[Path],
    registry: str | None,
    layout: Path | None,
    serve: str | None,
    state: Path | None = None,
) -> Made:
    """Create what is missing in *folder*. Raises UserError for a bad option or key, before anything is written.

    *state* is where spool and journal are to be, and the layout if nothing else is said.
    """
    listen = str(_checked("--listen", listen, HostPort.parse))
    if state is not None and registry is None and layout is None:
        layout, serve = state.absolute() / "published", serve or SERVE_DEFAULT
    target = _target(registry, layout, serve)
    for path in senders:
        keys.load_signing_public(path, created_by="checkvalve-sender init")
    created: list[Path] = []
    kept: list[Path] = []
    try:
        names = _copy_senders(folder / "keys", senders, created, kept)
        fingerprint = _own_key(folder / KEY, created, kept)
        text = SETTINGS.format(
            state="state" if state is None else _quoted(str(state.absolute())),
            senders="\n".join(f"  - {_quoted(f'keys/{name}')}" for name in names or [EXAMPLE_SENDER]),
            listen=f'"{listen}"',
            target=target,
        )
        new = write_new(folder / "receiver.yaml", text, created, kept)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    open_points = []
    if new and not names:
        open_points.append(f"copy the sender's public key to {folder / 'keys' / EXAMPLE_SENDER}")
    return Made(folder, fingerprint, tuple(created), tuple(kept), tuple(open_points))


def _target(registry: str | None, layout: Path | None, serve: str | None) -> str:
    if registry is not None:
        for option, given in (("--layout", layout), ("--serve", serve)):
            if given is not None:
                raise UserError(
                    f"{option} {given}: does not go with --registry {registry}; give a registry or a layout",
                    exit_code=EXIT_USAGE,
                )
        return _REGISTRY.format(url=_quoted(_checked("--registry", registry, _registry_url)))
    on = serve if serve is not None or layout is not None else SERVE_DEFAULT
    shown = _NO_SERVE if on is None else _SERVE.format(on=f'"{_checked("--serve", on, HostPort.parse)}"')
    return _LAYOUT.format(path=_quoted("published" if layout is None else str(layout.absolute())), serve=shown)


def _registry_url(text: str) -> str:
    scheme, separator, host = text.rstrip("/").partition("://")
    if scheme not in ("http", "https") or not separator or not host or "/" in host or any(c.isspace() for c in host):
        raise ValueError(f"{text!r} is not the address of a registry; give e.g. https://registry.internal:5000")
    return text


def _checked(option: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}", exit_code=EXIT_USAGE) from None


def _quoted(text: str) -> str:
    """Return *text* as a YAML scalar that means nothing but this text."""
    safe = text[:1].isalpha() or text.startswith("/")
    if safe and all(char.isalnum() or char in "/._-" or text[at + 1 : at + 2] == "/" for at, char in enumerate(text)):
        return text
    return "'" + text.replace("'", "''") + "'"


def _copy_senders(folder: Path, senders: list[Path], created: list[Path], kept: list[Path]) -> list[str]:
    """Put the senders' public keys into *folder*; return their file names there."""
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for path in senders:
        content, target, number = path.read_bytes(), folder / path.name, 1
        while target.exists() and target.read_bytes() != content:
            number += 1
            target = folder / f"{path.stem}-{number}{path.suffix}"
        if target.exists():
            kept.append(target)
        else:
            with target.open("xb") as file:
                file.write(content)
            created.append(target)
        names.append(target.name)
    return names


def _own_key(path: Path, created: list[Path], kept: list[Path]) -> str:
    if path.exists():
        kept.append(path)
        return keys.fingerprint(keys.load_hpke_key(path).public_key())
    public = keys.create_hpke_key(path)
    created += [path, keys.public_path(path)]
    return keys.fingerprint(public)
