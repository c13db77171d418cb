"""What nodes have to be told so that they pull from a target what pods name by its source, and from nowhere else.

For containerd a hosts.toml for each source registry (containerd docs/hosts.md), for K3s registries.yaml (K3s docs,
private-registry), for CRI-O and podman registries.conf (containers-registries.conf(5)). In none of them is the source
itself left to fall back on: beyond the diode it is a timeout at best. Knows names and URLs; writes and asks nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from receiver.mapping import Mapping, Rule, target_repository
from runtime.errors import UserError

Runtime = Literal["containerd", "k3s", "crio"]
MARK: Final = "written by checkvalve-receiver nodes-config"
_NAME: Final = "x"  # any repository


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where nodes pull from: the target's URL as they reach it, and the file on the nodes that holds its CA."""

    url: str  # https://registry.internal:5000
    ca: str | None = None

    @property
    def host(self) -> str:
        """``registry.internal:5000``."""
        return self.url.partition("://")[2]

    @property
    def plain_http(self) -> bool:
        """Whether it speaks no TLS."""
        return self.url.startswith("http://")


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Files by their path below the folder of the node's configuration, and what else has to be done there."""

    files: dict[str, str]
    folder: str  # where they belong on a node
    notes: tuple[str, ...]


def node_files(
    runtime: Runtime, target: str, mirror: Mirror, mapping: Mapping, registries: Sequence[str], names: Iterable[str]
) -> NodeFiles:
    """Return the files for *runtime*, for each of *registries*; *names* are the images known, for single mapped ones.

    UserError if the runtime cannot express the target's ``map``.
    """
    head = f"# {MARK}: nodes pull from {mirror.url}, target {target}\n"
    plans = [_Plan.of(registry, mapping, names) for registry in registries]
    if runtime == "containerd":
        return _containerd(head, mirror, plans)
    return _k3s(head, mirror, plans) if runtime == "k3s" else _crio(head, mirror, plans)


@dataclass(frozen=True, slots=True)
class _Plan:
    """One source registry: the rules that matter for it, in terms of repositories on both sides."""

    registry: str
    base: str  # repositories beneath it are called `base` + their path, where no rule fits; ends with '/' or is ''
    rules: tuple[Rule, ...]  # source and target as repositories, the source without its registry
    paths: tuple[tuple[str, str], ...]  # the repositories known: of the source, and of the target

    @classmethod
    def of(cls, registry: str, mapping: Mapping, names: Iterable[str]) -> _Plan:
        start = f"{registry}/"
        base = target_repository(f"{start}{_NAME}", mapping.prefix).removesuffix(_NAME)
        rules: list[Rule] = []
        for rule in mapping.rules:
            if rule.source.startswith(start) and not any(
                former.fits(rule.source) for former in rules_of(start, rules)
            ):
                rules.append(Rule(rule.source.removeprefix(start), rule.target))
        if rules and not rules[-1].source:  # all of the registry has another name
            base = rules.pop().target
        known = sorted({name for name in names if name.startswith(start)})
        return cls(
            registry, base, tuple(rules), tuple((name.removeprefix(start), mapping.name(name)) for name in known)
        )

    def straight(self) -> bool:
        """Whether every repository is called `base` + its path."""
        return all(rule.target == self.base + rule.source for rule in self.rules)


def rules_of(start: str, rules: Iterable[Rule]) -> Iterable[Rule]:
    """Return *rules* with their sources whole again."""
    return (Rule(start + rule.source, rule.target) for rule in rules)


