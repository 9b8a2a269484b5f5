"""A plan in words, for somebody who thinks of asking for a model."""

from schemas.instances import Reason
from schemas.placing import Option, PlanAnswer
from services.supervisor.planning.text import names, size
from services.supervisor.planning.world import Plan, World, is_ready, is_serving

_DRAIN_S = 2.0
"""About how long an idle instance takes to leave."""


def explain(model: str, world: World, made: Plan) -> PlanAnswer:
    """What `made`, the plan of a world in which `model` is asked for, means for it."""
    own = [one for one in world.of(model) if is_serving(one)]
    if any(map(is_ready, own)):
        return PlanAnswer(model=model, text=f"{model} is loaded and answers at once.", expected_s=0.0)
    if own:
        return PlanAnswer(model=model, text=f"{model} is being started already.")
    evicted = tuple(stop.model for stop in made.stops if stop.reason is Reason.EVICTED)
    kept = tuple(
        one.model
        for one in world.instances
        if is_ready(one) and one.model not in evicted and one.model != model
    )
    start = next((start for start in made.starts if start.model == model), None)
    if start is not None:
        return _answer(model, start.option, (), kept)
    reason = made.reasons.get(model, "nothing is known about it")
    if fetch := next((one for one in made.fetches if one.model == model), None):
        return PlanAnswer(model=model, text=f"{model} would wait: {reason}.", node=fetch.node, keeps=kept)
    if not evicted or f"{names(evicted)} makes room for it" != reason:
        return PlanAnswer(model=model, text=f"{model} would wait: {reason}.", keeps=kept)
    return _answer(model, _likely(model, world), evicted, kept)


def _likely(model: str, world: World) -> Option | None:
    return next(iter(world.options.get(model, ())), None)


def _answer(model: str, option: Option | None, evicted: tuple[str, ...], kept: tuple[str, ...]) -> PlanAnswer:
    load_s = option.load_s if option else None
    expected_s = None if load_s is None else load_s + (_DRAIN_S if evicted else 0.0)
    parts = [_where(model, option)]
    parts.append(f"it would evict {names(evicted)}" if evicted else "nobody would have to go")
    parts += [f"{names(kept)} would keep running"] if kept else []
    parts.append("how long it takes is not known yet" if expected_s is None else f"about {expected_s:.0f} s")
    return PlanAnswer(
        model=model,
        text="; ".join(parts) + ".",
        node=option.node if option else None,
        profile=option.profile if option else None,
        evicts=evicted,
        keeps=kept,
        expected_s=expected_s,
    )


def _where(model: str, option: Option | None) -> str:
    if option is None:
        return f"{model} would be started"
    needs = " and ".join(
        f"{size(need.memory_bytes)} of {need.device}" + (f" of {need.node}" if need.node else "")
        for need in option.needs
    )
    profile = f" in profile {option.profile}" if option.profile else ""
    return f"{model} would start on {option.node}{profile}" + (f" with {needs}" if needs else "")
