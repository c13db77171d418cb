"""A poll of very many tags of which none has moved: requests, seconds, CPU seconds and memory of the fetch role.

Each is ``checkvalve-sender fetch --once``, a process of its own, after one that has brought everything: what starts,
reads the lock, asks, compares and proposes. The tags of a repository share a few small manifests. Requests are those
that the registry's access log has, or where it keeps none those that the role counts; beside it curl and skopeo ask
the same registry for the same tags.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import Spread, timed
from benchmarks.upstream import DockerRegistry, EmbeddedRegistry, SenderFolder, curl, skopeo, upload
from benchmarks.usage import Usage
from oci.layout import Layout
from oci.layout_index import REF_NAME
from oci.limits import REQUESTS_PER_SECOND
from sender.journal import SenderJournal
from tests.lab.world import missing_programs
from tests.support.images import random_image
from tests.support.processes import Processes, run

TAGS: Final = 100  # of one repository
_IMAGES: Final = 4  # that they share
_LAYER_BYTES: Final = 4_096
_NAME: Final = "bench/app"
_BRING_S: Final = 900.0
_UNBOUNDED: Final = 100_000  # requests a second
_EIGHT: Final = ["--parallel", "--parallel-max", "8"]
_HEADERS: Final = ["--header", "Accept: application/vnd.oci.image.manifest.v1+json"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How many repositories of a hundred tags, of these asked at the default rate, runs, and tags for skopeo."""

    repositories: int = 100
    slowly: int = 10
    runs: int = 2
    inspected: int = 100


FULL: Final = Effort()
QUICK: Final = Effort(5, 1, 1, 10)
TINY: Final = Effort(1, 1, 1, 2)

FOLLOWED: Final = "exact list, follow: digest"
RULES: Final[dict[str, dict[str, Any]]] = {
    FOLLOWED: {"tags": {"exact": None}, "follow": "digest"},
    "semver, keep newest 100, follow: digest": {"tags": {"semver": "1.x", "keep": TAGS}, "follow": "digest"},
    "semver, keep newest 100, not followed": {"tags": {"semver": "1.x", "keep": TAGS}},
    "exact list, not followed": {"tags": {"exact": None}},
}


def measure(effort: Effort) -> dict[str, Any]:
    """Return a row for each registry and rule, one at the default rate, and the peers', or why there are none."""
    if reason := missing_programs():
        return {"skipped": reason}
    with tempfile.TemporaryDirectory(prefix="poll-") as scratch:
        folder = Path(scratch)
        layout = Layout(folder / "images")
        for number in range(_IMAGES):
            asyncio.run(random_image(layout, f"{_NAME}-000", _tag(number), [_LAYER_BYTES], seed=number))
        with Processes(folder / "logs") as processes:
            docker = _docker(processes, folder, layout, effort)
            bench = _Bench(folder / "sender-docker", docker, "docker-registry")
            rows = [bench.row(rule, effort.repositories, None, effort.runs) for rule in RULES]
            rows.append(bench.row(FOLLOWED, effort.slowly, REQUESTS_PER_SECOND, 1))
            peers = _peers(docker, folder, effort)
        with Processes(folder / "logs") as processes:
            _multiply_layout(layout.root, folder / "embedded", effort.repositories)
            bench = _Bench(folder / "sender-embedded", EmbeddedRegistry(processes, folder / "embedded"), "embedded")
            rows.append(bench.row(FOLLOWED, effort.repositories, None, effort.runs))
    return {"rate_default": REQUESTS_PER_SECOND, "rows": rows, "peers": peers}


