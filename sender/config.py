"""The sender's settings file (sender.yaml), as the commands and roles see it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from oci.errors import ReferenceError_
from oci.reference import check_registry, check_repository
from runtime.settings import ConfigPath, Duration, HostPort, Rate, Ratio, Section, Settings, Size, spelt
from runtime.zones import zone
from sender.windows import Window as OpenWindow
from sender.windows import Windows, check_start

BURST_MIN: Final = 128_000  # bytes
BURST_S: Final = 0.004

_COLLECTION = spelt(
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


class Window(Section):
    """A time in which bulk is sent."""

    start: Annotated[str, AfterValidator(check_start)]
    lasts: Annotated[Duration, Field(alias="for", gt=0)]
    rate: Rate | None = None


class Schedule(Section):
    """When objects are sent; announcements, beacons and releases always are."""

    timezone: str | None = None
    windows: Annotated[tuple[Window, ...], Field(max_length=64)] = ()
    urgent_ignores_windows: bool = False
    carousel_share: Ratio = 1.0

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str | None) -> str | None:
        zone(timezone)
        return timezone


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
    parallel: Annotated[int, Field(ge=1, le=64)] = 4
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
    collection: Annotated[str, _COLLECTION] = "default"
    link: Link
    repeats: Repeats = Repeats()
    schedule: Schedule = Schedule()
    fetch: Fetch = Fetch()
    logs: Logs = Logs()

    @field_validator("schedule")
    @classmethod
    def _within_the_link(cls, schedule: Schedule, info: ValidationInfo) -> Schedule:
        link = info.data.get("link")
        for at, window in enumerate(schedule.windows):
            if link is None or window.rate is None:
                continue
            if window.rate > link.rate:
                most = f"{link.rate} bit/s"
                raise ValueError(f"windows[{at}].rate: {window.rate} bit/s is above link.rate; give at most {most}")
            if not link.pacing:
                raise ValueError(f"windows[{at}].rate: nothing keeps to it without link.pacing; remove one of them")
        return schedule

    def windows(self) -> Windows:
        """Return when bulk is sent and how fast."""
        rate = self.link.rate
        given = [OpenWindow(each.start, each.lasts, each.rate or rate) for each in self.schedule.windows]
        return Windows(given, zone(self.schedule.timezone), rate)

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
