"""Chat over NATS, without HTTP: .venv/bin/python examples/chat_nats.py [MODEL]."""

import asyncio
import sys

from modelyard import Client


async def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "demo"
    async with Client.connect() as yard:
        async for text in yard.chat(model, [{"role": "user", "content": "Hello!"}]):
            print(text, end="", flush=True)
    print()


asyncio.run(main())
