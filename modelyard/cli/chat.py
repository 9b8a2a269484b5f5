"""`yard chat`."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from modelyard.cli.output import emit
from modelyard.cli.text import safe
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client

_MORE = """

Without PROMPT it is a conversation: Ctrl-C breaks an answer off, Ctrl-D ends. A text that is piped in
is taken as the prompt:
  git diff | yard chat demo
"""
Message = dict[str, str]


def register(verbs: Verbs) -> None:
    parser = verbs.add("chat", "Talk to a model.", _chat, json='JSON lines, {"delta": text} each')
    parser.description = f"{parser.description}{_MORE}"
    parser.add_argument("model", metavar="MODEL", help="its name or an alias")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what to say to it")
    parser.add_argument("--system", metavar="TEXT", help="instructions that come before the prompt")


async def _chat(yard: "Client", arguments: argparse.Namespace) -> None:
    begin = [{"role": "system", "content": arguments.system}] if arguments.system else []
    if arguments.prompt is None and sys.stdin.isatty():
        from modelyard.cli.conversation import converse

        await converse(yard, arguments.model, begin, as_json=arguments.json)
        return
    prompt = arguments.prompt if arguments.prompt is not None else sys.stdin.read()
    if not prompt.strip():
        from schemas.errors import BadRequest

        raise BadRequest("There is no prompt: give one, or pipe a text in.", param="prompt")
    await answer(yard, arguments.model, [*begin, user(prompt)], [], as_json=arguments.json)


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
