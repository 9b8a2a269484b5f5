"""Which changes of a spec concern the running instances of a model."""

import hashlib

import msgspec

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


def fingerprint(spec: ModelSpec) -> str:
    """The same for two specs exactly if an instance of the one does what the other says."""
    fixed = {name: getattr(spec, name) for name in ModelSpec.__struct_fields__ if name not in LIVE_FIELDS}
    return hashlib.sha256(msgspec.json.encode(fixed, order="deterministic")).hexdigest()[:16]
