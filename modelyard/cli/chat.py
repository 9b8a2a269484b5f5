"""`yard chat`."""

import argparse
import sys
from typing import TYPE_CHECKING

from modelyard.cli.answering import answer, user
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client

_MORE = """

Without PROMPT it is a conversation: Ctrl-C breaks an answer off, Ctrl-D ends. A text that is piped in
is taken as the prompt:
  git diff | yard chat demo
"""


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
