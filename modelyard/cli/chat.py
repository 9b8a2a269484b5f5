"""`yard chat`: one prompt, or a conversation on a terminal."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing

from modelyard.cli.output import ask, print_error, print_json
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import online
from modelyard.client import Client
from modelyard.text import printable
from schemas.errors import BadRequest, BrokerUnavailable, ServiceUnavailable, YardError

_CHAT = """
Without PROMPT it is a conversation: Ctrl-C interrupts an answer, Ctrl-D ends. Piped text is the prompt:
  git diff | yard chat demo
"""

Message = dict[str, str]


def register(verbs: Mapping[str, VerbParser]) -> None:
    chat = verbs["chat"]
    chat.describe(_CHAT)
    chat.add_argument("model")
    chat.add_argument("prompt", nargs="?", help="the message to it")
    chat.add_argument("--system", metavar="TEXT", help="instructions before the prompt")
    online(chat, _chat, json='JSON lines, {"delta": text} each')


async def _chat(yard: Client, arguments: argparse.Namespace) -> None:
    system = [{"role": "system", "content": arguments.system}] if arguments.system else []
    if arguments.prompt is None and sys.stdin.isatty():
        await _converse(yard, arguments.model, system, as_json=arguments.json)
        return
    prompt = arguments.prompt if arguments.prompt is not None else sys.stdin.read()
    if not prompt.strip():
        raise BadRequest("There is no prompt: give one, or pipe a text in.", param="prompt")
    await _answer(yard, arguments.model, [*system, _user(prompt)], [], as_json=arguments.json)


def _user(prompt: str) -> Message:
    return {"role": "user", "content": prompt}


async def _answer(
    yard: Client, model: str, messages: Sequence[Message], printed: list[str], *, as_json: bool
) -> None:
    try:
        async with aclosing(yard.chat(model, messages)) as pieces:
            async for text in pieces:
                printed.append(text)
                if as_json:
                    print_json({"delta": text})
                else:
                    print(printable(text), end="", flush=True)
    finally:
        if not as_json and printed and not printed[-1].endswith("\n"):
            print(flush=True)


async def _converse(yard: Client, model: str, system: Sequence[Message], *, as_json: bool) -> None:
    """Turn after turn until the end of input; an error in one turn is printed and the turn forgotten."""
    messages = list(system)
    while (prompt := await ask("> ")) is not None:
        if not prompt.strip():
            continue
        printed: list[str] = []
        try:
            turn = [*messages, _user(prompt)]
            await _interruptible(_answer(yard, model, turn, printed, as_json=as_json))
        except (BrokerUnavailable, ServiceUnavailable):
            raise
        except YardError as error:
            print_error(error.message)
            continue
        messages += [_user(prompt), {"role": "assistant", "content": "".join(printed)}]


async def _interruptible(answer: Coroutine[None, None, None]) -> None:
    task = asyncio.ensure_future(answer)
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
    if not task.cancelled():
        task.result()
