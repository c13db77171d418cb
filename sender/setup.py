"""``checkvalve-sender init``: settings, keys and an empty images.yaml, each explained where it stands.

Overwrites nothing: what exists is kept and named. Knows no network.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime import keys
from runtime.commandline import write_new
from runtime.errors import EXIT_USAGE, UserError
from runtime.units import HostPort, parse_rate

CREATED_BY: Final = "checkvalve-sender init"
EXAMPLE_TO: Final = "192.0.2.10:4433"  # RFC 5737: an address of documentation, which no network routes
EXAMPLE_RECEIVER: Final = "receiver.pub"
_PLAIN: Final = re.compile(r"[\w./-]+", re.ASCII)

SETTINGS: Final = """\
# checkvalve-sender: the connected side. Relative paths start from the folder of this file.
# Every key can be set by an environment variable too: CHECKVALVE_SENDER__LINK__RATE=500Mbit

state: {state:<27} # spool, queue and journal; give it room for all the images
images: images.yaml                # what is to cross; `lock:` says where images.lock is, if not beside it
{lock}signing_key: keys/sender.pem       # Ed25519, mode 0600; its public half goes to every receiver
receivers:                         # public keys of the receivers, from `checkvalve-receiver init`
{receivers}
# collection: default              # the name under which receivers know this list of images
# collections: {{}}                  # releases are signed as soon as they are ready, unless this says otherwise:
#                                  # {{default: {{approval: manual, approvers: [keys/alice.pub], threshold: 1}}}}

link:
  to: {to:<28} # the diode's address; nothing is ever expected back{to_note}
  rate: {rate:<26} # what the diode carries; never sent faster
  # interface: eth1                # send there and nowhere else, even if it is down and another route exists
  # mtu: 1500                      # of the whole path, 624 to 9216
  # repair: 10%                    # repair symbols for each source symbol
  # outage: 10ms                   # silence to survive without a second pass
  # burst: 128kB                   # sent at once at most; by default 4 ms of the rate, but 128kB at least
  # lanes: 1                       # processes, each for a share of the rate, to port, port + 1, …; the receiver too
  # pacing: true                   # false: as fast as the machine can (for measurements)
  # gso: auto                      # mmsg: many datagrams a call without GSO; off: each by itself

# repeats:
#   passes: 1                      # how often a large object is sent
#   passes_small: 2                # and one so small that one outage can swallow it whole
#   spacing: 200ms                 # between two passes of an object
#   release_every: 30s             # how often the newest release is sent again
#   carousel: 1h                   # how often all that is desired is sent again while the link is idle; 0: never

# schedule:                        # when objects are sent; announcements, beacons and releases always are
#   timezone: Europe/Berlin        # of the starts; by default the machine's
#   windows:                       # none: always, at link.rate. Of several open ones the fastest counts
#     - {{start: 0 20 * * mon-fri, for: 10h, rate: 800Mbit}}   # minute, hour, day, month, weekday, as in cron
#     - {{start: 0 0 * * sat, for: 2d}}  # rate: link.rate
#   urgent_ignores_windows: false  # true: urgent objects go outside windows as well, at link.rate
#   carousel_share: 100%           # of the link's time, at most, for what is repeated while the link is idle

# fetch:
#   parallel: 4                    # images, and blobs, fetched at once from one registry
#   parallel_total: 32             # and blobs from all of them, so that no slow one is in the others' way
#   settle: 30s                    # so long, at most, what is ready waits for the rest before it is proposed
#   interval: 5m                   # how often tags are looked at and failed images tried again; 0: never
#   referrers: true                # signatures, SBOMs and attestations travel with the image
#   foreign_layers: leave          # layers that registries may not hold: leave, or fetch from their urls
#   docker_config: ~/.docker/config.json   # logins; the default is where docker keeps it
#   registries:
#     registry.example:5000:
#       ca: ca.pem                 # certificates to trust besides the system's
#       plain_http: false          # true: HTTP without TLS, for this registry only
#       cert: client.pem           # the certificate to show, and its key
#       key: client.key
#       username: mirror           # a login that goes before docker_config
#       password_file: password    # not for everyone to read; or password_env: NAME_OF_A_VARIABLE
#       requests: 20/s             # asked at most so often
#       parallel: 4                # blobs read at once; the default is fetch.parallel
#       mirrors: [mirror.example/hub]  # asked first for what a digest names; tags are the registry's to say
#       mirrors_resolve: false     # true: a mirror may say what a tag means, too
#     quay.io:
#       location: mirror.example/quay  # ask a mirror instead; images keep their names

# storage:
#   budget: 200GB                  # of what is fetched and coded; what was sent goes, oldest first. Default: no limit
#   keep_releases: 10              # of each collection; what these held is known as sent after it was removed

# webhook:                         # where registries may tell of pushes, to be looked at at once
#   listen: 127.0.0.1:8081         # POST /hook with Authorization: Bearer SECRET, or POST /hook/SECRET
#   secret_file: keys/webhook.secret   # one line, not for everyone to read

