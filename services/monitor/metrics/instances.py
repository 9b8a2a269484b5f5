"""Samples of instances and of the models that they serve."""

from collections.abc import Iterable, Iterator

from schemas.instances import COMING, LIVE, Instance, InstanceState
from schemas.metrics import InstanceMetrics, Sample
from schemas.placing import WaitingModel

_GAUGES = (
    ("yard_instance_slots", "slots"),
    ("yard_instance_busy", "busy"),
    ("yard_instance_prompt_tokens_per_second", "prompt_tokens_per_s"),
    ("yard_instance_completion_tokens_per_second", "completion_tokens_per_s"),
    ("yard_instance_kv_used_ratio", "kv_used_ratio"),
    ("yard_instance_requests_total", "requests"),
    ("yard_instance_failed_requests_total", "failed"),
    ("yard_instance_prompt_tokens_total", "prompt_tokens"),
    ("yard_instance_cached_tokens_total", "cached_tokens"),
    ("yard_instance_completion_tokens_total", "completion_tokens"),
)
_ENGINE = (("yard_instance_engine_busy", "busy"), ("yard_instance_engine_waiting", "waiting"))


def activity_samples(activity: InstanceMetrics) -> Iterator[Sample]:
    """What its runner told last."""
    labels = _labels(activity)
    for name, field in _GAUGES:
        value = getattr(activity, field)
        if value is not None:
            yield Sample(name=name, value=float(value), labels=labels)
    if activity.prompt_tokens:
        ratio = activity.cached_tokens / activity.prompt_tokens
        yield Sample(name="yard_instance_prompt_cache_hit_ratio", value=ratio, labels=labels)
    for name, key in _ENGINE:
        if key in activity.engine:
            yield Sample(name=name, value=activity.engine[key], labels=labels)


def instance_samples(instances: Iterable[Instance]) -> Iterator[Sample]:
    """What the records say of those that live, and why others failed."""
    for instance in instances:
        labels = _labels(instance)
        if instance.state in LIVE or instance.state is InstanceState.FAILED:
            state = {**labels, "state": instance.state.value}
            yield Sample(name="yard_instance_state", value=1.0, labels=state)
            failures = float(instance.failures)
            yield Sample(name="yard_instance_failures_in_row", value=failures, labels=labels)
        if instance.state not in LIVE:
            continue
        if instance.load_s is not None:
            yield Sample(name="yard_instance_load_seconds", value=instance.load_s, labels=labels)
        for one in instance.reserved:
            held = {**labels, "node": one.node or instance.node, "device": one.device}
            reserved = float(one.predicted_bytes)
            yield Sample(name="yard_instance_reserved_bytes", value=reserved, labels=held)
            if one.measured_bytes is not None:
                measured = float(one.measured_bytes)
                yield Sample(name="yard_instance_memory_bytes", value=measured, labels=held)


def model_samples(
    instances: Iterable[Instance], waits: Iterable[WaitingModel], now: float
) -> Iterator[Sample]:
    """How every model is that has instances, or is waited for."""
    ready: dict[str, int] = {}
    coming: dict[str, int] = {}
    opened: dict[str, bool] = {}
    # What the newest says holds: the record of an older failure may still be there.
    for instance in sorted(instances, key=lambda one: one.changed_at):
        model = instance.model
        ready[model] = ready.get(model, 0) + (instance.state is InstanceState.READY)
        coming[model] = coming.get(model, 0) + (instance.state in COMING)
        paused = instance.circuit_open and (instance.retry_at or 0.0) > now
        opened[model] = paused
    for model, count in ready.items():
        labels = {"model": model}
        yield Sample(name="yard_model_ready", value=float(count), labels=labels)
        yield Sample(name="yard_model_coming", value=float(coming[model]), labels=labels)
        yield Sample(name="yard_model_circuit_open", value=float(opened[model]), labels=labels)
    for wait in waits:
        if wait.refused is not None:
            continue
        waited_s = max(now - wait.since, 0.0)
        yield Sample(name="yard_model_blocked_seconds", value=waited_s, labels={"model": wait.model})


def _labels(one: Instance | InstanceMetrics) -> dict[str, str]:
    return {"instance_id": one.instance, "model": one.model, "node": one.node}
