"""The spool's budget: what goes, what never does, what a crash leaves, and what comes back how."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oci.blobs import BlobStore
from oci.client import Registry
from oci.descriptor import sha256_digest
from oci.layout import Layout
from protocol.release import Content, ReleaseImage
from runtime import keys
from sender import eviction
from sender.carousel import Carousel
from sender.decisions import Decisions, Proposal, Rollback
from sender.desired import desired_state
from sender.eviction import Evictor, Needed
from sender.journal import SenderJournal
from sender.past import history, roll_back
from sender.prepare import Preparer, Terms
from sender.releases import Signer, desired_contents
from sender.resend import resend
from tests.oci_layout.images import layout_files, referrer_to, single_image
from tests.sender.conftest import REPOSITORY_ROOT, Site, Upstream, environment
from tests.support.images import random_image

LARGE = 100_000  # a blob of its own; below that, batches


def body(number: int, size: int = LARGE) -> bytes:
    return random.Random(number).randbytes(size)


def content(number: int, size: int = LARGE) -> Content:
    data = body(number, size)
    return Content("application/octet-stream", sha256_digest(data), len(data))


class World:
    """Fetch, propose, sign, send and evict, with the real journal and real files; images are one root, one layer."""

    def __init__(self, site: Site) -> None:
        self.settings = site.settings()
        self.spool = BlobStore(self.settings.spool)
        self.journal = SenderJournal(self.settings.journal)
        self.decisions = Decisions(self.journal)
        self.signer = Signer(self.journal, keys.load_signing_key(site.folder / "keys" / "sender.pem"))
        self.needed = Needed()
        self.evictor = Evictor(self.settings, self.journal, self.needed)
        self.clock = 1000.0

    def image(self, number: int) -> ReleaseImage:
        return ReleaseImage("example.org/app", (), content(-1 - number, 200), (content(number),), ())

    def contents(self, *numbers: int) -> list[Content]:
        return [each for n in numbers for each in (content(n), content(-1 - n, 200))]

    def fetch(self, number: int) -> int:
        """Bring an image into the spool and the queue; return how many objects that made."""
        for n, size in ((number, LARGE), (-1 - number, 200)):
            if self.spool.size(content(n, size).digest) is None:
                self.spool.write(content(n, size).digest, body(n, size))
        with Preparer(self.settings, self.spool) as preparer:
            return preparer._queue(f"app:{number}", self.contents(number), Terms())

    def propose(self, *numbers: int) -> None:
        self.clock += 1
        slots = [(("default", "example.org/app", f"t{n}"), self.image(n)) for n in numbers]
        self.decisions.propose("default", desired_state(slots, None), "", self.clock)

    def send(self) -> None:
        for queued in self.journal.queue():
            for _ in range(queued.passes_left):
                self.clock += 1
                self.journal.note_pass(queued.id, self.clock)

    def missing(self, digests: set[str]) -> set[str]:
        return {digest for digest in digests if self.spool.size(digest) is None}

    def carried_without_bytes(self) -> list[str]:
        rows = self.journal.connection.execute(
            "SELECT carried.digest, path FROM carried JOIN objects ON objects.id = carried.object"
        )
        return [digest for digest, path in rows if self.spool.size(digest) is None or not Path(path).exists()]

    def protected(self) -> set[str]:
        rows = self.journal.newest_releases()
        found = desired_contents(rows)
        for one in [*self.decisions.proposals(), *(r.proposal for r in self.decisions.rollbacks().values())]:
            found |= {c["digest"] for image in json.loads(one.images) for c in [image["root"], *image["closure"]]}
        return found


@pytest.fixture
def world(site: Site) -> World:
    site.write()
    return World(site)


def released(world: World, *states: tuple[int, ...]) -> None:
    for state in states:
        for number in state:
            world.fetch(number)
        world.propose(*state)
        world.signer.sign_approved()
        world.send()


def test_what_was_sent_and_nobody_needs_goes_oldest_first(world: World) -> None:
    released(world, (1,), (2,), (3,), (4,))
    goal = LARGE  # one image's layer
    planned = world.evictor.would_evict(goal)
    assert not world.missing({c.digest for c in world.contents(1, 2, 3, 4)})
    removed = world.evictor.evict(goal)
    assert removed == planned
    assert content(1).digest in world.missing({content(1).digest})
    assert not world.missing({c.digest for c in world.contents(2, 3, 4)} - {content(2).digest})
    assert sum(one.size for one in world.evictor.evict(1 << 40)) >= LARGE
    assert not world.missing(world.protected())
    assert world.missing({content(n).digest for n in (1, 2, 3, 4)}) == {content(n).digest for n in (1, 2, 3)}
    assert world.carried_without_bytes() == []


def test_nothing_goes_that_has_passes_left(world: World) -> None:
    released(world, (1,), (2,), (3,))
    world.journal.repeat_objects(world.journal.carriers([content(1).digest]))
    world.evictor.evict(1 << 40)
    assert world.missing({content(1).digest, content(2).digest}) == {content(2).digest}


def test_what_a_wanted_image_needs_stays_and_manifests_stay_during_a_walk(world: World) -> None:
    released(world, (1,), (2,), (3,))
    world.needed.hold("image", [content(1).digest])
    with world.needed.walking():
        assert world.evictor.evict(1 << 40) == []  # all of it could be manifests
    world.evictor.evict(1 << 40)
    assert world.missing({content(1).digest, content(2).digest}) == {content(2).digest}
    world.needed.keep([])
    world.evictor.evict(1 << 40)
    assert world.missing({content(1).digest})


def test_what_comes_back_is_not_sent_again_but_the_carousel_and_resend_have_it(world: World) -> None:
    released(world, (1,), (2,), (3,))
    world.evictor.evict(1 << 40)
    digests = {c.digest for c in world.contents(1)}
    assert world.missing(digests)
    assert world.journal.not_sent(digests) == []
    answer = roll_back(world.settings, "default", 1)
    assert (answer["release"], answer["bytes_new"]) == (4, 0)
    assert world.fetch(1) > 0
    assert world.journal.queue() == []  # not again
    world.signer.sign_approved()
    carriers = world.journal.carriers(desired_contents(world.journal.newest_releases()))
    assert carriers == world.journal.carriers(digests) != set()
    carousel = Carousel(world.journal, 1.0)
    for _ in carriers:  # the carousel finds them at once: they were sent long ago
        assert carousel.turn(world.journal.newest_releases(), 0.0, world.clock) is not None
    assert {queued.id for queued in world.journal.queue()} == carriers
    world.send()
    assert resend(world.settings)["objects"] == len(carriers)
    world.evictor.evict(1 << 40)
    assert not world.missing(digests)  # the rollback holds them


def test_what_no_kept_release_had_is_sent_anew(site: Site) -> None:
    site.write(storage={"keep_releases": 1})
    world = World(site)
    released(world, (1,), (2,), (3,))
    world.evictor.evict(1 << 40)
    world.evictor.retain()
    assert world.fetch(1) > 0
    queued = world.journal.queue()
    assert queued != []
    assert all(one.label.startswith("app:1: ") and one.passes_done == 0 for one in queued)


def test_old_releases_are_read_from_their_envelopes(site: Site) -> None:
    site.write(storage={"keep_releases": 2})
    world = World(site)
    released(world, (1,), (1, 2), (3,), (4,))
    before = [(row.sequence, row.images) for row in world.decisions.releases("default")]
    shown = history(world.settings, "default")
    world.evictor.retain()
    raw = world.journal.connection.execute("SELECT sequence, images = '' FROM releases ORDER BY sequence").fetchall()
    assert raw == [(1, 1), (2, 1), (3, 0), (4, 0)]
    assert [(row.sequence, row.images) for row in world.decisions.releases("default")] == before
    assert history(world.settings, "default") == shown
    assert roll_back(world.settings, "default", 2)["release"] == 5


def test_orphans_go_after_their_grace_and_strangers_stay(world: World) -> None:
    released(world, (1,))
    orphan = content(77)
    world.spool.write(orphan.digest, body(77))
    coded = world.settings.coded / "00ff"
    coded.write_bytes(b"x" * 10)
    now = time.time()
    assert world.evictor.sweep(now) == 0
    later = now + eviction.GRACE_S + 60
    world.needed.hold("image", [orphan.digest])
    assert world.evictor.sweep(later) == 10
    world.needed.keep([])
    assert world.evictor.sweep(later) == LARGE
    assert world.carried_without_bytes() == []


CRASH = """
import os, signal, sys
from pathlib import Path
from sender.config import SenderSettings
from sender.eviction import Evictor
from sender.journal import SenderJournal
from runtime.settings import load_settings
settings, dies_at, done = load_settings(Path(sys.argv[1]), SenderSettings), int(sys.argv[2]), 0
unlink = Path.unlink
def dying(path, missing_ok=False):
    global done
    if done == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    done += 1
    unlink(path, missing_ok=missing_ok)
