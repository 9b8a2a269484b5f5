"""A plan as a sentence, for the answer to `yard plan`."""

from modelyard.text import format_size
from schemas.instances import Reason
from schemas.placement import Option, PlanReply
from services.supervisor.planning.world import PlacementPlan, World, is_ready, join_names

_DRAIN_S = 2.0
"""About how long an idle instance takes to stop."""


def explain(model: str, world: World, plan: PlacementPlan) -> PlanReply:
    """What `plan`, made for a world in which `model` is demanded, means for it."""
    serving = world.serving(model)
    if any(map(is_ready, serving)):
        return PlanReply(model=model, text=f"{model} is loaded and answers at once.", expected_s=0.0)
    if serving:
        return PlanReply(model=model, text=f"{model} is being started already.")
    evicted = tuple(stop.model for stop in plan.stops if stop.reason is Reason.EVICTED)
    ready = (instance.model for instance in filter(is_ready, world.instances))
    running = tuple(name for name in ready if name not in (*evicted, model))
    start = next((start for start in plan.starts if start.model == model), None)
    if start is not None:
        return _answer(model, start.option, (), running)
    reason = plan.reasons.get(model, "nothing is known about it")
    if fetch := next((fetch for fetch in plan.fetches if fetch.model == model), None):
        return PlanReply(model=model, text=f"{model} would wait: {reason}.", node=fetch.node, keeps=running)
    if not evicted or f"{join_names(evicted)} makes room for it" != reason:
        return PlanReply(model=model, text=f"{model} would wait: {reason}.", keeps=running)
    best = next(iter(world.options.get(model, ())), None)
    return _answer(model, best, evicted, running)


def _answer(
    model: str, option: Option | None, evicted: tuple[str, ...], running: tuple[str, ...]
) -> PlanReply:
    load_s = option.load_s if option else None
    expected_s = None if load_s is None else load_s + (_DRAIN_S if evicted else 0.0)
    parts = [_describe_start(model, option)]
    parts.append(f"it would evict {join_names(evicted)}" if evicted else "nothing would be evicted")
    parts += [f"{join_names(running)} would keep running"] if running else []
    parts.append("how long it takes is not known yet" if expected_s is None else f"about {expected_s:.0f} s")
    return PlanReply(
        model=model,
        text="; ".join(parts) + ".",
        node=option.node if option else None,
        profile=option.profile if option else None,
        evicts=evicted,
        keeps=running,
        expected_s=expected_s,
    )


def _describe_start(model: str, option: Option | None) -> str:
    if option is None:
        return f"{model} would be started"
    needs = " and ".join(
        f"{format_size(need.memory_bytes)} of {need.device}" + (f" of {need.node}" if need.node else "")
        for need in option.needs
    )
    profile = f" in profile {option.profile}" if option.profile else ""
    return f"{model} would start on {option.node}{profile}" + (f" with {needs}" if needs else "")
