"""The registry: what may be served, under which name."""

import hashlib
from enum import StrEnum
from typing import Any

import msgspec

from schemas.base import Record, check_engine_name, check_model_name, check_process
from schemas.profiles import EmbeddingOptions, Lora, Profile, Replicas, check_n_ctx, check_n_parallel


class Mode(StrEnum):
    """The purpose of a model; it determines the paths that it serves."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    COMPLETION = "completion"
    TRANSCRIPTION = "transcription"


MAX_DEPTH = 32
"""Maximum nesting of values in `parameters`, so that every reader can embed them in a document."""
MAX_START_BUDGET_S = 86_400.0
MAX_PRIORITY = 1_000_000
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


class ModelSource(Record):
    """The source of the files."""

    repo: str
    revision: str
    """The commit, 40 hex digits, never a branch."""
    quant: str | None = None


class ParameterPolicy(Record):
    """The owner's policy for fields of request bodies."""

    defaults: dict[str, Any] = msgspec.field(default_factory=dict)
    """Applied where a request does not set them."""
    forced: dict[str, Any] = msgspec.field(default_factory=dict)
    """Override whatever a request sets."""
    dropped: tuple[str, ...] = ()
    """Taken out."""

    def __post_init__(self) -> None:
        if any(_is_deeper(value, MAX_DEPTH) for value in (self.defaults, self.forced)):
            raise ValueError(f"parameters are more than {MAX_DEPTH} levels deep")


def _is_deeper(value: object, levels: int) -> bool:
    """Whether objects and lists are nested deeper than `levels`."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


class ModelSpec(Record):
    """One record of the registry: all that is needed to start the model. Clients request it by `name`."""

    name: str
    path: str
    """Relative to the store: a GGUF file (the first shard of several), or a folder of safetensors.

    The engine `command` gets it as `{model}` and need not find anything there.
    """
    aliases: tuple[str, ...] = ()
    """Other names for clients; the first is the id in lists of models."""
    mode: Mode = Mode.CHAT
    engine: str = "auto"
    """An engine's name, or `auto`: llama.cpp for a GGUF file, sentence-transformers or vLLM for a folder."""
    mmproj: str | None = None
    """The vision projector, relative to the store."""
    chat_template: str | None = None
    """A Jinja file in place of the model's own template, relative to the store."""
    loras: tuple[Lora, ...] = ()
    source: ModelSource | None = None
    n_parallel: int = 4
    """Slots: how many requests one instance answers at a time."""
    n_ctx: int = 8192
    """Context in tokens, shared by the slots; the engine caps it at what the model was trained for."""
    args: tuple[str, ...] = ()
    """More arguments for the engine, as a list; never passed through a shell."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """More environment variables for the engine."""
    health_path: str = "/health"
    """Path of an engine `command` that returns 200 once it is ready."""
    cache_type: str = "f16"
    """Type of llama.cpp's KV cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl."""
    profiles: tuple[Profile, ...] = ()
    """The ways to run it, best first; none: on a GPU with room, else on the CPU."""
    embedding: EmbeddingOptions = EmbeddingOptions()
    replicas: Replicas = Replicas()
    autostart: bool = False
    """Started with the yard, and again whenever there is room."""
    ttl_s: float | None = None
    """Unloaded after this time without a request; None: only when its memory is needed."""
    pinned: bool = False
    """Never evicted for another model."""
    priority: int = 0
    """When two models compete for memory, the higher priority is served first."""
    parameters: ParameterPolicy = ParameterPolicy()
    """Policy for the fields of its requests."""
    queue_max: int = 512
    """Maximum number of waiting requests."""
    queue_wait_s: float = 600.0
    """Maximum time of a request in the queue."""
    start_budget_s: float | None = None
    """Time limit for loading; None: by file size."""

    @property
    def shown(self) -> str:
        """The id that lists of models show."""
        return self.aliases[0] if self.aliases else self.name

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            check_model_name(name)
        check_engine_name(self.engine)
        check_process(self.args, self.env)
        check_n_parallel(self.n_parallel)
        check_n_ctx(self.n_ctx)
        if not 1 <= self.queue_max <= 100_000:
            raise ValueError("queue_max must be between 1 and 100000 requests")
        if not 0 < self.queue_wait_s <= 86_400:
            raise ValueError("queue_wait_s must be more than 0 and at most a day")
        if self.ttl_s is not None and self.ttl_s <= 0:
            raise ValueError("ttl_s must be more than 0 seconds; leave it null to keep the model")
        if not self.health_path.startswith("/"):
            raise ValueError("health_path must begin with /")
        if self.cache_type not in CACHE_TYPES:
            raise ValueError(f"cache_type must be one of {', '.join(CACHE_TYPES)}")
        names = [profile.name for profile in self.profiles]
        if len(set(names)) < len(names):
            raise ValueError("two profiles have the same name")
        if self.start_budget_s is not None and not 0 < self.start_budget_s <= MAX_START_BUDGET_S:
            raise ValueError("start_budget_s must be more than 0 and at most a day")
        if not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            raise ValueError(f"priority must be between -{MAX_PRIORITY} and {MAX_PRIORITY}")


class ModelRef(Record):
    """Which model, by name or alias."""

    model: str


class ModelStored(Record):
    """The registry took the spec; `revision` is what compare-and-set refers to."""

    name: str
    revision: int


class ModelStarting(Record):
    """The start was accepted, or the model is running; events report the progress."""

    model: str
    state: str
    """Of its instance; `waiting` as long as it has none."""
    instance: str | None = None
    reason: str | None = None
    """What a model without an instance waits for, as the end of a sentence."""


class ModelStopping(Record):
    """Instances that are being stopped."""

    model: str
    instances: tuple[str, ...]


def find_model(name: str, specs: dict[str, ModelSpec]) -> ModelSpec | None:
    """The spec that `name` stands for among `specs` (by model key): its own name first, then an alias."""
    by_name = {spec.name: spec for spec in specs.values()}
    return by_name.get(name) or next((spec for spec in specs.values() if name in spec.aliases), None)


LIVE_FIELDS = frozenset(
    {
        "aliases",
        "source",
        "replicas",
        "autostart",
        "ttl_s",
        "pinned",
        "priority",
        "parameters",
        "queue_max",
        "queue_wait_s",
        "start_budget_s",
    }
)
"""Fields that take effect at once; every other field is fixed when an engine starts."""


def fingerprint(spec: ModelSpec) -> str:
    """Equal for two specs if and only if a running instance of one satisfies the other."""
    fixed = {name: getattr(spec, name) for name in ModelSpec.__struct_fields__ if name not in LIVE_FIELDS}
    return hashlib.sha256(msgspec.json.encode(fixed, order="deterministic")).hexdigest()[:16]
