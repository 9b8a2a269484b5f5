"""`yard invite` and `yard expel`: who belongs to the yard of this home."""

import argparse
import asyncio

from modelyard.cli.init import port
from modelyard.cli.output import say
from modelyard.cli.verbs import REFUSED, WRONG_SETTING, Verbs, complain

_TIMEOUT_S = 600
_MORE = """

Prints an invitation for one machine and waits until that has joined; it is good for ten minutes. There:
  yard up --join

The invitation is as good as a key for as long as it is good: hand it over where nobody else reads.
"""


def register(verbs: Verbs) -> None:
    parser = verbs.local("invite", "Let another machine join the yard that runs here.", _invite)
    parser.description = f"{parser.description}{_MORE}"
    parser.add_argument("--gateway", action="store_true", help="it may run a gateway as well")
    parser.add_argument("--port", type=port, default=0, help="where to wait for it (any free port)")
    parser = verbs.local("expel", "Take away the logins of a machine that joined.", _expel)
    parser.add_argument("node", metavar="NODE", help="its name, as `yard nodes` shows it")


def _invite(arguments: argparse.Namespace) -> int:
    from modelyard.host.settings import SettingsError, load
    from modelyard.up.child import CannotStart
    from modelyard.up.inviting import Inviting, listening

    async def wait() -> str | None:
        settings = load()
        inviting = Inviting(settings, listening(settings), gateway=arguments.gateway)
        return await inviting.run(arguments.port, _TIMEOUT_S, _show)

    try:
        joined = asyncio.run(wait())
    except (SettingsError, CannotStart) as error:
        complain(str(error))
        return WRONG_SETTING
    if joined is None:
        complain("Nobody came; the invitation is not good any more.")
        return REFUSED
    say(f"{joined} has joined.")
    return 0


def _show(invitation: str) -> None:
    say("On the other machine: yard up --join")
    say("It asks for this invitation, which is good for ten minutes and for one machine:\n")
    say(invitation + "\n")


def _expel(arguments: argparse.Namespace) -> int:
    from modelyard.host.broker import BrokerMissing, reload
    from modelyard.host.credentials import forget_member
    from modelyard.host.home import broker_config
    from modelyard.host.settings import SettingsError, load

    try:
        settings = load()
        if not forget_member(settings.credentials, arguments.node):
            complain(f"No machine {arguments.node} has joined the yard of this home.")
            return REFUSED
        reload(settings.credentials, broker_config(settings))
    except SettingsError as error:
        complain(str(error))
        return WRONG_SETTING
    except BrokerMissing:
        # The next start does not know it any more.
        pass
    say(f"{arguments.node} cannot log in any more.")
    return 0
