"""The receiver's settings file (receiver.yaml), as the commands and roles see it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from receiver.audit import AUDIT_NAME
from receiver.border_model import BorderSettings
from receiver.publish_config import Publish
from receiver.retention_settings import BY_DEFAULT, Retention
from runtime.settings import ConfigPath, Duration, HostPort, Rate, Ratio, Section, Settings, Size, spelt

_COLLECTION = spelt(
    r"\*|[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?",
    "not a name; give 1 to 64 of a-z 0-9 . _ - that begin and end with a letter or digit, or '*' for all others",
)


class Listen(Section):
    """The diode's end."""

    on: HostPort
    receive_buffer: Size = 32 * 2**20
    lanes: Annotated[int, Field(ge=1, le=16)] = 1
    gro: Literal["auto", "mmsg", "off"] = "auto"
    rate: Rate | None = None  # what the diode carries: only doctor asks

    @model_validator(mode="after")
    def _ports(self) -> Listen:
        self.on.check_lanes(self.lanes, "on")
        return self


class Limits(Section):
    """What the receiver is willing to store."""

    object_size: Size = 64 * 2**30
    partial_space: Size = 200 * 2**30
    partial_age: Duration = 30 * 86_400.0  # of a live link, without a byte gained
    disk_reserve: Size | None = None  # None: 1 GiB, at most a twentieth of the file system


class Alarms(Section):
    """When status and log raise an alarm."""

    silence: Duration = 30.0  # no datagram, or no beacon that is new
    behind: Duration = 600.0  # a release is heard of and does not come
    repair_used: Annotated[Ratio, Field(gt=0, le=1)] = 0.8  # of the repair symbols, by the worst block of an hour


class Approvals(Section):
    """Whose signatures the releases of a collection need besides the sender's."""

    approvers: Annotated[list[ConfigPath], Field(min_length=1, max_length=15)]  # Ed25519 public keys
    threshold: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _enough(self) -> Approvals:
        if self.threshold > len(self.approvers):
            raise ValueError(f"threshold is {self.threshold}; there are {len(self.approvers)} approvers")
        return self


class Logs(Section):
    """What is written to standard error."""

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class ReceiverSettings(Settings):
    """receiver.yaml."""

    model_config = SettingsConfigDict(env_prefix="CHECKVALVE_RECEIVER__")
    created_by: ClassVar[str] = "checkvalve-receiver init"

    state: ConfigPath
    hpke_key: ConfigPath
    senders: Annotated[list[ConfigPath], Field(min_length=1)]
    approvals: dict[Annotated[str, _COLLECTION], Approvals] = Field(default_factory=dict)  # "*": all others
    listen: Listen
    publish: Publish
    border: BorderSettings = BorderSettings()
    limits: Limits = Limits()
    alarms: Alarms = Alarms()
    retention: Retention = BY_DEFAULT
    logs: Logs = Logs()

    @property
    def spool(self) -> Path:
        """The OCI image layout that capture fills and publish reads."""
        return self.state / "spool"

    @property
    def partial(self) -> Path:
        """Objects being received, named by the SHA-256 of their coded bytes."""
        return self.state / "partial"

    @property
    def journal(self) -> Path:
        """The SQLite journal of this side."""
        return self.state / "journal.sqlite"

    @property
    def audit(self) -> Path:
        """The audit log: what was decided about releases and images, and by whom."""
        return self.state / AUDIT_NAME

    @property
    def retention_lock(self) -> Path:
        """Held by who reads or adds old contents, and alone by who removes them."""
        return self.state / "retention.lock"

    @property
    def publish_lock(self) -> Path:
        """Held by publish roles, and alone by ``gc``."""
        return self.state / "publish.lock"
