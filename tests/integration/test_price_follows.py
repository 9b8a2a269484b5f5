"""The prices of a renamed model."""

from decimal import Decimal

from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import Role
from schemas.prices import ListPrices, Price, PutPrice, Tier
from schemas.registry import PutModel, RenameModel
from services.supervisor.service import main
from tests.integration.monitor_service import monitor
from tests.support import Yard, eventually


async def test_prices_follow_a_renamed_model(yard: Yard, settings: Settings) -> None:
    operator = await yard.bus()
    async with monitor(yard), Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        await operator.call(subjects.MODEL_PUT, PutModel(name="old", path="m.gguf"))
        price = Price(valid_from=1.0, tiers=(Tier(input=Decimal(3)),))
        await operator.call(subjects.PRICE_PUT, PutPrice(model="old", price=price))
        await operator.call(subjects.MODEL_RENAME, RenameModel(model="old", name="new"))

        async def has_moved() -> bool:
            listed = (await operator.call(subjects.PRICE_LIST, ListPrices())).prices
            return [(entry.model, entry.prices) for entry in listed] == [("new", (price,))]

        await eventually(has_moved, "the price under the new name", timeout_s=5)