class _Bench:
    """One sender that mirrors from one registry."""

    def __init__(self, folder: Path, upstream: DockerRegistry | EmbeddedRegistry, name: str) -> None:
        self._upstream = upstream
        self._name = name
        self._sender = SenderFolder(folder)

    def row(self, rule: str, repositories: int, rate: float | None, runs: int) -> dict[str, Any]:
        """Bring what *rule* means, then poll *runs* times; *rate* None: as fast as both can."""
        entries = [_entry(rule, f"{self._upstream.host}/{_name(number)}") for number in range(repositories)]
        self._sender.list_images(*entries)
        self._configure(None)
        run(self._sender.argv("fetch", "--once"), timeout_s=_BRING_S)
        self._configure(rate)
        polls = [self._poll(repositories * TAGS) for _ in range(runs)]
        (requests,) = {poll["requests"] for poll in polls}  # it does not depend on the run
        figures = {each: Spread.of([poll[each] for poll in polls]).as_json() for each in ("seconds", "cpu_s")}
        print(f"  {self._name}, {rule}: {requests} requests, {figures['seconds']['median']} s", flush=True)
        peak = max(poll["peak_mb"] for poll in polls)
        what = {"registry": self._name, "rule": rule, "tags": repositories * TAGS, "rate": rate}
        return {**what, "requests": requests, **figures, "peak_mb": peak}

    def _poll(self, tags: int) -> dict[str, float]:
        before = self._seen()
        with Processes(self._sender.folder / "logs") as processes:
            start = time.perf_counter()
            fetch = processes.start("fetch", self._sender.argv("fetch", "--once"))
            with Usage({"fetch": fetch.pid}) as usage:
                code = fetch.wait(_BRING_S)
            seconds = time.perf_counter() - start
            said = fetch.describe(f"ended with {code}")
        if code or f"{tags} ready, 0 failed; queued 0 objects" not in said:
            raise RuntimeError(said)
        requests = self._counted() if before is None else (self._seen() or 0) - before
        return {"requests": requests, "seconds": seconds, **asdict(usage.used()["fetch"])}

    def _seen(self) -> int | None:
        """Return how many requests the registry has answered, None where it does not say."""
        return self._upstream.requests() if isinstance(self._upstream, DockerRegistry) else None

    def _counted(self) -> int:
        """Return what the last run has counted itself, as ``status`` shows it."""
        journal = SenderJournal(self._sender.folder / "state/journal.sqlite")
        registries = journal.live()["fetch"][0]["registries"]
        journal.close()
        return sum(int(each["requests"]) for each in registries.values())

    def _configure(self, rate: float | None) -> None:
        access = {"plain_http": True, "requests": f"{rate or _UNBOUNDED:g}/s"}
        self._sender.configure({"fetch": {"registries": {self._upstream.host: access}}})


def _docker(processes: Processes, folder: Path, layout: Layout, effort: Effort) -> DockerRegistry:
    """Start a registry that has all the tags: written as it would write them, as pushing 10,000 takes its time."""
    names = [_name(number) for number in range(effort.repositories)]
    registry = DockerRegistry(processes, folder / "docker")
    for number in range(_IMAGES):
        upload(layout, names[0], _tag(number), registry.host, folder)
    tags = registry.data / "repositories" / names[0] / "_manifests/tags"
    for number in range(_IMAGES, TAGS):
        shutil.copytree(tags / _tag(number % _IMAGES), tags / _tag(number))
    for other in names[1:]:
        shutil.copytree(registry.data / "repositories" / names[0], registry.data / "repositories" / other)
    return registry


def _multiply_layout(source: Path, target: Path, repositories: int) -> None:
    """Copy a layout; its few images get all the tags of all repositories."""
    shutil.copytree(source, target)
    index = json.loads((target / "index.json").read_text())
    found = {entry["annotations"][REF_NAME].rpartition(":")[2]: entry for entry in index["manifests"]}
    index["manifests"] = [
        {**found[_tag(number % _IMAGES)], "annotations": {REF_NAME: f"{_name(repository)}:{_tag(number)}"}}
        for repository in range(repositories)
        for number in range(TAGS)
    ]
    (target / "index.json").write_text(json.dumps(index))


def _peers(upstream: DockerRegistry, folder: Path, effort: Effort) -> list[dict[str, Any]]:
    """Ask docker-registry for the same tags by curl, for all, and by skopeo, for some."""
    urls = [
        f"http://{upstream.host}/v2/{_name(number)}/manifests/{_tag(tag)}"
        for number in range(effort.repositories)
        for tag in range(TAGS)
    ]
    config = folder / "curl.conf"
    config.write_text("".join(f'url = "{url}"\n' for url in urls))
    heads = [*curl("--head", *_HEADERS), "--config", str(config)]
    some = [f"docker://{upstream.host}/{_NAME}-000:{_tag(number)}" for number in range(effort.inspected)]

    def inspect() -> None:
        for image in some:
            skopeo(folder, "inspect", "--tls-verify=false", "--no-tags", "--format", "{{.Digest}}", image)

    return [
        _peer("curl, one after the other", upstream, len(urls), lambda: run(heads, timeout_s=_BRING_S)),
        _peer("curl, 8 at once", upstream, len(urls), lambda: run([*heads, *_EIGHT], timeout_s=_BRING_S)),
        _peer("skopeo inspect, a process a tag", upstream, len(some), inspect),
    ]


def _peer(name: str, upstream: DockerRegistry, tags: int, work: Callable[[], object]) -> dict[str, Any]:
    before, seconds = upstream.requests(), timed(work)
    return {"name": name, "tags": tags, "requests": upstream.requests() - before, "seconds": round(seconds, 2)}


def _entry(rule: str, image: str) -> dict[str, Any]:
    """Return an entry of images.yaml; an exact list names all the tags."""
    said = RULES[rule]
    tags = {"exact": [_tag(number) for number in range(TAGS)]} if "exact" in said["tags"] else said["tags"]
    return {"image": image, **said, "tags": tags}


def _name(number: int) -> str:
    return f"{_NAME}-{number:03}"


def _tag(number: int) -> str:
    return f"1.{number // 10}.{number % 10}"
