"""Which changes of a spec concern the running instances of a model."""

from schemas.models import ModelSpec

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
"""What is read whenever it matters; every other field is fixed when an engine starts."""


def restart_needed(old: ModelSpec, new: ModelSpec) -> bool:
    """Whether an instance started with `old` does not do what `new` says."""
    return any(
        getattr(old, field) != getattr(new, field)
        for field in ModelSpec.__struct_fields__
        if field not in LIVE_FIELDS
    )
