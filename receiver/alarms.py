"""The alarms of this side: each has a stable code, a severity and a remedy; one pure function says which stand.

Each role judges its own every few seconds (watch.py in capture, oversight.py in publish), logs when an alarm begins
and ends, and keeps those that stand in the journal. `status` judges all of them (standing.py), so that it needs no
role to be running.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Final

from receiver.config import Alarms
from receiver.margin import Meter, advise, summary
from runtime.terminal import human_duration

ALIVE_S: Final = 10.0  # a role that has not been heard of for longer is not running
REFUSALS: Final = {"not_for_us", "untrusted_sender", "bad_signature", "bad_session_key", "stale_epoch"}
REPLAYS: Final = {"stale_epoch", "epoch_reused", "release_rolled_back"}


class Severity(Enum):
    """Error: status exits with 1. Warning: the service does what it should, with little left to spare."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class _Kind:
    severity: Severity
    remedy: str


_ERROR, _WARNING = Severity.ERROR, Severity.WARNING
CATALOGUE: Final[Mapping[str, _Kind]] = {
    "capture_down": _Kind(_ERROR, "systemctl status checkvalve-capture, and its log"),
    "journal_stuck": _Kind(_ERROR, "make room on the disk, or end what locks the journal; it goes on by itself"),
    "publish_down": _Kind(_ERROR, "systemctl status checkvalve-publish, and its log"),
    "silence": _Kind(_ERROR, "look at the sender, the diode and the cabling"),
    "lane_silent": _Kind(_ERROR, "look at link.lanes of the sender and its port"),
    "session_refused": _Kind(_ERROR, "compare the keys of both sides; the log's session_refused says which"),
    "sender_frozen": _Kind(_ERROR, "restart the sender's transmit role; else the diode repeats itself"),
    "replay": _Kind(_ERROR, "find who plays old datagrams; or the sender's state was restored from a backup"),
    "release_conflict": _Kind(_ERROR, "two senders release one collection, or its journal was lost: keep one"),
    "release_behind": _Kind(_ERROR, "wait for a pass, or `checkvalve-sender resend`; raise link.repair if it recurs"),
    "release_unapproved": _Kind(_ERROR, "compare the approvers' keys of both sides"),
    "release_unusable": _Kind(_ERROR, "compare senders and approvals in receiver.yaml with the keys that signed it"),
    "release_not_allowed": _Kind(_ERROR, "a trusted sender sends what `border` does not allow: mend one of both"),
    "image_held": _Kind(_ERROR, "`checkvalve-receiver held` says why; then `release` or `reject` it"),
    "rejected_is_out": _Kind(_ERROR, "it was published before it was rejected: take it out of the target"),
    "audit_broken": _Kind(_ERROR, "`checkvalve-receiver audit verify`; keep the file, find who changed it"),
    "release_shrinks": _Kind(_ERROR, "`checkvalve-receiver confirm` if it is meant; else mend the sender's list"),
    "release_waits": _Kind(_ERROR, "`checkvalve-receiver activate --latest` when going back is over"),
    "nothing_deleted": _Kind(
        _ERROR, "`import` that release again, or begin an empty journal: OPERATIONS.md, Disaster"
    ),
    "image_failed": _Kind(_ERROR, "mend what the line says; it is tried again by itself"),
    "disk_failed": _Kind(_ERROR, "make room, or mend the file system; it goes on by itself"),
    "disk_low": _Kind(_ERROR, "make room, or raise limits.partial_space; small objects and releases still come in"),
    "kernel_drops": _Kind(_WARNING, "raise listen.receive_buffer, net.core.rmem_max; `checkvalve-receiver doctor`"),
    "margin_low": _Kind(_WARNING, "raise link.repair or link.outage on the sender as it says"),
}
BY_PUBLISH: Final = frozenset(
    {
        "capture_down",
        "journal_stuck",
        "release_unusable",
        "image_held",
        "rejected_is_out",
        "audit_broken",
        "release_shrinks",
        "release_waits",
        "nothing_deleted",
    }
)
"""The codes that the publish role logs; all others are capture's."""
BY_CAPTURE: Final = frozenset(CATALOGUE) - BY_PUBLISH
NOT_ALLOWED: Final = ("collection_not_allowed", "sender_not_allowed")


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that is wrong now; *subject* tells those of one code apart. *since* is Unix s, None: just now."""

    code: str
    text: str
    subject: str = ""
    since: float | None = None

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CATALOGUE[self.code].severity

    @property
    def remedy(self) -> str:
        """What to do."""
        return CATALOGUE[self.code].remedy

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self) | {"severity": self.severity.value, "remedy": self.remedy}


@dataclass(slots=True)
class Facts:
    """What is known at *now* (Unix s). Live documents as the roles last wrote them, and when."""

    now: float
    capture: dict[str, Any] = field(default_factory=dict)
    capture_told: float = 0.0
    capture_at_work: bool = False  # whether its process holds the lock of the state folder
    publish: dict[str, Any] = field(default_factory=dict)
    publish_told: float = 0.0
    behind: Mapping[str, tuple[int, float]] = field(
        default_factory=dict
    )  # collection -> release, heard of so long ago
    gaps: Mapping[str, int] = field(default_factory=dict)  # collection -> release that is heard of and not here
    unusable: Mapping[str, str] = field(default_factory=dict)  # "collection sequence" -> why
    failed: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # NAME@DIGEST -> its title, why it failed
    hour: Meter = field(default_factory=Meter)

    @property
    def capture_alive(self) -> bool:
        """Whether capture runs, by all that can be told. A clock that was set back does not make it live on."""
        return alive(self.capture, self.capture_told, self.now)

    @property
    def publish_alive(self) -> bool:
        """The same of publish."""
        return alive(self.publish, self.publish_told, self.now)

    @property
    def silence(self) -> float | None:
        """Seconds since the last datagram, None if there never was one."""
        if self.capture.get("silent_s") is not None:  # by the monotonic clock of the role
            return float(self.capture["silent_s"]) + max(0.0, self.now - self.capture_told)
        last = self.capture.get("last_datagram")
        return max(0.0, self.now - last) if last else None


def alive(document: Mapping[str, Any], told: float, now: float) -> bool:
    """Whether the role that wrote *document* at *told* runs at *now* (Unix s, either may have leapt)."""
    return document.get("state", "stopped") != "stopped" and abs(now - told) <= ALIVE_S


def judge(facts: Facts, bounds: Alarms) -> list[Alarm]:
    """Return the alarms that stand, the gravest of the link first."""
    found = [*_roles(facts), *_link(facts, bounds), *_storage(facts)]
    drops = facts.capture.get("drops_recent", {}) if facts.capture_alive else {}
    found += _replay(drops)
    for name, (sequence, seconds) in facts.behind.items():
        if seconds > bounds.behind:
            text = f"release {name} {sequence} was heard of {human_duration(seconds)} ago and has not come"
            found.append(Alarm("release_behind", text, name))
    if facts.capture.get("drops", {}).get("release_unapproved"):
        for name, sequence in facts.gaps.items():
            text = (
                f"release {name} {sequence} is heard of and not here; one came that fewer approvers have signed than "
                "`approvals` asks for"
            )
            found.append(Alarm("release_unapproved", text, name))
    refused = facts.capture.get("drops", {})
    found += [
        Alarm("release_not_allowed", f"releases were refused as {name} ({refused[name]})", name)
        for name in NOT_ALLOWED
        if refused.get(name)
    ]
    for release, error in facts.unusable.items():
        found.append(Alarm("release_unusable", f"release {release} is not used: {error}", release))
    found += [Alarm("image_failed", f"{title}: {error}", image) for image, (title, error) in facts.failed.items()]
    return [*found, *_margin(facts, bounds)]


def _roles(facts: Facts) -> Iterable[Alarm]:
    state, other = facts.capture.get("state", "never started"), facts.publish.get("state", "never started")
    half = facts.publish_alive  # the other role runs, so this one should
    stopped = state in ("stopped", "never started")
    late = not facts.capture_alive and abs(facts.now - facts.capture_told) > ALIVE_S
    if late and facts.capture_at_work:
        yield Alarm(
            "journal_stuck", f"capture runs and does not write its journal: {_last(facts.capture_told, facts.now)}"
        )
    elif late and (half or not stopped):
        yield Alarm("capture_down", f"capture is not running: {_last(facts.capture_told, facts.now)}")
    gone = other not in ("stopped", "never started") and not half
    if gone:
        yield Alarm("publish_down", f"publish is not running: {_last(facts.publish_told, facts.now)}")


def _last(told: float, now: float) -> str:
    if not told:
        return "it never started"
    return (
        f"last heard of {human_duration(now - told)} ago" if told <= now else "not heard of since the clock was set"
    )


def _link(facts: Facts, bounds: Alarms) -> Iterable[Alarm]:
    if not facts.capture_alive:
        return
    capture, silence = facts.capture, facts.silence
    if silence is None or silence > bounds.silence:
        for_long = "ever" if silence is None else f"for {human_duration(silence)}"
        if silence is not None or capture.get("running_s", bounds.silence) >= bounds.silence:
            yield Alarm("silence", f"silence: no datagram {for_long}")
        return
    if capture.get("session") is None:
        refused = sorted(REFUSALS & {name for name, count in capture.get("drops", {}).items() if count})
        if refused:
            text = f"datagrams arrive and no session opens: dropped as {', '.join(refused)}"
            yield Alarm("session_refused", text)
        return
    beacon = capture.get("beacon")
    if beacon is not None and beacon["age_s"] > bounds.silence:
        text = f"datagrams arrive, and no new beacon for {human_duration(beacon['age_s'])}"
        yield Alarm("sender_frozen", text)
    elif beacon is not None and beacon["clock_age_s"] > bounds.silence:
        text = f"beacons come, and the sender's clock stands still for {human_duration(beacon['clock_age_s'])}"
        yield Alarm("sender_frozen", text)
    for number, lane in enumerate(capture.get("lanes", [])):
        last = lane["last_datagram"]
        if facts.now - last > bounds.silence:
            ago = f"for {human_duration(facts.now - last)}" if last else "ever"
            yield Alarm("lane_silent", f"lane {number} is silent: no datagram {ago}", str(number))


def _storage(facts: Facts) -> Iterable[Alarm]:
    if facts.capture_alive:
        for name, place, detail in facts.capture.get("trouble", []):
            yield Alarm(name, f"{place}: {detail}", place)


def _replay(drops: Mapping[str, int]) -> Iterable[Alarm]:
    found = {name: drops[name] for name in sorted(REPLAYS) if drops.get(name)}
    if found:
        counted = ", ".join(f"{count:,} {name}" for name, count in found.items())
        yield Alarm("replay", f"old sessions or releases are played, and refused: {counted} in the last minutes")
    if drops.get("release_conflict"):
        yield Alarm("release_conflict", "a release came that contradicts one that is here, and was refused")


def _margin(facts: Facts, bounds: Alarms) -> Iterable[Alarm]:
    advice = advise(facts.hour)
    if not facts.capture_alive:
        return
    if advice.verdict == "kernel":
        yield Alarm("kernel_drops", f"in the last hour {advice.text}")
    elif advice.verdict in ("raise", "bursts") and (
        facts.hour.used >= bounds.repair_used or (facts.hour.blocks_lost and facts.hour.lost)
    ):
        yield Alarm("margin_low", f"in the last hour {summary(facts.hour)}: {advice.text}")
