"""``make demo``: an image crosses a lossy one-way link on this machine, from registry to registry.

Exit code 0 only if every digest in the internal registry is the one upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oci.closure import Closure
from oci.descriptor import short_digest
from oci.errors import OciError
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from runtime.errors import EXIT_INTERRUPTED, UserError, guard
from runtime.settings import load_settings
from runtime.terminal import human_bytes, human_duration, human_rate, table
from runtime.units import parse_rate
from tests.demo import site as sites
from tests.demo.site import IMAGE, PUBLISHED, Site
from tests.demo.transfer import Transfer, carry_across, repeat_everything, start_link
from tests.demo.verify import Comparison, compare
from tests.support.images import Size
from tests.support.processes import Processes, ProcessFailed

HEAD: Final = """\
checkvalve demo: a container image crosses a one-way link that loses 2 % of its datagrams.

   upstream registry ─▶ sender ═══ UDP, one way, lossy ═══▶ receiver ─▶ internal registry

A relay plays the data diode: it carries datagrams in one direction, drops some, and lets nothing back.
All are processes of their own on this machine, without root."""
_PACED: Final = f"the link is paced to {human_rate(parse_rate(sites.RATE))}"


def main() -> int:
    """Parse the options, run the demo, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo", description=__doc__, epilog="Example: python -m tests.demo --size small"
    )
    parser.add_argument("--state", type=Path, default=Path("demo-state"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--size", choices=("full", "small"), default="full", help="of the image; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the link's losses; default: %(default)s")
    parser.add_argument(
        "--offload", choices=("auto", "off"), default="auto", help="GSO and GRO; default: %(default)s"
    )
    given = parser.parse_args()
    site = Site(given.state)
    try:
        with _alone(site), Processes(site.logs) as processes:
            return demo(site, processes, given.size, offload=given.offload == "auto", seed=given.seed)
    except KeyboardInterrupt:
        print("\ninterrupted; all processes are stopped. Run it again and it goes on from here.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        raise UserError(f"{error.filename or site.root}: {error.strerror or error}") from None


@contextlib.contextmanager
def _alone(site: Site) -> Iterator[None]:
    """Two demos in one folder would stop at each other's settings."""
    site.root.mkdir(parents=True, exist_ok=True)
    with (site.root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{site.root}: a demo is running here already; give another --state") from None
        yield


def demo(site: Site, processes: Processes, size: Size, *, offload: bool, seed: int) -> int:
    """Run everything in *site*; return 0, or 1 if anything differs."""
    print(HEAD)
    interrupted = site.unfinished.exists()
    began = time.monotonic()

    _step(1, "an image made of files of this machine")
    closure, made = asyncio.run(sites.make_image(site, size))
    _describe(closure, made, time.monotonic() - began)
    pinned = closure.root.digest

    _step(2, "two registries, two sides, one link")
    upstream = sites.start_registry(processes, "upstream", site.upstream_folder(size), read_only=True)
    internal = sites.start_registry(processes, "internal", site.internal_folder, read_only=False)
    fresh = sites.make_sides(site, upstream, internal, offload=offload)
    sites.pin(site, pinned)
    before = _published(site) == pinned
    receiver, link = start_link(site, processes, offload=offload, seed=seed)
    _say(f"upstream   {upstream}, as {sites.REGISTRY}")
    _say(f"sender     {site.sender_settings} {'made by checkvalve-sender init' if fresh else 'kept'}")
    _say("link       loses 1 % one by one and 1 % in bursts of 5 to 100 datagrams")
    _say(f"receiver   {site.receiver_settings} {'made by checkvalve-receiver init' if fresh else 'kept'}")
    _say(f"internal   {internal}")

    _step(3, f"{IMAGE}@{short_digest(pinned)} crosses")
    if interrupted and before:
        _say("the last run was cut short, but the image had been published already")
    elif interrupted:
        _say("the last run was cut short: what the receiver has it keeps, the sender sends all once more")
        repeat_everything(site)
    elif before:
        _say("already there: an earlier run has published this digest; only control traffic should cross")
    site.unfinished.touch()
    quiet = before and not interrupted
    transfer = carry_across(site, processes, receiver, link, expected=not before)

    _step(4, f"pulled back from {internal.removeprefix('http://')}/{PUBLISHED}:{sites.TAG} and compared")
    comparison = asyncio.run(compare(upstream, internal, pinned))
    _report(closure, transfer, comparison)
    return _verdict(site, transfer, comparison, quiet=quiet)


def _describe(closure: Closure, made: bool, seconds: float) -> None:
    layers = [blob for blob in closure.blobs if ".layer." in blob.media_type]
    kinds = [blob.media_type.partition(".tar")[2].lstrip("+") or "plain tar" for blob in layers]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    total = sum(part.size for part in sites.contents(closure).values())
    _say(f"{IMAGE}@{short_digest(closure.root.digest)}, {human_bytes(total)}")
    _say(f"{len(layers)} layers ({counted}), 3 platforms, two of them in a nested index")
    _say(f"{len(closure.referrers)} referrer: an SPDX list of all files")
    _say(f"made in {human_duration(seconds)}" if made else "kept from an earlier run")


def _published(site: Site) -> str | None:
    """The digest that the receiver has published under the image's tag, as far as its journal knows."""
    settings = load_settings(site.receiver_settings, ReceiverSettings)
    if not settings.journal.exists():
        return None
    journal = ReceiverJournal(settings.journal)  # writable: an older version may have left it
    try:
        return journal.published().get((PUBLISHED, sites.TAG))
    finally:
        journal.close()


def _report(closure: Closure, transfer: Transfer, comparison: Comparison) -> None:
    sent, link, received = transfer.sent, transfer.link, transfer.received
    total = sum(part.size for part in sites.contents(closure).values())
    control = sent["datagrams"] - sent["content_datagrams"]
    wire = human_bytes(sent["wire_bytes"])
    rows: list[tuple[str, str, str]] = [("content", human_bytes(total), f"{comparison.digests} blobs and manifests")]
    if sent["content_datagrams"]:
        overhead = 100 * (sent["wire_bytes"] / transfer.coded_bytes - 1)
        rows += [
            ("time", human_duration(transfer.seconds), f"from the sender's start to {transfer.until}; {_PACED}"),
            ("coded", human_bytes(transfer.coded_bytes), "compressed by the sender where that pays"),
            ("on the wire", wire, f"{overhead:+.1f} %: repair symbols, repeats, headers, control"),
        ]
    else:
        rows += [("on the wire", wire, "control traffic only")]
    share = 100 * link["lost"] / link["received"] if link["received"] else 0.0
    rows += [
        ("datagrams", f"{sent['datagrams']:,}", f"{sent['content_datagrams']:,} of content, {control:,} of control"),
        (
            "lost",
            f"{link['lost']:,}",
            f"{share:.1f} % on the link: {link['lost_single']:,} single, {link['lost_burst']:,} in "
            f"{link['bursts']:,} bursts",
        ),
        ("repaired", f"{received.get('repaired', 0):,}", "source symbols, by the receiver, without asking back"),
    ]
    own = link["kernel_drops"] + int(received.get("kernel_drops", 0))
    if own:
        rows.append(("overrun", f"{own:,}", "lost besides by this kernel, whose socket buffers were full"))
    if transfer.passes > 1:
        rows.append(("passes", str(transfer.passes), "one was not enough for the losses of this run"))
    table(("", "amount", ""), rows, right=("amount",))


def _verdict(site: Site, transfer: Transfer, comparison: Comparison, *, quiet: bool) -> int:
    faults = list(comparison.faults)
    if quiet and transfer.sent["content_datagrams"]:
        faults.append(f"{transfer.sent['content_datagrams']:,} datagrams of content crossed again; expected none")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if faults:
        print(f"FAILED: not what it should be, see above. Logs: {site.logs}/; `make clean` and start anew.")
        return 1
    site.unfinished.unlink(missing_ok=True)
    print(
        f"IDENTICAL: {comparison.manifests} manifests ({comparison.referrers} by the referrers API) and "
        f"{comparison.blobs} blobs, every digest matches"
    )
    if quiet:
        control = transfer.sent["datagrams"]
        print(f"Nothing was sent again: release {transfer.release} was there already, {control:,} control datagrams.")
    else:
        print(f"Run it again: it sends nothing but control traffic. Logs and both sides' state: {site.root}/")
    return 0


def _step(number: int, text: str) -> None:
    print(f"\n{number}. {text}", flush=True)


def _say(text: str) -> None:
    print(f"   {text}", flush=True)


if __name__ == "__main__":
    sys.exit(guard(main, OciError, ProcessFailed)())
