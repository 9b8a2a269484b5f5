"""`yard up`."""

import argparse

from modelyard.cli.verbs import Verbs

_MORE = """

Starts the message broker and the four services (gateway, downloader, supervisor, monitor) and keeps
them running in the foreground. Ctrl-C stops them all.
"""


def register(verbs: Verbs) -> None:
    parser = verbs.local("up", "Run the yard on this machine.", _up)
    parser.description = f"{parser.description}{_MORE}"


def _up(_: argparse.Namespace) -> int:
    from modelyard.up.run import run_up

    return run_up()
