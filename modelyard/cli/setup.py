"""`yard up`, `init`, `invite`, `expel` and `settings`: the yard of this machine."""

import argparse
import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelyard.cli.output import print_error, print_json, print_line
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import REFUSED, WRONG_COMMAND, WRONG_SETTING, local
from modelyard.host import home
from modelyard.host import settings as host_settings
from modelyard.host.broker import BrokerMissing, configuration, reload
from modelyard.host.credentials import API_KEYS, ensure_seeds, forget_member
from modelyard.host.settings import Settings, SettingsError, load
from modelyard.up.child import StartupError
from modelyard.up.inviter import Inviter, broker_address
from modelyard.up.run import UpOptions, run_up

_INVITATION_TIMEOUT_S = 600
_MASK = "***"
_UP = """
Starts the message broker and the four services (gateway, downloader, supervisor, monitor) and keeps
them running in the foreground. Ctrl-C stops them all.

Several machines: `yard up --listen ADDRESS` on the first, `yard invite` there, and `yard up --join` on
each of the others, which needs the invitation once. Traffic between machines is not encrypted.
"""
_INVITE = """
Prints an invitation for one machine and waits until that has joined; it is valid for ten minutes. There:
  yard up --join

A valid invitation is as good as a key: hand it over where no one else reads it.
"""
_SETTINGS = """
A setting is an environment variable, read when a process starts. Secrets are masked.
"""


def register(verbs: Mapping[str, VerbParser]) -> None:
    up = verbs["up"]
    up.describe(_UP)
    text = "let machines of a network that you trust join here (YARD_NATS_HOST)"
    up.add_argument("--listen", metavar="ADDRESS", help=text)
    text = "work for another machine's yard, at nats://HOST:PORT or where it is found"
    up.add_argument("--join", nargs="?", const="", metavar="URL", help=text)
    up.flag("--gateway", text="with --join: run a gateway here too")
    local(up, _up)
    init = verbs["init"]
    init.add_argument("--nats-host", default="127.0.0.1", help="address of the broker (default: %(default)s)")
    text = "port of the broker (default: %(default)s)"
    init.add_argument("--nats-port", default=4222, type=parse_port, help=text)
    init.add_argument("--nats-store", type=Path, help="data folder of the broker (default: YARD_HOME/nats)")
    _guarded(init, _init)
    invite = verbs["invite"]
    invite.describe(_INVITE)
    invite.flag("--gateway", text="it may run a gateway as well")
    text = "port on which it joins (default: any free one)"
    invite.add_argument("--port", type=parse_port, default=0, help=text)
    _guarded(invite, _invite)
    verbs["expel"].add_argument("node")
    _guarded(verbs["expel"], _expel)
    verbs["settings"].describe(_SETTINGS)
    verbs["settings"].flag("--json", text="print a JSON list, for programs")
    _guarded(verbs["settings"], _settings)


def parse_port(text: str) -> int:
    """A port that a broker can listen on and others can connect to."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port; give a number from 1 to 65535")
    return int(text)


def _guarded(parser: VerbParser, run: Callable[[Settings, argparse.Namespace], int]) -> None:
    """A verb for which a wrong setting or a folder that cannot be written becomes a sentence."""

    def guarded(arguments: argparse.Namespace) -> int:
        try:
            return run(load(), arguments)
        except BrokenPipeError:
            raise
        except (SettingsError, StartupError) as error:
            print_error(str(error))
        except OSError as error:
            print_error(f"{error.filename} cannot be written: {error.strerror}.")
        return WRONG_SETTING

    local(parser, guarded)


def _up(arguments: argparse.Namespace) -> int:
    join: str | None = arguments.join
    if join and not join.startswith("nats://"):
        print_error(f"{join} is not a broker's URL; it looks like nats://host:4222.")
        return WRONG_COMMAND
    if join is not None and arguments.listen:
        print_error("A machine that joins has no broker of its own: give --join or --listen, not both.")
        return WRONG_COMMAND
    return run_up(
        UpOptions(listen=arguments.listen, join=join is not None, url=join or None, gateway=arguments.gateway)
    )


def _init(settings: Settings, arguments: argparse.Namespace) -> int:
    """Existing files stay as they are, except the broker's configuration."""
    home.prepare(settings)
    ensure_seeds(settings.credentials)
    config = home.broker_config(settings)
    store = arguments.nats_store or settings.home / "nats"
    text = configuration(settings.credentials, store, host=arguments.nats_host, port=arguments.nats_port)
    config.write_text(text, encoding="utf-8")
    print_line(f"The broker's configuration is {config}.")
    keys = settings.credentials / API_KEYS
    if keys.exists() and keys.read_text().strip():
        print_line(f"API keys are in {keys}.")
        return 0
    key = f"yard-{secrets.token_urlsafe(24)}"
    with os.fdopen(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(key + "\n")
    print_line(f"Your API key, also in {keys}: {key}")
    return 0


def _invite(settings: Settings, arguments: argparse.Namespace) -> int:
    async def wait() -> str | None:
        inviter = Inviter(settings, broker_address(settings), gateway=arguments.gateway)
        return await inviter.run(arguments.port, _INVITATION_TIMEOUT_S, _show_invitation)

    joined = asyncio.run(wait())
    if joined is None:
        print_error("No machine joined; the invitation is no longer valid.")
        return REFUSED
    print_line(f"{joined} has joined.")
    return 0


def _show_invitation(invitation: str) -> None:
    print_line("On the other machine: yard up --join")
    print_line("It asks for this invitation, which is valid for ten minutes and for one machine:\n")
    print_line(invitation + "\n")


def _expel(settings: Settings, arguments: argparse.Namespace) -> int:
    if not forget_member(settings.credentials, arguments.node):
        print_error(f"No machine {arguments.node} has joined the yard of this home.")
        return REFUSED
    # A broker that does not run reads the changed logins at its next start.
    with contextlib.suppress(BrokerMissing):
        reload(settings.credentials, home.broker_config(settings))
    print_line(f"{arguments.node} cannot log in any more.")
    return 0


def _settings(settings: Settings, arguments: argparse.Namespace) -> int:
    rows = settings_rows(settings, os.environ)
    if arguments.json:
        print_json(rows)
        return 0
    for row in rows:
        default = f"default: {row['default']}" if row["default"] not in (None, row["value"]) else ""
        note = default or "default" if row["source"] == "default" else f"environment; {default}".strip("; ")
        print_line(f"{row['name']}={row['value'] or ''}  ({note})\n    {row['meaning']}")
    for name in host_settings.unknown():
        print_error(f"there is no setting {name}; it is ignored.")
    return 0


def settings_rows(settings: Settings, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every setting with its value, the source of that, the default and the meaning."""
    entries = [
        (entry.variable, entry.meaning, entry.default_text, entry.written(getattr(settings, entry.field)))
        for entry in host_settings.TABLE
    ]
    libraries = host_settings.LIBRARY_VARIABLES.items()
    entries += [(name, meaning, "", environ.get(name, "")) for name, meaning in libraries]
    return [
        {
            "name": name,
            "value": _masked(name, value) or None,
            "source": "environment" if environ.get(name, "").strip() else "default",
            "default": default.replace("`", "") or None,
            "meaning": meaning.replace("`", ""),
        }
        for name, meaning, default, value in entries
    ]


def _masked(name: str, value: str) -> str:
    if value and re.search(r"TOKEN|SECRET|PASSWORD", name):
        return _MASK
    return re.sub(r"(?<=://)[^/@]+(?=@)", _MASK, value)