def _containerd(head: str, mirror: Mirror, plans: Sequence[_Plan]) -> NodeFiles:
    files = {}
    for plan in plans:
        if not plan.straight():
            rule = next(rule for rule in plan.rules if rule.target != plan.base + rule.source)
            raise UserError(
                f"map: {plan.registry}/{rule.source} to {rule.target}: containerd renames whole registries only; "
                f"map {plan.registry}/ alone, or name the images in pods as they are called in the target"
            )
        path = f"/v2/{plan.base}".rstrip("/")
        lines = [
            head + "# As `server`, and with no other host, the mirror is the only place that is ever asked.",
            f"server = {_text(mirror.url + path)}",
            'capabilities = ["pull", "resolve"]',
            "override_path = true",
            *([f"ca = {_text(mirror.ca)}"] if mirror.ca else []),
            "",
            "[host]  # containerd 1 passes over a file without it",
            "",
        ]
        files[f"{plan.registry}/hosts.toml"] = "\n".join(lines)
    notes = (
        'config.toml: config_path = "/etc/containerd/certs.d" under [plugins."io.containerd.grpc.v1.cri".registry] '
        '(containerd 2: [plugins."io.containerd.cri.v1.images".registry])',
        "a registry without a file here is still asked itself: write one for each that pods name",
    )
    return NodeFiles(files, "/etc/containerd/certs.d", notes)


def _k3s(head: str, mirror: Mirror, plans: Sequence[_Plan]) -> NodeFiles:
    flag = "disable-default-registry-endpoint: true"
    lines = [f"{head}# K3s asks the source after the mirror, unless it is started with {flag}", "mirrors:"]
    for plan in plans:
        lines += [f"  {_text(plan.registry)}:", "    endpoint:", f"      - {_text(mirror.url)}"]
        if rewrites := _rewrites(plan):
            lines += ["    rewrite:", *(f"      {_text(old)}: {_text(new)}" for old, new in rewrites)]
    if mirror.ca:
        lines += ["configs:", f"  {_text(mirror.host)}:", "    tls:", f"      ca_file: {_text(mirror.ca)}"]
    notes = [
        "config.yaml.d/90-checkvalve.yaml turns the default endpoint off: --disable-default-registry-endpoint",
        "restart K3s on every node: it reads these files when it starts (RKE2 the same, below /etc/rancher/rke2)",
        "a registry without a mirror here is still asked itself: write one for each that pods name",
    ]
    if not all(plan.straight() for plan in plans):
        notes.append("names of single images are rewritten: write this anew when a release brings others")
    files = {"registries.yaml": "\n".join(lines) + "\n", "config.yaml.d/90-checkvalve.yaml": f"{head}{flag}\n"}
    return NodeFiles(files, "/etc/rancher/k3s", tuple(notes))


def _rewrites(plan: _Plan) -> list[tuple[str, str]]:
    """Return pattern -> name. K3s tries them in no order that one could rely on, so at most one may fit any name."""
    if plan.straight():
        return [("^(.*)$", f"{plan.base}$1")] if plan.base else []
    return [(f"^{re.escape(path)}$", target) for path, target in plan.paths]


def _crio(head: str, mirror: Mirror, plans: Sequence[_Plan]) -> NodeFiles:
    blocks = [
        head + "# `blocked` is said of the source: its mirror is asked, it never is. The longest prefix counts."
    ]
    for plan in plans:
        places = [(plan.registry, plan.base)]
        places += [(f"{plan.registry}/{rule.source}", rule.target) for rule in plan.rules]
        for source, target in places:
            source, where = source.rstrip("/"), f"{mirror.host}/{target}".rstrip("/")
            lines = [
                "[[registry]]",
                f"prefix = {_text(source)}",
                f"location = {_text(source)}",
                "blocked = true",
                "",
                "[[registry.mirror]]",
                f"location = {_text(where)}",
                *(["insecure = true  # plain HTTP"] if mirror.plain_http else []),
            ]
            blocks.append("\n".join(lines) + "\n")
    notes = ["put it into /etc/containers/registries.conf.d; CRI-O reads it again on SIGHUP, podman each time"]
    if mirror.ca:
        notes.append(f"copy {mirror.ca} to /etc/containers/certs.d/{mirror.host}/ca.crt")
    notes.append("a registry without a block here is still asked itself: write one for each that pods name")
    return NodeFiles({"90-checkvalve.conf": "\n".join(blocks)}, "/etc/containers/registries.conf.d", tuple(notes))


def _text(value: str) -> str:
    """Return *value* as a basic string of TOML, which is a double-quoted one of YAML too."""
    return json.dumps(value)
