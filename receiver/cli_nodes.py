"""The command that is about nodes: nodes-config."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from receiver.cli_app import Config, Json, app, settings_of
from runtime.commandline import examples


class _For(StrEnum):
    containerd = "containerd"
    k3s = "k3s"
    crio = "crio"


@app.command(
    short_help="Write what lets nodes pull from a target, and from nowhere else.",
    epilog=examples(
        "checkvalve-receiver nodes-config --for k3s                # look at it",
        "checkvalve-receiver nodes-config --for containerd --out certs.d",
        "checkvalve-receiver nodes-config --for crio --mirror https://registry.internal:5000 docker.io quay.io",
    ),
)
def nodes_config(
    runtime: Annotated[_For, typer.Option("--for", help="What the nodes run; crio is for podman too.")],
    registries: Annotated[
        list[str] | None,
        typer.Argument(metavar="REGISTRY", help="Source registries. Default: those of the newest releases."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of publish.targets. Default: the only one to pull from."),
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="How nodes reach it. Default: as the settings say.")
    ] = None,
    ca: Annotated[str | None, typer.Option(metavar="PATH", help="Its CA certificates, a file of the nodes.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the files there. Default: print them, write nothing.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that others wrote.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Print or write the registry configuration of nodes: pods name images as ever, the target gives them.

    containerd: hosts.toml for each registry. K3s: registries.yaml, and the option that is needed besides. CRI-O and
    podman: registries.conf. Each without falling back on the source registry, which is not there.
    """
    from receiver.nodes_config import nodes_config as work

    raise typer.Exit(
        work(
            settings_of(config),
            runtime.value,
            registries=registries or [],
            target=target,
            mirror=mirror,
            ca=ca,
            out=out,
            force=force,
            as_json=as_json,
        )
    )
