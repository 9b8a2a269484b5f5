"""Any inference path over plain NATS: .venv/bin/python examples/infer_nats.py [ENDPOINT] [MODEL] [SEED FILE].

The answer is several replies, the last one empty; a message to `yard.cancel.ID` cancels it.
"""

import asyncio
import json
import os
import sys
import uuid

import nats

DEFAULTS = ("chat", "demo", os.path.expanduser("~/.local/share/modelyard/keys/operator.nk"))  # noqa: PTH111


async def main() -> None:
    endpoint, model, seed = (*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :])
    connection = await nats.connect("nats://127.0.0.1:4222", nkeys_seed=seed)
    inbox = connection.new_inbox()
    replies = await connection.subscribe(inbox)
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    request = uuid.uuid4().hex
    await connection.publish(
        f"yard.command.openai.{endpoint}",
        json.dumps(body).encode(),
        reply=inbox,
        headers={"Yard-Request": request},
    )
    try:
        while part := (await replies.next_msg(timeout=600)).data:
            sys.stdout.write(part.decode())
    finally:
        await connection.publish(f"yard.cancel.{request}", b"")
        await connection.close()


asyncio.run(main())
