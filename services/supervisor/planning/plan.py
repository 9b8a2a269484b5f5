"""The plan: what leaves, what starts, who makes room for whom, and why somebody waits."""

from collections.abc import Iterable

from schemas.groups import GroupKind
from schemas.instances import Instance, Reason
from schemas.placing import Option
from services.supervisor.planning.fetches import best
from services.supervisor.planning.retire import Retired, retire
from services.supervisor.planning.room import Room, held, wanted
from services.supervisor.planning.text import is_short_of, names
from services.supervisor.planning.victims import cheapest, cost, in_use
from services.supervisor.planning.world import (
    FetchModel,
    Plan,
    StartModel,
    StopModel,
    World,
    is_coming,
    is_live,
    is_ready,
    is_serving,
)


def plan(world: World) -> Plan:
    """What to do now. The same world always gives the same plan."""
    draft = _Draft(world)
    draft.retire(retire(world))
    for name in sorted(_needing(world), key=lambda name: _turn(world, name)):
        draft.provide(name)
    draft.note_coming()
    return draft.made()


def desired(world: World, name: str) -> int:
    """How many instances of a model there should be."""
    if name in world.held:
        return 0
    spec, own = world.models[name], world.of(name)
    serving = [one for one in own if is_serving(one)]
    least = max(spec.replicas.min, int(spec.autostart), int(_is_waited_for(world, name)))
    slots = sum(one.slots or spec.n_parallel for one in serving)
    if serving and all(map(is_ready, serving)) and world.waiting(name) > slots:
        return min(max(least, len(serving) + 1), max(spec.replicas.max, least))
    return least


def _is_waited_for(world: World, name: str) -> bool:
    """Whether others may have to leave for it: not for a model that nobody asks for."""
    return world.asked(name) or _was_replaced(world, world.of(name)) or _is_fetched_along(world, name)


def _is_fetched_along(world: World, name: str) -> bool:
    """Whether a model that it runs together with is asked for."""
    return any(map(world.asked, world.others(name, GroupKind.TOGETHER)))


def _was_replaced(world: World, own: Iterable[Instance]) -> bool:
    """An edit must not leave a model unloaded that was loaded."""
    return any(one.reason is Reason.REPLACED or one.instance in world.replaced for one in own)


def _needing(world: World) -> list[str]:
    return [
        name for name in world.models if desired(world, name) > sum(is_serving(one) for one in world.of(name))
    ]


def _turn(world: World, name: str) -> tuple[bool, int, float, str]:
    """Explicit wishes first, then priority, then who has waited longest."""
    demand = world.demand.get(name)
    since = demand.since if demand and demand.since is not None else world.now
    return (name not in world.wanted, -world.models[name].priority, since, name)


