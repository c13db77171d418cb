"""The section ``publish`` of receiver.yaml: the places that images go to, and under which names.

One target stands in the section itself, several under ``targets``, each with the keys of one.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import Field, StrictStr, model_validator

from oci.errors import OciError
from oci.reference import check_registry
from runtime.settings import ConfigPath, HostPort, Section, spelt

ONLY_TARGET: Final = "default"  # the name of a target that stands in the section itself

_URL = spelt(r"https?://[^/\s]+/?", "not the address of a registry; give e.g. https://registry.internal:5000")
_PREFIX = spelt(
    r"(?:[a-z0-9]+(?:[._/-][a-z0-9]+)*)?",
    "not the beginning of a repository name; give lower-case letters and digits, joined by single . _ - or /",
)
_NAME = spelt(
    r"[a-z0-9](?:[a-z0-9._-]{0,30}[a-z0-9])?",
    "not a target's name; give 1 to 32 of a-z 0-9 . _ - that begin and end with a letter or digit",
)
_PATH = r"(?:[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*/)*(?:[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)?"
_TO = spelt(
    rf"(?:(?:[a-z0-9.-]+(?::[0-9]{{1,5}})?|\[[0-9a-f:]+\](?::[0-9]{{1,5}})?)/)?{_PATH}",
    "not the beginning of a name; give e.g. mirror/ or mirror/nginx",
)


class RegistryTarget(Section):
    """The internal registry, and the certificates that it takes and shows."""

    url: Annotated[str, _URL]
    ca: ConfigPath | None = None
    cert: ConfigPath | None = None  # of this client
    key: ConfigPath | None = None
    docker_config: ConfigPath | None = None

    @model_validator(mode="after")
    def _pairs(self) -> RegistryTarget:
        if self.key is not None and self.cert is None:
            raise ValueError("key: needs its certificate; add cert (or remove key)")
        if self.url.startswith("http://") and (self.ca or self.cert):
            raise ValueError("url: plain HTTP leaves ca and cert without use; give https:// (or remove them)")
        return self


class ImageFolder(Section):
    """A folder of image archives that nodes import by themselves, such as K3s's agent/images."""

    path: ConfigPath
    compress: Literal["zstd", "none"] = "zstd"
    withdrawn: Literal["keep", "remove"] = "keep"  # archives of images that no release wants any more


class Serve(Section):
    """Serving the published layout read-only as a registry."""

    on: HostPort


class MapRule(Section):
    """Images whose names begin with *source* are published under names that begin with *target* instead."""

    source: StrictStr = Field(alias="from", min_length=1)
    target: Annotated[StrictStr, _TO] = Field(alias="to")

    @model_validator(mode="after")
    def _fits(self) -> MapRule:
        host, slash, path = self.source.partition("/")
        try:
            if not slash:
                raise ValueError(f"from: {self.source!r} has no '/'; give e.g. docker.io/ or docker.io/library/nginx")
            if not any(mark in host for mark in ".:[") and host != "localhost":
                raise ValueError(f"from: {host!r} is no registry; give whole names, such as docker.io/library/nginx")
            if check_registry(host) != host:
                raise ValueError(f"from: {host!r} is not how images are named; give {check_registry(host)}")
        except OciError as error:
            raise ValueError(f"from: {error}") from None
        if re.fullmatch(_PATH, path) is None:
            raise ValueError(f"from: {path!r} begins no repository; give e.g. docker.io/library/")
        if self.source.endswith("/") != (self.target.endswith("/") or not self.target):
            raise ValueError(
                f"to: {self.target!r} does not go with from: {self.source!r}; "
                "both end with '/', or both are whole names"
            )
        return self


class TargetSection(Section):
    """One target: a registry, an OCI layout or a folder of archives, and the names of images there."""

    registry: RegistryTarget | None = None
    layout: ConfigPath | None = None
    images: ImageFolder | None = None
    serve: Serve | None = None
    prefix: Annotated[str, _PREFIX] = "internal"
    map: list[MapRule] = Field(default_factory=list)
    parallel: Annotated[int, Field(ge=1, le=64)] = 4

    @model_validator(mode="after")
    def _one_kind(self) -> TargetSection:
        self._check_kind("registry, layout and images")
        return self

    def _check_kind(self, choice: str) -> None:
        if sum(kind is not None for kind in (self.registry, self.layout, self.images)) != 1:
            raise ValueError(f"give one of {choice}")
        if self.serve is not None and self.layout is None:
            raise ValueError("serve needs layout")
        if self.images is not None and "prefix" in self.model_fields_set:
            raise ValueError(
                "prefix does not go with images, which nodes ask for by the source's names; use map for others"
            )
        if self.images is None:
            for number, rule in enumerate(self.map):
                if ":" in rule.target or rule.target.startswith("["):
                    raise ValueError(
                        f"map[{number}].to: {rule.target!r} names a registry; give a repository of this target"
                    )


class Publish(TargetSection):
    """Where images go: one target, or several by name."""

    targets: dict[Annotated[str, _NAME], TargetSection] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Publish:
        if not self.targets:
            self._check_kind("registry, layout, images and targets")
        elif others := sorted(self.model_fields_set - {"targets"}):
            raise ValueError(f"{others[0]} does not go with targets; give it below the target that it is for")
        return self

    def each(self) -> dict[str, TargetSection]:
        """Return every target by its name."""
        return dict(self.targets) or {ONLY_TARGET: self}

    def where(self, name: str) -> str:
        """Return the key under which the target *name* stands, for messages."""
        return f"publish.targets.{name}" if self.targets else "publish"
