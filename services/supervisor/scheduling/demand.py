"""What is asked for: requests in the queue, and people's wishes, with the time since when nobody serves."""

from collections.abc import Collection, Iterable, Mapping

from schemas.placing import DesiredState, WaitingModel
from services.supervisor.planning.world import Demand

WISH_S = 120.0
"""A wish to start that cannot be fulfilled is forgotten after so long."""


class Demands:
    """Remembers since when each model waits, and what people said last of each."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._wishes: dict[str, DesiredState] = {}

    @property
    def wishes(self) -> Mapping[str, DesiredState]:
        """By model; neither fulfilled nor overtaken."""
        return self._wishes

    @property
    def wanted(self) -> frozenset[str]:
        """Models that somebody asked to start."""
        return frozenset(model for model, wish in self._wishes.items() if wish.running)

    @property
    def held(self) -> frozenset[str]:
        """Models that somebody stopped, and nobody asked for since they were gone."""
        return frozenset(model for model, wish in self._wishes.items() if not wish.running)

    def restore(self, wishes: Iterable[DesiredState], waits: Iterable[WaitingModel]) -> None:
        """Go on from what another scheduler left."""
        self._wishes = {wish.model: wish for wish in wishes}
        self._since = {wait.model: wait.since for wait in waits}

    def wish(self, model: str, now: float) -> None:
        """Somebody wants it started."""
        self._wishes[model] = DesiredState(model=model, running=True, at=now)

    def hold(self, model: str, now: float) -> None:
        """Somebody stopped it."""
        self._wishes[model] = DesiredState(model=model, running=False, at=now)

    def renew(self, models: Collection[str], now: float) -> None:
        """What people wished of these goes on long; their wishes are as good as new."""
        for model in self.wanted & set(models):
            if now > self._wishes[model].at + WISH_S / 2:
                self.wish(model, now)

    def fulfilled(self, models: Collection[str]) -> None:
        """These are there, or on their way, or cannot be had."""
        for model in self.wanted & set(models):
            del self._wishes[model]

    def look(
        self, waiting: Mapping[str, int], served: Collection[str], living: Collection[str], now: float
    ) -> dict[str, Demand]:
        """The demand of each model now; `served` have an instance that is ready, `living` one at all."""
        asked = {model for model, count in waiting.items() if count}
        for wish in tuple(self._wishes.values()):
            late = wish.running and now > wish.at + WISH_S
            if late or (not wish.running and wish.model in asked and wish.model not in living):
                del self._wishes[wish.model]
        asked |= self.wanted
        for model in self._since.keys() - asked | self._since.keys() & set(served):
            del self._since[model]
        for model in asked - set(served):
            self._since.setdefault(model, now)
        return {model: Demand(waiting=waiting.get(model, 0), since=self._since.get(model)) for model in asked}
