"""What is asked for: requests in the queue, and people's wishes, with the time since when nobody serves."""

from collections.abc import Collection, Mapping

from services.supervisor.planning.world import Demand

WISH_S = 120.0
"""A wish that cannot be fulfilled is forgotten after so long."""


class Demands:
    """Remembers since when each model waits."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._wishes: dict[str, float] = {}
        self._held: set[str] = set()

    @property
    def wanted(self) -> frozenset[str]:
        """Models that somebody asked to start."""
        return frozenset(self._wishes)

    @property
    def held(self) -> frozenset[str]:
        """Models that somebody stopped, and nobody asked for since they were gone."""
        return frozenset(self._held)

    def wish(self, model: str, now: float) -> None:
        """Somebody wants it started."""
        self._wishes[model] = now
        self._held.discard(model)

    def hold(self, model: str) -> None:
        """Somebody stopped it."""
        self._wishes.pop(model, None)
        self._held.add(model)

    def forget(self, model: str) -> None:
        """It cannot be had."""
        self._wishes.pop(model, None)

    def fulfilled(self, models: Collection[str]) -> None:
        """These are there, or on their way."""
        for model in models:
            self._wishes.pop(model, None)

    def look(
        self, waiting: Mapping[str, int], served: Collection[str], living: Collection[str], now: float
    ) -> dict[str, Demand]:
        """The demand of each model now; `served` have an instance that is ready, `living` one at all."""
        for model, at in tuple(self._wishes.items()):
            if now > at + WISH_S:
                del self._wishes[model]
        self._held -= {model for model, count in waiting.items() if count and model not in living}
        asked = {model for model, count in waiting.items() if count} | self._wishes.keys()
        for model in self._since.keys() - asked | self._since.keys() & set(served):
            del self._since[model]
        for model in asked - set(served):
            self._since.setdefault(model, now)
        return {model: Demand(waiting=waiting.get(model, 0), since=self._since.get(model)) for model in asked}
