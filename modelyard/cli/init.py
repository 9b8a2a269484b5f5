"""`yard init`: prepare a home for a stack whose parts are started one by one, as in compose.yaml."""

import argparse
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.cli.output import say
from modelyard.cli.verbs import WRONG_SETTING, Verbs, complain

if TYPE_CHECKING:
    from modelyard.host.settings import Settings

_SUMMARY = "Make credentials, a broker configuration and an API key, for parts started one by one."


def register(verbs: Verbs) -> None:
    parser = verbs.local("init", _SUMMARY, run)
    parser.add_argument("--nats-host", default="127.0.0.1", help="where the broker listens (%(default)s)")
    parser.add_argument("--nats-port", default=4222, type=port, help="its port (%(default)s)")
    parser.add_argument("--nats-store", type=Path, help="where it keeps its data (YARD_HOME/nats)")


def port(text: str) -> int:
    """A port that a broker can listen on and others can be told of."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port; give a number from 1 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """What is there already stays as it is, but for the broker's configuration."""
    from modelyard.host.settings import SettingsError, load

    try:
        _prepare(load(), arguments)
    except SettingsError as error:
        complain(str(error))
        return WRONG_SETTING
    except OSError as error:
        complain(f"{error.filename} cannot be written: {error.strerror}.")
        return WRONG_SETTING
    return 0


def _prepare(settings: "Settings", arguments: argparse.Namespace) -> None:
    from modelyard.host import home
    from modelyard.host.broker import configuration
    from modelyard.host.credentials import ensure_seeds

    home.prepare(settings)
    ensure_seeds(settings.credentials)
    config = home.broker_config(settings)
    store = arguments.nats_store or settings.home / "nats"
    config.write_text(
        configuration(settings.credentials, store, host=arguments.nats_host, port=arguments.nats_port),
        encoding="utf-8",
    )
    say(f"The broker's configuration is {config}.")
    _ensure_api_key(settings)


def _ensure_api_key(settings: "Settings") -> None:
    """One random key where there is none; shown this once, and never again."""
    from modelyard.host.credentials import API_KEYS

    path = settings.credentials / API_KEYS
    if path.exists() and path.read_text().strip():
        say(f"API keys are in {path}.")
        return
    key = f"yard-{secrets.token_urlsafe(24)}"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(key + "\n")
    say(f"Your API key, also in {path}: {key}")