Path.unlink = dying
Evictor(settings, SenderJournal(settings.journal)).evict(1 << 40)
"""


@pytest.mark.parametrize("dies_at", range(4))
def test_killed_between_rows_and_files_no_row_names_missing_bytes(world: World, site: Site, dies_at: int) -> None:
    """Rows first: what a kill leaves is files without rows, which the sweep finds."""
    released(world, (1,), (2,), (3,))
    killed = subprocess.run(
        [sys.executable, "-c", CRASH, str(site.config), str(dies_at)],
        env=environment(),
        cwd=REPOSITORY_ROOT,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert world.carried_without_bytes() == []
    assert not world.missing(world.protected())
    fresh = Evictor(world.settings, world.journal)
    assert fresh.sweep(time.time() + eviction.GRACE_S + 60) > 0
    assert fresh.orphans(time.time() + 2 * eviction.GRACE_S) == []
    assert not world.missing(world.protected())


STEPS = st.lists(
    st.tuples(st.sampled_from(["fetch", "propose", "sign", "send", "evict", "rollback", "end"]), st.integers(1, 4)),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_law_whatever_the_order_nothing_needed_goes(tmp_path_factory: pytest.TempPathFactory, steps: object) -> None:
    folder = tmp_path_factory.mktemp("law")
    keys.create_signing_key(folder / "keys" / "sender.pem")
    keys.create_hpke_key(folder / "keys" / "receiver.pem")
    site = Site(folder)
    site.write(storage={"keep_releases": 2})
    world = World(site)
    fetched: set[int] = set()
    assert isinstance(steps, list)
    for step, number in steps:
        before = {d for d in world.protected() if world.spool.size(d) is not None}
        if step == "fetch":
            world.fetch(number)
            fetched.add(number)
        elif step == "propose" and fetched:
            chosen = [n for n in fetched if n <= number] or [min(fetched)]
            for each in chosen:
                world.fetch(each)  # what is ready was looked after
            world.propose(*chosen)
        elif step == "sign":
            world.signer.sign_approved()
        elif step == "send":
            world.send()
        elif step == "evict":
            world.evictor.evict(number * LARGE)
            world.evictor.retain()
        elif step == "rollback":
            release = world.decisions.release("default", number)
            if release is not None:
                world.clock += 1
                proposal = Proposal("default", release.images, release.lock, world.clock)
                world.decisions.roll_back(Rollback(proposal, number))
        elif step == "end":
            world.decisions.end_rollback("default")
        still = world.protected()
        assert not world.missing(before & still)
        assert world.carried_without_bytes() == []
    world.journal.close()


async def test_an_image_that_does_not_fit_is_held_and_nothing_else_stops(site: Site) -> None:
    large, small = single_image("large" * 1000), single_image("small")
    for name, image in (("large", large), ("small", small)):
        for path, data in layout_files(image).items():
            target = site.folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    size = sum(len(data) for data in small.all_files().values())
    entries = [
        {"image": f"example.org/{name}:1@{image.root.descriptor.digest}", "from": f"oci:{name}"}
        for name, image in (("large", large), ("small", small))
    ]
    site.write(*entries, storage={"budget": f"{size}B"})
    outcome = await site.round()
    assert outcome.ready + outcome.failed == 2
    assert outcome.failed >= 1
    assert any("storage.budget" in line and "needs" in line for line in site.said), site.said
    site.write(*entries)
    assert (await site.round()).failed == 0


@pytest.fixture
def small_disk(site: Site) -> Iterator[None]:
    """The sender's state on a file system of 12 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    state = site.folder / "state"
    state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", state], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield
    subprocess.run(["umount", "-l", state], check=True)


