"""What tests of single services share."""

from collections.abc import AsyncIterator

import pytest

from modelyard.client import Client
from tests.support import Yard


@pytest.fixture
async def client(yard: Yard) -> AsyncIterator[Client]:
    async with Client.connect(yard.settings, yard.url) as client:
        yield client
