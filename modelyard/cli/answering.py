"""One answer of a model, printed as it comes."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from modelyard.cli.output import emit
from modelyard.cli.text import safe

if TYPE_CHECKING:
    from modelyard.client import Client

Message = dict[str, str]


def user(prompt: str) -> Message:
    """What a person says, as a message."""
    return {"role": "user", "content": prompt}


async def answer(
    yard: "Client", model: str, messages: Sequence[Message], said: list[str], *, as_json: bool
) -> None:
    """Print the answer as it comes, and note in `said` what was printed, however it ends."""
    try:
        async with aclosing(yard.chat(model, messages)) as pieces:
            async for text in pieces:
                said.append(text)
                if as_json:
                    emit({"delta": text})
                else:
                    print(safe(text), end="", flush=True)
    finally:
        if not as_json and said and not said[-1].endswith("\n"):
            print(flush=True)