@pytest.mark.usefixtures("small_disk")
async def test_on_a_full_disk_what_was_sent_gives_way_or_the_image_says_what_is_full(site: Site) -> None:
    entries = {}
    for number, (tag, size) in enumerate({"first": 6_000_000, "small": 4_096, "next": 7_000_000}.items()):
        image = await random_image(Layout(site.folder / tag), "example.org/app", tag, [size], seed=number)
        entries[tag] = {"image": f"example.org/app:{tag}@{image.root.digest}", "from": f"oci:{tag}"}
    site.write(entries["first"])
    await site.round()
    site.list(entries["first"], entries["next"])
    assert (await site.round()).failed == 1  # the first one is wanted, and not even sent
    assert [line for line in site.said if "No space left on device; free space" in line], site.said
    journal, key = site.journal(), Ed25519PrivateKey.generate()
    for tag in ("first", "small"):
        site.list(entries[tag])
        await site.round()
        Signer(journal, key).sign_approved()
        for queued in journal.queue():
            for _ in range(queued.passes_left):
                journal.note_pass(queued.id, 1.0)
    journal.close()
    site.list(entries["small"], entries["next"])
    outcome = await site.round()
    assert (outcome.ready, outcome.failed) == (2, 0), site.said
    assert {tag for image in site.proposal() for tag in image.tags} == {"small", "next"}


