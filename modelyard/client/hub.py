"""The hub for scripts: what it has, what a repository offers, and models of files that are here."""

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.hub import AskOffer, HubModel, Offer, SearchHub
from schemas.registering import Registered, RegisterFiles


class Hub:
    """Asks the downloader, which asks the hub."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def search(self, asked: SearchHub) -> tuple[HubModel, ...]:
        """Models on the hub, in the order asked for."""
        return (await self._bus.call(subjects.HUB_SEARCH, asked)).models

    async def offer(self, reference: str, n_ctx: int | None = None) -> Offer:
        """What a repository offers, and what fits which node. Nothing is fetched but a few bytes."""
        return await self._bus.call(subjects.HUB_OFFER, AskOffer(reference=reference, n_ctx=n_ctx))

    async def register(self, asked: RegisterFiles) -> Registered:
        """Make a model of files in the store; what nobody says is guessed."""
        return await self._bus.call(subjects.FILES_REGISTER, asked)
