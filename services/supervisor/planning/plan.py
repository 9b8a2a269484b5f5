"""The plan: which instances stop, which start, what is evicted for them, and why models wait."""

from schemas.instances import Instance, Reason
from schemas.placement import Option
from schemas.registry import GroupKind
from services.supervisor.planning.evictions import (
    Retirements,
    cheapest_victims,
    eviction_cost,
    is_in_use,
    retire,
)
from services.supervisor.planning.memory_budget import MemoryBudget, required_by, reserved_by
from services.supervisor.planning.world import (
    FetchOption,
    PlacementPlan,
    PlannedFetch,
    PlannedStart,
    PlannedStop,
    World,
    is_live,
    is_ready,
    is_serving,
    is_starting,
    join_names,
)


def make_plan(world: World) -> PlacementPlan:
    """The decisions for this world; equal worlds give equal plans."""
    builder = _PlanBuilder(world)
    builder.retire(retire(world))
    for name in sorted(world.models, key=lambda name: _precedence(world, name)):
        if desired_replicas(world, name) > len(world.serving(name)):
            builder.provide(name)
    builder.explain_starting()
    return builder.build()


def desired_replicas(world: World, name: str) -> int:
    """How many instances of a model there should be."""
    if name in world.stop_requested:
        return 0
    spec, serving = world.models[name], world.serving(name)
    least = max(spec.replicas.min, int(spec.autostart), int(_may_evict(world, name)))
    slots = sum(instance.slots or spec.n_parallel for instance in serving)
    if serving and all(map(is_ready, serving)) and world.queued(name) > slots:
        return min(max(least, len(serving) + 1), max(spec.replicas.max, least))
    return least


def _may_evict(world: World, name: str) -> bool:
    """Whether others may be evicted for it: not for a model that only stays loaded."""
    if any(map(world.is_demanded, (name, *world.partners(name, GroupKind.TOGETHER)))):
        return True
    # An edit must not leave a model unloaded that was loaded.
    return any(
        instance.reason is Reason.REPLACED or instance.instance in world.outdated
        for instance in world.instances_of(name)
    )


def _precedence(world: World, name: str) -> tuple[bool, int, float, str]:
    """Start commands first, then by priority, then by how long it has waited."""
    return (name not in world.start_requested, -world.models[name].priority, world.waiting_since(name), name)


