"""Print every event with plain nats-py: .venv/bin/python examples/watch_events.py NATS_URL SEED_FILE."""

import asyncio
import sys

import nats


async def main(url: str, seed_file: str) -> None:
    connection = await nats.connect(url, nkeys_seed=seed_file)
    events = await connection.subscribe("yard.event.>")
    async for event in events.messages:
        print((event.headers or {}).get("ce-time"), event.subject, event.data.decode(), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2]))
