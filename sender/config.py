"""The sender's settings file (sender.yaml), as the commands and roles see it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from oci.errors import ReferenceError_
from oci.limits import REQUESTS_PER_SECOND
from oci.reference import check_registry, check_repository
from runtime.settings import ConfigPath, Duration, Frequency, HostPort, Rate, Ratio, Section, Settings, Size, spelt
from runtime.zones import zone
from sender.windows import Window as OpenWindow
from sender.windows import Windows, check_start

BURST_MIN: Final = 128_000  # bytes
BURST_S: Final = 0.004

COLLECTION: Final = spelt(
    r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?",
    "not a name; give 1 to 64 of a-z 0-9 . _ - that begin and end with a letter or digit",
)

_INTERFACE = spelt(r"[^\s/]{1,15}", "not an interface's name; give e.g. eth1")


_VARIABLE = spelt(r"[A-Za-z_][A-Za-z0-9_]*", "not the name of an environment variable; give e.g. HUB_PASSWORD")


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
    """How one upstream registry is reached: by its own name, at its *location*, or at *mirrors* first."""

    location: str | None = None  # host[:port][/path]; replaces the registry
    mirrors: list[str] = Field(default_factory=list)  # the same, asked before the registry
    mirrors_resolve: bool = False  # whether a mirror may say what a tag means, and which there are
    plain_http: bool = False
    ca: ConfigPath | None = None
    cert: ConfigPath | None = None
    key: ConfigPath | None = None
    username: str | None = None
    password_file: ConfigPath | None = None
    password_env: Annotated[str, _VARIABLE] | None = None
    requests: Frequency | None = None
    parallel: Annotated[int, Field(ge=1, le=64)] | None = None

    @field_validator("location")
    @classmethod
    def _is_place(cls, location: str | None) -> str | None:
        return None if location is None else _place(location, "a location")

    @field_validator("mirrors")
    @classmethod
    def _are_places(cls, mirrors: list[str]) -> list[str]:
        places = [_place(mirror, "a mirror") for mirror in mirrors]
        if len(set(places)) < len(places):
            raise ValueError("names a mirror twice; give each once")
        return places

    @field_validator("username")
    @classmethod
    def _is_user(cls, username: str | None) -> str | None:
        if username is not None and (not username or ":" in username or not username.isprintable()):
            # Whoever writes a colon has appended the password: the value is not repeated. RFC 7617: user-id.
            raise ValueError("is empty or holds a colon; give the user name only, and its password in password_file")
        return username

    @model_validator(mode="after")
    def _fits(self) -> RegistryAccess:
        if self.key is not None and self.cert is None:
            raise ValueError("key: needs its certificate; add cert (or remove key)")
        if self.plain_http and (self.ca or self.cert):
            raise ValueError("plain_http: leaves ca and cert without use; remove it (or them)")
        secrets = [name for name in ("password_file", "password_env") if getattr(self, name) is not None]
        if len(secrets) > 1:
            raise ValueError("password_file and password_env: only one can be the password's place; remove the other")
        if bool(secrets) != (self.username is not None):
            missing = "username" if secrets else "password_file or password_env"
            raise ValueError(f"{(secrets or ['username'])[0]}: is of no use alone; add {missing}")
        if self.location is not None and self.mirrors:
            raise ValueError("location: replaces the registry, so mirrors of it are never asked; remove one of them")
        return self

    def place(self, host: str) -> tuple[str, str]:
        """Return where *host* is asked: ``host[:port]`` and what goes before its repositories, '' or ``path/``."""
        return split_place(self.location or host)


def split_place(place: str) -> tuple[str, str]:
    """Split ``host[:port][/path]`` into the host and what goes before its repositories, '' or ``path/``."""
    host, slash, path = place.partition("/")
    return host, path + slash


def _place(text: str, kind: str) -> str:
    host, slash, path = text.partition("/")
    try:
        return check_registry(host) + (f"/{check_repository(path)}" if slash else "")
    except ReferenceError_ as error:
        raise ValueError(f"{error}; {kind} is HOST[:PORT][/PATH]") from None


class Fetch(Section):
    """The Internet-facing role."""

    docker_config: ConfigPath | None = None
    registries: dict[str, RegistryAccess] = Field(default_factory=dict)
    parallel: Annotated[int, Field(ge=1, le=64)] = 4  # images and blobs of one registry at once
    parallel_total: Annotated[int, Field(ge=1, le=1024)] = 32  # blobs of all registries
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

    def access(self, host: str) -> RegistryAccess:
        """Return how *host* is reached; the defaults where nothing is said of it."""
        return self.registries.get(host, RegistryAccess())

    def budget(self, place: str) -> tuple[float, int]:
        """Return requests a second and blobs at once for the host *place*: the least of all that lead there."""
        leading = [access for host, access in self.registries.items() if access.place(host)[0] == place]
        rates = [access.requests for access in leading if access.requests is not None]
        blobs = [access.parallel for access in leading if access.parallel is not None]
        return min(rates, default=REQUESTS_PER_SECOND), min(blobs, default=self.parallel)


class Storage(Section):
    """What is kept of what was fetched and sent."""

    budget: Size | None = None  # of spool and coded files together
    keep_releases: Annotated[int, Field(ge=1, le=10_000)] = 10  # of each collection


class Webhook(Section):
    """Where registries may tell of pushes."""

    listen: HostPort
    secret_file: ConfigPath


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
    schedule: Schedule = Schedule()
    fetch: Fetch = Fetch()
    storage: Storage = Storage()
    webhook: Webhook | None = None
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
