"""A model that is renamed goes on costing what it did."""

import asyncio
from decimal import Decimal

from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import Role
from schemas.prices import ListPrices, Price, PutPrice, Tier
from schemas.registry import PutModel, RenameModel
from services.supervisor.service import main
from tests.integration.test_monitor import monitor
from tests.support import Yard


async def test_the_price_of_a_model_follows_its_name(yard: Yard, settings: Settings) -> None:
    operator = await yard.bus()
    async with monitor(yard), Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        await operator.call(subjects.MODEL_PUT, PutModel(name="old", path="m.gguf"))
        price = Price(valid_from=1.0, tiers=(Tier(input=Decimal(3)),))
        await operator.call(subjects.PRICE_PUT, PutPrice(model="old", price=price))
        await operator.call(subjects.MODEL_RENAME, RenameModel(model="old", name="new"))
        async with asyncio.timeout(5):
            while True:
                listed = (await operator.call(subjects.PRICE_LIST, ListPrices())).prices
                if [(one.model, one.prices) for one in listed] == [("new", (price,))]:
                    break
                await asyncio.sleep(0.02)