class _Draft:
    """A plan in the making."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._room = Room(world.nodes, world.instances)
        self._starts: list[StartModel] = []
        self._stops: dict[str, StopModel] = {}
        self._fetches: list[FetchModel] = []
        self._reasons: dict[str, str] = {}
        self._hopeless: set[str] = set()
        self._looks: list[float] = []
        self._promised: list[str] = []
        """Who got memory in this plan, or will get what is leaving."""

    def made(self) -> Plan:
        later = [at for at in self._looks if at > self._world.now]
        return Plan(
            starts=tuple(self._starts),
            stops=tuple(self._stops.values()),
            fetches=tuple(self._fetches),
            reasons=self._reasons,
            hopeless=frozenset(self._hopeless),
            look_again_at=min(later, default=None),
        )

    def note_coming(self) -> None:
        """Who waits for a model on its way is told so."""
        for name in self._world.models:
            serving = [one for one in self._world.of(name) if is_serving(one)]
            if self._world.asked(name) and serving and all(map(is_coming, serving)):
                self._reasons[name] = "it is being started"

    def retire(self, retired: Retired) -> None:
        for instance, reason in retired.stops:
            self._stop(instance, reason)
        self._looks += retired.looks

    def provide(self, name: str) -> None:
        """One more instance of this model, or the reason why not."""
        if (reason := self._must_wait(name)) is not None:
            self._reasons[name] = reason
            return
        options = self._options(name)
        if self._lacks_files(name, options) and self._fetch(name):
            return
        if not options:
            self._reasons[name] = self._why_nowhere(name)
            return
        if first := [
            start.model for start in self._starts if start.model in self._world.others(name, GroupKind.APART)
        ]:
            self._reasons[name] = f"it never runs beside {names(first)}, which is being started"
            return
        blockers = self._blockers(name)
        fitting = None if blockers else next((one for one in options if self._room.fits(one)), None)
        if fitting is not None:
            self._start(name, fitting)
        elif not any(is_serving(one) for one in self._world.of(name)):
            self._make_room(name, options, blockers)

    def _must_wait(self, name: str) -> str | None:
        own = self._world.of(name)
        if any(is_coming(one) for one in own):
            return "it is being started"
        pause_until = max((one.retry_at or 0.0 for one in own), default=0.0)
        # A person who asks for a start does not wait out a pause.
        if name in self._world.wanted or pause_until <= self._world.now:
            return None
        self._looks.append(pause_until)
        how = "it failed too often" if any(one.circuit_open for one in own) else "it failed"
        return f"{how}; it is tried again in {pause_until - self._world.now:.0f} s"

    def _options(self, name: str) -> list[Option]:
        nodes = self._world.nodes
        return [
            option
            for option in self._world.options.get(name, ())
            if option.node in nodes and not nodes[option.node].cordoned
        ]

    def _lacks_files(self, name: str, options: list[Option]) -> bool:
        """Whether no node that has its files could ever run what is missing of it.

        For more instances than there must be nothing is fetched.
        """
        serving = [one for one in self._world.of(name) if is_serving(one)]
        if serving and len(serving) >= self._world.models[name].replicas.min:
            return False
        could = name not in self._world.problems
        return not (could and any(self._room.could_hold(one, serving) for one in options))

    def _fetch(self, name: str) -> bool:
        """Have its files brought to a node that could run it, or say how far that is; False if none could."""
        if (progress := self._world.fetching.get(name)) is not None:
            self._reasons[name] = progress
        elif (way := best(self._world, name, self._room)) is not None:
            self._fetches.append(FetchModel(model=name, node=way.option.node))
            much = f"{way.size} " if way.size else ""
            self._reasons[name] = f"its files are brought to {way.option.node} first, {much}from {way.source}"
        elif (problem := self._world.unfetched.get(name)) is not None:
            self._reasons[name] = problem
            self._hopeless.add(name)
        else:
            return False
        return True

    def _why_nowhere(self, name: str) -> str:
        known = [option.node for option in self._world.options.get(name, ())]
        if known:
            return f"{names(known)} could run it, but is cordoned"
        return self._world.problems.get(name, "no node that could run it is known yet")

    def _start(self, name: str, option: Option) -> None:
        self._promise(name, option)
        own = self._world.of(name)
        self._starts.append(
            StartModel(
                model=name,
                option=option,
                # A person who asks for a start closes the circuit.
                failures=0 if name in self._world.wanted else max((one.failures for one in own), default=0),
            )
        )

    def _promise(self, name: str, option: Option) -> None:
        self._room.promise(option)
        self._promised.append(name)

    def _stop(self, instance: Instance, reason: Reason) -> None:
        if instance.instance not in self._stops:
            self._room.leave(instance)
            self._stops[instance.instance] = StopModel(
                instance=instance.instance, model=instance.model, node=instance.node, reason=reason
            )

    def _blockers(self, name: str) -> list[Instance]:
        """What lives now and must never run beside it."""
        apart = self._world.others(name, GroupKind.APART)
        return [one for one in self._world.instances if one.model in apart and is_live(one)]

    def _make_room(self, name: str, options: list[Option], blockers: list[Instance]) -> None:
        """Wait for what is leaving, or have the cheapest others leave; the room is promised either way."""
        staying = [one for one in blockers if is_serving(one) and one.instance not in self._stops]
        soon = next((one for one in options if not self._room.lack(one)), None)
        if soon is not None and not staying:
            self._promise(name, soon)
            self._reasons[name] = f"it waits for what {self._leaving(blockers)} gives back"
            return
        if not _is_waited_for(self._world, name) and any(map(self._room.could_ever, options)):
            self._reasons[name] = "it starts as soon as there is room; nobody has to leave for it"
            return
        candidates = [one for one in self._world.instances if self._may_go(one, name)]
        if not all(one in candidates for one in staying):
            busy = names(one.model for one in staying if one not in candidates)
            self._reasons[name] = f"it never runs beside {busy}, which may not leave now"
            return
        sets = [
            (option, victims)
            for option in options
            if (victims := cheapest(candidates, self._room.lack(option), staying, self._world)) is not None
        ]
        if not sets:
            self._reasons[name] = self._why_not(name, options)
            return
        option, victims = min(sets, key=lambda one: sum(cost(victim, self._world) for victim in one[1]))
        for victim in victims:
            self._stop(victim, Reason.EVICTED)
            for partner in self._idle_partners(victim):
                self._stop(partner, Reason.EVICTED)
        self._promise(name, option)
        self._reasons[name] = f"{names(one.model for one in victims)} makes room for it"

    def _idle_partners(self, victim: Instance) -> list[Instance]:
        """Who is of no use without the one that goes."""
        together = self._world.others(victim.model, GroupKind.TOGETHER)
        return [
            one
            for one in self._world.instances
            if one.model in together and is_ready(one) and not in_use(one, self._world)
        ]

    def _may_go(self, one: Instance, asker: str) -> bool:
        """Whether an instance may leave for `asker` now; if only later, the time is noted."""
        spec, now = self._world.models.get(one.model), self._world.now
        if not is_ready(one) or one.instance in self._stops or one.model == asker:
            return False
        if spec is None or spec.pinned or one.model in self._world.wanted:
            return False
        stays_until = (
            0.0
            if asker in self._world.wanted
            else (one.ready_at or one.changed_at) + self._world.rules.min_dwell_s
        )
        if in_use(one, self._world):
            demand = self._world.demand.get(asker)
            since = demand.since if demand and demand.since is not None else now
            stays_until = max(stays_until, since + self._world.rules.max_wait_s)
        if stays_until > now:
            self._looks.append(stays_until)
        return stays_until <= now

    def _leaving(self, blockers: list[Instance]) -> str:
        going = [one for one in self._world.instances if is_live(one) and not is_serving(one)]
        stopped = [one for one in self._world.instances if one.instance in self._stops]
        return names(one.model for one in (*blockers, *going, *stopped))

    def _why_not(self, name: str, options: list[Option]) -> str:
        possible = [option for option in options if self._room.could_ever(option)]
        if not possible:
            self._hopeless.add(name)
            return is_short_of(options[-1], self._room)
        on = {node for option in possible for node, _ in wanted(option)}
        live = [one for one in self._world.instances if is_live(one)]
        holding = [one for one in live if on & {node for node, _ in held(one)}]
        if self._promised:
            return f"its memory goes to {names(self._promised)} first"
        return f"its memory is held by {names(one.model for one in holding)}, which may not leave now"
