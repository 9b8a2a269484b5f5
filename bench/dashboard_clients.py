"""`python -m bench.dashboard_clients URL COUNT`: open dashboards."""

import asyncio
import sys

import aiohttp


async def main(url: str, count: int) -> None:
    """Receive until killed; prints a line once all are connected."""
    async with aiohttp.ClientSession() as session:
        sockets = [await session.ws_connect(url, max_msg_size=0) for _ in range(count)]
        print("watching", flush=True)
        await asyncio.gather(*(_read(socket) for socket in sockets))


async def _read(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in socket:
        pass


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