# logs:
#   format: auto                   # console on a terminal and under systemd, else json
#   level: info                    # debug, info, warning or error
"""

IMAGES: Final = """\
# What is to cross. A running sender sees edits of this file at once; `checkvalve-sender plan` shows what they change.
# Remove the '#' of an example to use it. `checkvalve-sender schema` writes a JSON Schema for editors.
images:
#  - docker.io/library/nginx:1.27@sha256:…       # pinned; `checkvalve-sender pin REF` prints the line for an image
#
#  - image: docker.io/library/redis:7@sha256:…
#    from: oci:layouts/redis                     # an OCI image layout, as skopeo copy … oci:layouts/redis writes
#
#  - image: example.org/app:1@sha256:…
#    from: archive:exports/app.tar               # docker save or ctr images export
#    referrers: false                            # without its signatures, SBOMs and attestations
#
#  - image: docker.io/library/postgres           # tags, locked to digests in images.lock
#    tags: ["16", "17"]
#    follow: digest                              # lock a tag again when it moves; without, it stays
#
#  - image: quay.io/prometheus/node-exporter
#    tags: {semver: ^1.8, keep: newest 3}        # or regex: 'v1[.].*', exclude: '.*-rc.*'
#    platforms: [linux/amd64, linux/arm64]       # the others stay behind; the index keeps its digest
#    urgent: true                                # overtakes everything that is not
#
# defaults: {follow: digest, interval: 1h}       # for all entries that do not say otherwise
# rename: [{from: docker.io/library/, to: hub.internal/library/}]   # names on the other side
# include: teams/*.yaml
"""


@dataclass(frozen=True, slots=True)
class Made:
    """What ``init`` found and did."""

    folder: Path
    fingerprint: str
    created: tuple[Path, ...]
    kept: tuple[Path, ...]
    open_points: tuple[str, ...]  # what is still an example in a new sender.yaml


def make(folder: Path, *, to: str | None, rate: str | None, receivers: list[Path], state: Path | None = None) -> Made:
    """Create what is missing in *folder*. Raises UserError for a bad option or key, before anything is written.

    *state* is where spool, journal and images.lock are to be; the folder that a service may write to.
    """
    _check(to, rate)
    if state is not None and _PLAIN.fullmatch(str(state.absolute())) is None:
        raise UserError(
            f"--state: {state}: give a path of letters, digits, dots, dashes and slashes", exit_code=EXIT_USAGE
        )
    for path in receivers:
        keys.load_hpke_public(path, created_by="checkvalve-receiver init")
    created: list[Path] = []
    kept: list[Path] = []
    try:
        names = _copy_receivers(folder / "keys", receivers, created, kept)
        fingerprint = _signing_key(folder / "keys" / "sender.pem", created, kept)
        listed = "\n".join(f"  - keys/{name}" for name in names or [EXAMPLE_RECEIVER])
        text = SETTINGS.format(
            state="state" if state is None else str(state.absolute()),
            lock="" if state is None else f"lock: {state.absolute() / 'images.lock'}\n",
            receivers=listed,
            to=f'"{to or EXAMPLE_TO}"',
            to_note="" if to else " (an example: set yours)",
            rate=rate or "1Gbit",
        )
        new = write_new(folder / "sender.yaml", text, created, kept)
        write_new(folder / "images.yaml", IMAGES, created, kept)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    open_points = []
    if new and not names:
        open_points.append(f"copy the receiver's public key to {folder / 'keys' / EXAMPLE_RECEIVER}")
    if new and to is None:
        open_points.append(f"set link.to and link.rate in {folder / 'sender.yaml'}")
    return Made(folder, fingerprint, tuple(created), tuple(kept), tuple(open_points))


def _check(to: str | None, rate: str | None) -> None:
    for option, value, parse in (("--to", to, HostPort.parse), ("--rate", rate, parse_rate)):
        try:
            if value is not None:
                parse(value)
        except ValueError as error:
            raise UserError(f"{option}: {error}", exit_code=EXIT_USAGE) from None


def _copy_receivers(folder: Path, receivers: list[Path], created: list[Path], kept: list[Path]) -> list[str]:
    """Put the receivers' public keys into *folder*; return their file names there."""
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for path in receivers:
        target = folder / path.name
        if target.exists() and target.read_bytes() != path.read_bytes():
            target = _free_name(folder, path)
        if target.exists():
            kept.append(target)
        else:
            shutil.copyfile(path, target)
            created.append(target)
        if target.name not in names:
            names.append(target.name)
    return names


def _free_name(folder: Path, path: Path) -> Path:
    """Two receivers may both have called their key receiver.pub."""
    for number in range(2, 1000):
        target = folder / f"{path.stem}-{number}{path.suffix}"
        if not target.exists() or target.read_bytes() == path.read_bytes():
            return target
    raise UserError(f"{folder}: too many keys called {path.name}; give the file another name")


def _signing_key(path: Path, created: list[Path], kept: list[Path]) -> str:
    if path.exists():
        kept.append(path)
        return keys.fingerprint(keys.load_signing_key(path).public_key())
    public = keys.create_signing_key(path)
    created += [path, keys.public_path(path)]
    return keys.fingerprint(public)
