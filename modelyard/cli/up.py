"""`yard up`."""

import argparse

from modelyard.cli.verbs import WRONG_COMMAND, Verbs, complain

_MORE = """

Starts the message broker and the four services (gateway, downloader, supervisor, monitor) and keeps
them running in the foreground. Ctrl-C stops them all.

Several machines: `yard up --listen ADDRESS` on the first, `yard invite` there, and `yard up --join` on
each of the others, which asks for the invitation once. What they say to each other is not encrypted.
"""


def register(verbs: Verbs) -> None:
    parser = verbs.local("up", "Run the yard on this machine.", _up)
    parser.description = f"{parser.description}{_MORE}"
    parser.add_argument(
        "--listen", metavar="ADDRESS", help="let machines of a network you trust join here (YARD_NATS_HOST)"
    )
    parser.add_argument(
        "--join",
        nargs="?",
        const="",
        metavar="URL",
        help="work for another machine's yard, at nats://HOST:PORT or where it is found",
    )
    parser.add_argument("--gateway", action="store_true", help="with --join: run a gateway here too")


def _up(arguments: argparse.Namespace) -> int:
    from modelyard.up.run import UpOptions, run_up

    join: str | None = arguments.join
    if join and not join.startswith("nats://"):
        complain(f"{join} is not a broker's URL; it looks like nats://host:4222.")
        return WRONG_COMMAND
    if join is not None and arguments.listen:
        complain("A machine that joins has no broker of its own: give --join or --listen, not both.")
        return WRONG_COMMAND
    return run_up(
        UpOptions(listen=arguments.listen, join=join is not None, url=join or None, gateway=arguments.gateway)
    )
