"""nodes-config, and what containerd, podman and skopeo make of it: they pull by the source's name, not from there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci.client import Registry
from receiver.mapping import Mapping, Rule
from receiver.nodes import Mirror, NodeFiles, node_files
from runtime.errors import UserError
from runtime.settings import load_yaml
from tests.oci_layout.images import Image, multi_image, single_image
from tests.receiver.nodes import Containerd
from tests.receiver.peers import DockerRegistry, free_port
from tests.receiver.site import Cli, Site, release_image
from tests.receiver.test_publish import NGINX

MIRROR = Mirror("https://registry.internal:5000")
RULES = (
    Rule("docker.io/library/redis", "cache/redis"),
    Rule("docker.io/library/", "hub/"),
    Rule("docker.io/library/never", "shadowed"),
    Rule("quay.io/", ""),
)
NAMES = ["docker.io/library/nginx", "docker.io/library/redis", "docker.io/bitnami/redis", "quay.io/a/b"]


def made(runtime: Any, *registries: str, mapping: Mapping | None = None, mirror: Mirror = MIRROR) -> NodeFiles:
    return node_files(runtime, "default", mirror, mapping or Mapping("internal"), registries, NAMES)


class Node:
    """A site whose layout is served, a registry that stands for the source, and what a node would do."""

    def __init__(self, site: Site, source: DockerRegistry) -> None:
        self.site, self.source = site, source
        self.port = free_port()
        several = multi_image()
        several.manifests.pop()  # podman does not look into an index within an index
        self.images = {f"{NGINX}:1.27": several, f"{source.host}/team/app:v1": single_image("app")}
        site.fill(*self.images.values())
        site.release(*(release_image(*self._split(name), image) for name, image in self.images.items()))
        self.settings = site.configure(f"{{layout: published, serve: {{on: '127.0.0.1:{self.port}'}}}}")

    @staticmethod
    def _split(name: str) -> tuple[str, list[str]]:
        repository, _, tag = name.rpartition(":")
        return repository, [tag]

    async def fill_source(self) -> Image:
        """Put an image into the source that was not mirrored."""
        image = single_image("only there")
        async with Registry(self.source.host, plain_http=True) as client:
            await image.push(client.repository("team/only-there"), "v1")
        return image


@pytest.fixture
def node(site: Site, registry: DockerRegistry) -> Node:
    return Node(site, registry)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: podman takes no other."""
    with tempfile.TemporaryDirectory(prefix="podman-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def test_containerd_pulls_from_the_embedded_registry_only(node: Node, containerd: Containerd, cli: Cli) -> None:
    hosts = node.site.folder / "certs.d"
    async with node.site.publishing(node.settings):
        for name in (NGINX, f"{node.source.host}/team/app"):
            await node.site.until(name, "published")
        code, out, err = await asyncio.to_thread(
            cli, "nodes-config", "--for", "containerd", "--out", hosts, "--config", node.site.config
        )
        assert code == 0, err
        assert sorted(path.parent.name for path in hosts.rglob("hosts.toml")) == [node.source.host, "docker.io"]
        assert str(hosts / "docker.io/hosts.toml") in out
        for name in node.images:
            await asyncio.to_thread(containerd.ctr, "images", "pull", "--hosts-dir", hosts, name)
        assert containerd.images() == {name: image.root.descriptor.digest for name, image in node.images.items()}
        await node.fill_source()
        before = len(node.source.requests)
        for absent in (f"{node.source.host}/team/only-there:v1", "docker.io/library/absent:1"):
            done = await asyncio.to_thread(
                containerd.ctr, "images", "pull", "--hosts-dir", hosts, absent, check=False
            )
            assert done.returncode != 0
            assert "not found" in done.stderr
        assert node.source.requests[before:] == []
        # without our file containerd does ask the source: the registry would have seen it
        done = await asyncio.to_thread(
            containerd.ctr, "images", "pull", "--plain-http", f"{node.source.host}/team/only-there:v1"
        )
        assert node.source.requests[before:]


@pytest.mark.parametrize("program", ["skopeo", "podman"])
async def test_podman_and_skopeo_pull_from_the_embedded_registry_only(
    node: Node, cli: Cli, program: str, short: Path
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: sudo apt-get install {program}")
    folder = node.site.folder / "conf"
    async with node.site.publishing(node.settings):
        for name in (NGINX, f"{node.source.host}/team/app"):
            await node.site.until(name, "published")
        arguments = ("nodes-config", "--for", "crio", "--out", folder, "--config", node.site.config)
        assert (await asyncio.to_thread(cli, *arguments))[0] == 0
        client = _Containers(program, folder / "90-checkvalve.conf", short)
        for name, image in node.images.items():
            assert await asyncio.to_thread(client.pull, name) == image.root.descriptor.digest
        await node.fill_source()
        before = len(node.source.requests)
        for absent in (f"{node.source.host}/team/only-there:v1", "docker.io/library/absent:1"):
            with pytest.raises(subprocess.CalledProcessError) as caught:
                await asyncio.to_thread(client.pull, absent)
            assert "is blocked" in caught.value.stderr
        assert node.source.requests[before:] == []


class _Containers:
    """podman or skopeo, with files of their own."""

    def __init__(self, program: str, conf: Path, folder: Path) -> None:
        self._program, self._conf, self._folder = program, conf, folder
        self._policy = folder / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def pull(self, name: str) -> str:
        """Pull an image by its source's name; return its digest."""
        store = ["--root", f"{self._folder}/root", "--runroot", f"{self._folder}/run", "--storage-driver", "vfs"]
        if self._program == "skopeo":
            out = self._run(
                "skopeo", "--registries-conf", str(self._conf), "inspect", "--no-tags", f"docker://{name}"
            )
            return str(json.loads(out)["Digest"])
        self._run("podman", *store, "pull", "--signature-policy", str(self._policy), name)
        listed = self._run("podman", *store, "image", "inspect", name, "--format", "{{json .RepoDigests}}")
        found = {entry.partition("@")[2] for entry in json.loads(listed)}
        return next(iter(found & self._wanted(name)))

    def _wanted(self, name: str) -> set[str]:
        repository, _, tag = name.rpartition(":")
        out = self._run(
            "skopeo", "--registries-conf", str(self._conf), "inspect", "--no-tags", f"docker://{repository}:{tag}"
        )
        return {str(json.loads(out)["Digest"])}

    def _run(self, *argv: str) -> str:
        environment = os.environ | {"CONTAINERS_REGISTRIES_CONF": str(self._conf), "HOME": str(self._folder)}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_hosts_toml_leaves_nowhere_to_fall_back_on() -> None:
    files = made("containerd", "docker.io", "localhost:5000", mirror=Mirror(MIRROR.url, "/etc/ca.pem")).files
    assert list(files) == ["docker.io/hosts.toml", "localhost:5000/hosts.toml"]
    document = tomllib.loads(files["localhost:5000/hosts.toml"])
    assert document == {
        "server": "https://registry.internal:5000/v2/internal/localhost_5000",
        "capabilities": ["pull", "resolve"],
        "override_path": True,
        "ca": "/etc/ca.pem",
        "host": {},
    }


def test_a_whole_registry_may_have_another_name_for_containerd() -> None:
    mapping = Mapping(
        "internal", (Rule("docker.io/", "hub/"), Rule("quay.io/", ""), Rule("ghcr.io/a/", "internal/ghcr.io/a/"))
    )
    files = made("containerd", "docker.io", "quay.io", "ghcr.io", mapping=mapping).files
    servers = [tomllib.loads(text)["server"].removeprefix(MIRROR.url) for text in files.values()]
    assert servers == ["/v2/hub", "/v2", "/v2/internal/ghcr.io"]
    with pytest.raises(UserError, match="library/redis to cache/redis: containerd renames whole registries only"):
        made("containerd", "docker.io", mapping=Mapping("internal", RULES))


def test_k3s_as_its_documentation_has_it(tmp_path: Path) -> None:
    """docs.k3s.io, private registry: mirrors with endpoint and rewrite, configs with tls."""
    found = made("k3s", "docker.io", "localhost:5000", mirror=Mirror(MIRROR.url, "/etc/ca.pem"))
    (tmp_path / "registries.yaml").write_text(found.files["registries.yaml"])
    assert load_yaml(tmp_path / "registries.yaml").data == {
        "mirrors": {
            "docker.io": {
                "endpoint": ["https://registry.internal:5000"],
                "rewrite": {"^(.*)$": "internal/docker.io/$1"},
            },
            "localhost:5000": {
                "endpoint": ["https://registry.internal:5000"],
                "rewrite": {"^(.*)$": "internal/localhost_5000/$1"},
            },
        },
        "configs": {"registry.internal:5000": {"tls": {"ca_file": "/etc/ca.pem"}}},
    }
    (tmp_path / "config.yaml").write_text(found.files["config.yaml.d/90-checkvalve.yaml"])
    assert load_yaml(tmp_path / "config.yaml").data == {"disable-default-registry-endpoint": True}
    assert any("--disable-default-registry-endpoint" in note for note in found.notes)


@pytest.mark.parametrize(
    "mapping", [Mapping("internal"), Mapping(""), Mapping("internal", RULES), Mapping("", RULES)]
)
def test_whatever_the_rules_k3s_and_crio_ask_for_what_publish_writes(mapping: Mapping, tmp_path: Path) -> None:
    (tmp_path / "registries.yaml").write_text(
        made("k3s", "docker.io", "quay.io", mapping=mapping).files["registries.yaml"]
    )
    mirrors = load_yaml(tmp_path / "registries.yaml").data["mirrors"]
    blocks = tomllib.loads(made("crio", "docker.io", "quay.io", mapping=mapping).files["90-checkvalve.conf"])[
        "registry"
    ]
    assert all(block["blocked"] and block["location"] == block["prefix"] for block in blocks)
    for name in NAMES:
        host, _, path = name.partition("/")
        fits = [(old, new) for old, new in mirrors[host].get("rewrite", {}).items() if re.search(old, path)]
        assert len(fits) <= 1
        asked = re.sub(fits[0][0], fits[0][1].replace("$1", r"\1"), path) if fits else path
        assert asked == mapping.name(name)
        prefixes = [block for block in blocks if (name + "/").startswith(block["prefix"] + "/")]
        block = max(prefixes, key=lambda each: len(each["prefix"]))
        where = block["mirror"][0]["location"] + name.removeprefix(block["prefix"])
        assert where == f"registry.internal:5000/{mapping.name(name)}"


def test_it_prints_and_writes_nothing_unless_told(site: Site, cli: Cli) -> None:
    site.configure("{registry: {url: 'http://registry.internal:5000'}}")
    image = single_image()
    site.release(release_image(NGINX, ["1"], image), release_image("quay.io/a/b", ["1"], image))
    before = set(site.folder.rglob("*"))
    code, out, err = cli("nodes-config", "--for", "crio", "--config", site.config)
    assert code == 0
    assert "# ---- /etc/containers/registries.conf.d/90-checkvalve.conf" in out
    assert [block["prefix"] for block in tomllib.loads(out)["registry"]] == ["docker.io", "quay.io"]
    assert "insecure = true" in out
    assert err.startswith("note: ")
    assert set(site.folder.rglob("*")) - before <= {
        site.folder / f"state/journal.sqlite{end}" for end in ("-wal", "-shm")
    }
    code, out, _ = cli("nodes-config", "--for", "k3s", "--json", "--config", site.config, "ghcr.io")
    document = json.loads(out)
    assert (code, document["registries"], document["written"]) == (0, ["ghcr.io"], [])
    assert set(document["files"]) == {"registries.yaml", "config.yaml.d/90-checkvalve.yaml"}


def test_it_replaces_its_own_files_only(site: Site, cli: Cli) -> None:
    site.configure("{registry: {url: 'https://registry.internal:5000'}}")
    out = site.folder / "k3s"
    command = ("nodes-config", "--for", "k3s", "--out", out, "--config", site.config, "docker.io")
    assert cli(*command)[0] == 0
    assert cli(*command)[0] == 0
    (out / "registries.yaml").write_text("mirrors: {}\n")
    (out / "config.yaml.d/90-checkvalve.yaml").unlink()
    code, _, err = cli(*command)
    assert (code, err) == (
        1,
        f"error: {out}/registries.yaml: was not written by nodes-config; "
        "move it away, or give --force to replace it\n",
    )
    assert not (out / "config.yaml.d/90-checkvalve.yaml").exists()  # all or nothing
    assert cli(*command, "--force")[0] == 0
    assert "rewrite" in (out / "registries.yaml").read_text()


@pytest.mark.parametrize(
    ("publish", "options", "line"),
    [
        ("{layout: a}", [], "--mirror: nothing serves the layout of target default; say where nodes find it"),
        (
            "{layout: a, serve: {on: '0.0.0.0:5000'}}",
            [],
            "--mirror: serve.on is 0.0.0.0:5000; say how nodes reach it",
        ),
        ("{images: {path: a}}", [], "--target default: is a folder of archives, which nodes import by themselves"),
        ("{targets: {a: {layout: a}, b: {layout: b}}}", [], "--target: there are several; give one of a, b"),
        ("{targets: {a: {layout: a}}}", ["--target", "c"], "--target c: no such target; there is a"),
        ("{layout: a}", ["--mirror", "registry"], "--mirror registry: give e.g. https://registry.internal:5000"),
        ("{layout: a}", ["--mirror", "http://a b"], "--mirror http://a b: "),
        ("{layout: a}", ["--mirror", "http://m", "Bad_Host"], "Bad_Host: registry 'Bad_Host'"),
        ("{layout: a}", ["--mirror", "http://m"], "no release is here to take registries from; name them"),
    ],
)
def test_what_cannot_work_is_one_line(site: Site, cli: Cli, publish: str, options: list[str], line: str) -> None:
    site.configure(publish)
    code, out, err = cli("nodes-config", "--for", "containerd", "--config", site.config, *options)
    assert code in (1, 2)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {line}")
