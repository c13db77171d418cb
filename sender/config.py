"""The sender's settings file (sender.yaml), as the commands and roles see it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from oci.errors import ReferenceError_
from oci.reference import check_registry, check_repository
from runtime.settings import ConfigPath, Duration, HostPort, Rate, Ratio, Section, Settings, Size, spelt

BURST_MIN: Final = 128_000  # bytes
BURST_S: Final = 0.004

COLLECTION: Final = spelt(
    r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?",
    "not a name; give 1 to 64 of a-z 0-9 . _ - that begin and end with a letter or digit",
)

_INTERFACE = spelt(r"[^\s/]{1,15}", "not an interface's name; give e.g. eth1")


class Link(Section):
    """The one-way link and what it may do to datagrams."""

    to: HostPort
    rate: Rate
    interface: Annotated[str, _INTERFACE] | None = None
    mtu: Annotated[int, Field(ge=624, le=9216)] = 1500
    repair: Ratio = 0.10
    outage: Duration = 0.010
    burst: Size | None = None
    lanes: Annotated[int, Field(ge=1, le=16)] = 1
    pacing: bool = True
    gso: Literal["auto", "mmsg", "off"] = "auto"

    @model_validator(mode="after")
    def _ports(self) -> Link:
        self.to.check_lanes(self.lanes, "to")
        return self

    @property
    def burst_bytes(self) -> int:
        """What may leave at once: as configured, or four milliseconds' worth of the rate, at least 128 kB."""
        return self.burst if self.burst is not None else max(BURST_MIN, int(self.rate / 8 * BURST_S))

    @property
    def lane_rate(self) -> float:
        """What each lane may take of the rate (bits per second)."""
        return self.rate / self.lanes


class Repeats(Section):
    """How often objects cross; small ones more often, since one outage can swallow all of one."""

    passes: Annotated[int, Field(ge=1, le=100)] = 1
    passes_small: Annotated[int, Field(ge=1, le=100)] = 2
    spacing: Duration = 0.2
    release_every: Duration = 30.0
    carousel: Duration = 3600.0


class RegistryAccess(Section):
    """How one upstream registry is reached: by its own name, or at the *location* of a mirror of it."""

    location: str | None = None  # host[:port][/path]
    plain_http: bool = False
    ca: ConfigPath | None = None

    @field_validator("location")
    @classmethod
    def _is_place(cls, location: str | None) -> str | None:
        if location is None:
            return None
        host, slash, path = location.partition("/")
        try:
            return check_registry(host) + (f"/{check_repository(path)}" if slash else "")
        except ReferenceError_ as error:
            raise ValueError(f"{error}; a location is HOST[:PORT][/PATH]") from None

    def place(self, host: str) -> tuple[str, str]:
        """Return where *host* is asked: ``host[:port]`` and what goes before its repositories, '' or ``path/``."""
        place, slash, path = (self.location or host).partition("/")
        return place, path + slash


class Fetch(Section):
    """The Internet-facing role."""

    docker_config: ConfigPath | None = None
    registries: dict[str, RegistryAccess] = Field(default_factory=dict)
    parallel: Annotated[int, Field(ge=1, le=64)] = 4  # images and blobs of one registry at once
    parallel_total: Annotated[int, Field(ge=1, le=256)] = 16  # blobs of all registries
    settle: Duration = 30.0  # at most so long what is ready waits for the rest before it is proposed
    referrers: bool = True
    foreign_layers: Literal["leave", "fetch"] = "leave"
    interval: Duration = 300.0

    @field_validator("registries")
    @classmethod
    def _hosts(cls, registries: dict[str, RegistryAccess]) -> dict[str, RegistryAccess]:
        """Spell the hosts as references do: lower case, one name for Docker Hub."""
        try:
            return {check_registry(host): access for host, access in registries.items()}
        except ReferenceError_ as error:
            raise ValueError(str(error)) from None


class Collection(Section):
    """How the desired state of one collection becomes a release."""

    approval: Literal["auto", "manual"] = "auto"
    approvers: list[ConfigPath] = Field(default_factory=list)  # Ed25519 public keys
    threshold: Annotated[int, Field(ge=1, le=15)] = 1  # how many of them have to sign

    @model_validator(mode="after")
    def _who(self) -> Collection:
        if self.approvers and self.approval != "manual":
            raise ValueError("approvers need approval: manual")
        if self.approvers and self.threshold > len(self.approvers):
            raise ValueError(f"threshold is {self.threshold}; there are {len(self.approvers)} approvers")
        if not self.approvers and "threshold" in self.model_fields_set:
            raise ValueError("threshold needs approvers")
        return self


class Logs(Section):
    """What is written to standard error."""

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class SenderSettings(Settings):
    """sender.yaml."""

    model_config = SettingsConfigDict(env_prefix="CHECKVALVE_SENDER__")
    created_by: ClassVar[str] = "checkvalve-sender init"

    state: ConfigPath
    images: ConfigPath
    signing_key: ConfigPath
    receivers: Annotated[list[ConfigPath], Field(min_length=1)]
    collection: Annotated[str, COLLECTION] = "default"
    collections: dict[Annotated[str, COLLECTION], Collection] = Field(default_factory=dict)
    lock: ConfigPath | None = None
    link: Link
    repeats: Repeats = Repeats()
    fetch: Fetch = Fetch()
    logs: Logs = Logs()

    @property
    def lock_file(self) -> Path:
        """The lock: as configured, or images.lock beside images.yaml."""
        return self.lock or self.images.with_suffix(".lock")

    @property
    def spool(self) -> Path:
        """The OCI image layout that fetch fills and transmit reads."""
        return self.state / "spool"

    @property
    def coded(self) -> Path:
        """Batches and compressed objects, ready for the wire, named by the SHA-256 of their coded bytes."""
        return self.state / "coded"

    @property
    def journal(self) -> Path:
        """The SQLite journal of this side."""
        return self.state / "journal.sqlite"