async def test_status_and_gc_tell(site: Site, world: World) -> None:
    released(world, (1,), (2,), (3,))
    code, out, _ = await site.run("gc", "--dry-run", "--free", "10GB", "--json")
    found = json.loads(out)
    assert (code, len(found["objects"]) > 0, found["dry_run"]) == (0, True, True)
    assert world.evictor.used() == found["used_bytes"]
    code, out, err = await site.run("gc", "--free", "10GB")
    assert code == 0, err
    assert world.evictor.used() == found["left_bytes"]
    code, out, _ = await site.run("status", "--json")
    storage = json.loads(out)["storage"]
    assert storage["used_bytes"] == found["left_bytes"]
    assert storage["evicted_last"]["objects"] == len(found["objects"])
    code, _, err = await site.run("gc", "--free", "lots")
    assert (code, "--free: 'lots'" in err) == (2, True)
    assert not world.missing(world.protected())


async def test_a_rollback_brings_back_what_was_evicted_and_sends_nothing_again(
    site: Site, upstream: Upstream
) -> None:
    _, host = await upstream()
    site.registries[host] = {"plain_http": True}
    site.write({"image": f"{host}/app", "tags": ["1"], "follow": "digest"}, storage={"budget": "1GB"})
    journal, signer, images = site.journal(), Ed25519PrivateKey.generate(), []
    for text in ("first", "second"):
        images.append(single_image(text))
        async with Registry(host, plain_http=True) as registry:
            await images[-1].push(registry.repository("app"), "1")
            if text == "first":
                signature = referrer_to(images[0].root.descriptor, "application/vnd.example.signature")
                await signature.push(registry.repository("app"), None)
        await site.round()
        assert Signer(journal, signer).sign_approved()
        for queued in journal.queue():
            for _ in range(queued.passes_left):
                journal.note_pass(queued.id, 1.0)
    spool, first = BlobStore(site.settings().spool), images[0].all_files() | signature.all_files()
    Evictor(site.settings(), journal).evict(1 << 40)
    later = referrer_to(images[0].root.descriptor, "application/spdx+json")
    async with Registry(host, plain_http=True) as registry:
        await later.push(registry.repository("app"), None)
    gone = [digest for digest in first if spool.size(digest) is None]
    assert gone != []
    roll_back(site.settings(), "default", 1)
    assert Signer(journal, signer).sign_approved()
    await site.round()
    assert [digest for digest in first if spool.size(digest) is None] == []
    assert spool.size(later.root.descriptor.digest) is None, "what refers to it now is not what the release had"
    assert journal.queue() == []
    assert len(journal.carriers(first)) > 0
    assert [image.root.digest for image in site.proposal()] == [images[1].root.descriptor.digest]
    journal.close()
