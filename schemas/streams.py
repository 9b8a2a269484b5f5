"""The JetStream streams behind the persistent kinds. Constants: the first service to start creates them."""

from dataclasses import dataclass

from schemas.base import GATEWAY, MONITOR, OPERATOR, RUNNER, WATCHERS, Role, check_token
from schemas.subject import Kind

_MIB = 1024 * 1024
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Stream:
    """One stream. `readers` may replay it whole; `workers` pull from it and acknowledge."""

    name: str
    kind: Kind
    max_age_s: float
    max_bytes: int
    work_queue: bool = False
    max_msgs_per_subject: int = -1
    """In a work queue: maximum of waiting messages per subject; the next is refused."""
    duplicate_window_s: float = 120.0
    readers: frozenset[Role] = frozenset()
    workers: frozenset[Role] = frozenset()
    once: bool = False
    """One message a subject, for good: the second is refused."""
    purgers: frozenset[Role] = frozenset()
    """Roles that may purge messages of things that no longer exist."""
    fetchers: frozenset[Role] = frozenset()
    """Roles that may read single messages by subject."""
    compressed: bool = False
    """On disk; what is alike from message to message takes a fraction."""
    migrated_by: Role | None = None
    """The role that updates a stream of an earlier version; all others leave it unchanged."""

    @property
    def subject(self) -> str:
        return f"yard.{self.kind}.>"

    def about(self, noun: str) -> str:
        """The subjects of one noun: `model`, `instance`, …"""
        return f"yard.{self.kind}.{check_token(noun)}.>"


EVENTS = Stream(
    "EVENTS",
    Kind.EVENT,
    max_age_s=7 * 24 * _HOUR_S,
    max_bytes=256 * _MIB,
    readers=frozenset({GATEWAY, MONITOR, OPERATOR}),
    workers=frozenset({MONITOR}),
)
METRICS = Stream(
    "METRICS",
    Kind.METRIC,
    max_age_s=24 * _HOUR_S,
    max_bytes=1024 * _MIB,
    readers=frozenset({GATEWAY, OPERATOR, MONITOR}),
    compressed=True,
    migrated_by=MONITOR,
)
HISTORY = Stream(
    "HISTORY",
    Kind.HISTORY,
    max_age_s=25 * _HOUR_S,
    max_bytes=256 * _MIB,
    readers=frozenset({MONITOR}),
    compressed=True,
)
LOGS = Stream("LOGS", Kind.LOG, max_age_s=7 * 24 * _HOUR_S, max_bytes=256 * _MIB, readers=frozenset(WATCHERS))
INFER = Stream(
    "INFER",
    Kind.INFER,
    max_age_s=24 * _HOUR_S,
    max_bytes=1024 * _MIB,
    work_queue=True,
    max_msgs_per_subject=512,
    workers=frozenset({RUNNER}),
)
BODIES = Stream(
    "BODIES",
    Kind.BODY,
    max_age_s=6 * _HOUR_S,
    max_bytes=4096 * _MIB,
    fetchers=frozenset({RUNNER}),
    purgers=frozenset({GATEWAY}),
)
FILES = Stream(
    "FILES",
    Kind.FILE,
    max_age_s=30 * 24 * _HOUR_S,
    max_bytes=16 * 1024 * _MIB,
    fetchers=frozenset({GATEWAY}),
    purgers=frozenset({GATEWAY}),
)
RESULTS = Stream(
    "RESULTS",
    Kind.RESULT,
    max_age_s=30 * 24 * _HOUR_S,
    max_bytes=16 * 1024 * _MIB,
    once=True,
    max_msgs_per_subject=1,
    fetchers=frozenset({GATEWAY}),
    purgers=frozenset({GATEWAY}),
)

ALL = (EVENTS, METRICS, HISTORY, LOGS, INFER, BODIES, FILES, RESULTS)
BY_KIND = {stream.kind: stream for stream in ALL}