class _PlanBuilder:
    def __init__(self, world: World) -> None:
        self._world = world
        self._memory = MemoryBudget(world.nodes, world.instances)
        self._starts: list[PlannedStart] = []
        self._stops: dict[str, PlannedStop] = {}
        self._fetches: list[PlannedFetch] = []
        self._reasons: dict[str, str] = {}
        self._unsatisfiable: set[str] = set()
        self._due_at: list[float] = []
        """When a time limit passes that may change the plan."""
        self._reserved_for: list[str] = []
        """Models that have memory in this plan, free or about to be."""

    def build(self) -> PlacementPlan:
        return PlacementPlan(
            starts=tuple(self._starts),
            stops=tuple(self._stops.values()),
            fetches=tuple(self._fetches),
            reasons=self._reasons,
            unsatisfiable=frozenset(self._unsatisfiable),
            next_evaluation_at=min((at for at in self._due_at if at > self._world.now), default=None),
        )

    def explain_starting(self) -> None:
        """Demanded models whose instances are all starting wait for that."""
        for name in self._world.models:
            serving = self._world.serving(name)
            if self._world.is_demanded(name) and serving and all(map(is_starting, serving)):
                self._reasons[name] = "it is being started"

    def retire(self, retired: Retirements) -> None:
        for instance, reason in retired.stops:
            self._stop(instance, reason)
        self._due_at += retired.due_at

    def provide(self, name: str) -> None:
        """Plan one more instance of this model, or the reason why not."""
        if (reason := self._must_wait(name)) is not None:
            self._reasons[name] = reason
            return
        options = self._options(name)
        if self._needs_fetch(name, options) and self._fetch(name):
            return
        if not options:
            self._reasons[name] = self._explain_no_option(name)
            return
        apart = self._world.partners(name, GroupKind.APART)
        if starting := [start.model for start in self._starts if start.model in apart]:
            self._reasons[name] = f"it never runs beside {join_names(starting)}, which is being started"
            return
        blockers = list(filter(is_live, self._world.instances_of_any(apart)))
        fitting = None if blockers else next(filter(self._memory.fits_now, options), None)
        if fitting is not None:
            self._start(name, fitting)
        elif not self._world.serving(name):
            self._make_room(name, options, blockers)

    def _must_wait(self, name: str) -> str | None:
        own = self._world.instances_of(name)
        if any(map(is_starting, own)):
            return "it is being started"
        retry_at = max((instance.retry_at or 0.0 for instance in own), default=0.0)
        # A start command skips the back-off.
        if name in self._world.start_requested or retry_at <= self._world.now:
            return None
        self._due_at.append(retry_at)
        how = "it failed too often" if any(instance.circuit_open for instance in own) else "it failed"
        return f"{how}; it is tried again in {retry_at - self._world.now:.0f} s"

    def _options(self, name: str) -> list[Option]:
        options = self._world.options.get(name, ())
        return [option for option in options if self._takes_starts(option.node)]

    def _takes_starts(self, node: str) -> bool:
        return node in self._world.nodes and not self._world.nodes[node].cordoned

    def _needs_fetch(self, name: str, options: list[Option]) -> bool:
        """Whether no node that has its files could ever hold the missing instances.

        Nothing is fetched for more instances than there must be.
        """
        serving = self._world.serving(name)
        if serving and len(serving) >= self._world.models[name].replicas.min:
            return False
        if name in self._world.problems:
            return True
        return not any(self._memory.fits_beside(option, serving) for option in options)

    def _fetch(self, name: str) -> bool:
        """Plan a fetch of its files, or explain the fetch that runs or failed; False if there is none."""
        if (progress := self._world.fetches_running.get(name)) is not None:
            self._reasons[name] = progress
        elif (fetch := self._best_fetch(name)) is not None:
            node = fetch.option.node
            self._fetches.append(PlannedFetch(model=name, node=node))
            size = f"{fetch.size} " if fetch.size else ""
            self._reasons[name] = f"its files are brought to {node} first, {size}from {fetch.source}"
        elif (problem := self._world.fetches_failed.get(name)) is not None:
            self._reasons[name] = problem
            self._unsatisfiable.add(name)
        else:
            return False
        return True

    def _best_fetch(self, name: str) -> FetchOption | None:
        """To a node on which it could start at once, else to one that is large enough."""
        options = self._world.fetch_options.get(name, ())
        usable = (fetch for fetch in options if self._takes_starts(fetch.option.node))
        possible = [fetch for fetch in usable if self._memory.fits_when_empty(fetch.option)]
        at_once = (fetch for fetch in possible if self._memory.fits_now(fetch.option))
        return next(at_once, next(iter(possible), None))

    def _explain_no_option(self, name: str) -> str:
        nodes = [option.node for option in self._world.options.get(name, ())]
        if nodes:
            return f"{join_names(nodes)} could run it, but is cordoned"
        return self._world.problems.get(name, "no node that could run it is known yet")

    def _start(self, name: str, option: Option) -> None:
        self._reserve(name, option)
        own = self._world.instances_of(name)
        # A start command closes the circuit.
        is_requested = name in self._world.start_requested
        failures = 0 if is_requested else max((instance.failures for instance in own), default=0)
        self._starts.append(PlannedStart(model=name, option=option, failures=failures))

    def _reserve(self, name: str, option: Option) -> None:
        self._memory.reserve(option)
        self._reserved_for.append(name)

    def _stop(self, instance: Instance, reason: Reason) -> None:
        if instance.instance not in self._stops:
            self._memory.release_later(instance)
            self._stops[instance.instance] = PlannedStop(
                instance=instance.instance, model=instance.model, node=instance.node, reason=reason
            )

    def _make_room(self, name: str, options: list[Option], blockers: list[Instance]) -> None:
        """Wait for memory that is being released, or evict the cheapest; it is reserved either way."""
        running = [
            instance for instance in blockers if is_serving(instance) and instance.instance not in self._stops
        ]
        soon = next((option for option in options if not self._memory.shortfall(option)), None)
        if soon is not None and not running:
            self._reserve(name, soon)
            self._reasons[name] = f"it waits for the memory that {self._releasing(blockers)} gives back"
            return
        if not _may_evict(self._world, name) and any(map(self._memory.fits_when_empty, options)):
            self._reasons[name] = "it starts as soon as there is room; nothing is evicted for it"
            return
        candidates = [instance for instance in self._world.instances if self._is_evictable(instance, name)]
        if not all(blocker in candidates for blocker in running):
            unevictable = join_names(instance.model for instance in running if instance not in candidates)
            self._reasons[name] = f"it never runs beside {unevictable}, which cannot be evicted now"
            return
        choices = [
            (option, victims)
            for option in options
            if (victims := cheapest_victims(candidates, self._memory.shortfall(option), running, self._world))
            is not None
        ]
        if not choices:
            self._reasons[name] = self._explain_no_room(name, options)
            return
        option, victims = min(
            choices, key=lambda choice: sum(eviction_cost(instance, self._world) for instance in choice[1])
        )
        for victim in victims:
            self._stop(victim, Reason.EVICTED)
            for partner in self._idle_partners(victim):
                self._stop(partner, Reason.EVICTED)
        self._reserve(name, option)
        self._reasons[name] = f"{join_names(victim.model for victim in victims)} makes room for it"

    def _idle_partners(self, victim: Instance) -> list[Instance]:
        """Instances that are of no use without the victim."""
        together = self._world.partners(victim.model, GroupKind.TOGETHER)
        ready = filter(is_ready, self._world.instances_of_any(together))
        return [instance for instance in ready if not is_in_use(instance, self._world)]

    def _is_evictable(self, instance: Instance, for_model: str) -> bool:
        """Whether an instance may be evicted for a model now; if only later, the time is noted."""
        world = self._world
        spec = world.models.get(instance.model)
        if not is_ready(instance) or instance.instance in self._stops or instance.model == for_model:
            return False
        if spec is None or spec.pinned or instance.model in world.start_requested:
            return False
        evictable_at = 0.0
        if for_model not in world.start_requested:
            evictable_at = (instance.ready_at or instance.changed_at) + world.limits.min_dwell_s
        if is_in_use(instance, world):
            evictable_at = max(evictable_at, world.waiting_since(for_model) + world.limits.max_wait_s)
        if evictable_at > world.now:
            self._due_at.append(evictable_at)
        return evictable_at <= world.now

    def _releasing(self, blockers: list[Instance]) -> str:
        stopping = [
            instance for instance in self._world.instances if is_live(instance) and not is_serving(instance)
        ]
        planned = [instance for instance in self._world.instances if instance.instance in self._stops]
        return join_names(instance.model for instance in (*blockers, *stopping, *planned))

    def _explain_no_room(self, name: str, options: list[Option]) -> str:
        possible = [option for option in options if self._memory.fits_when_empty(option)]
        if not possible:
            self._unsatisfiable.add(name)
            return self._memory.explain_shortfall(options[-1])
        if self._reserved_for:
            return f"its memory goes to {join_names(self._reserved_for)} first"
        nodes = {node for option in possible for node, _ in required_by(option)}
        live = filter(is_live, self._world.instances)
        holders = (instance.model for instance in live if nodes & {node for node, _ in reserved_by(instance)})
        return f"its memory is held by {join_names(holders)}, which cannot be evicted now"
