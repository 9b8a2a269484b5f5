"""The command line's grammar."""

import argparse

import modelyard
from modelyard.cli import (
    alerts,
    applying,
    audit,
    budgets,
    chat,
    devices,
    downloads,
    events,
    hub,
    init,
    invite,
    library,
    listing,
    logs,
    nodes,
    planning,
    prices,
    ps,
    pull,
    registering,
    registry,
    reports,
    start,
    stop,
    storage,
    top,
    up,
    usage,
    webhooks,
)
from modelyard.cli.verbs import Verbs

_DESCRIPTION = "A yard for local language models: fetch them, start them, talk to them, watch them."
_EPILOG = """\
exit status:
  0    done
  1    the yard said no; the reason is on standard error
  2    the command line is wrong
  3    the yard cannot be reached: no broker, another home, or the service is not there
  78   a setting is wrong
  130  interrupted

`yard up` runs the yard; every other command talks to it over NATS. YARD_HOME says which yard is meant,
YARD_NATS_URL where its broker is.
"""


def parser() -> argparse.ArgumentParser:
    """A new parser with every verb."""
    yard = argparse.ArgumentParser(
        prog="yard",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    yard.add_argument("--version", action="version", version=f"yard {modelyard.__version__}")
    verbs = Verbs(yard)
    for verb in (
        up,
        pull,
        hub,
        registering,
        downloads,
        listing,
        library,
        registry,
        applying,
        ps,
        start,
        stop,
        planning,
        chat,
        logs,
        events,
        usage,
        alerts,
        webhooks,
        audit,
        prices,
        budgets,
        reports,
        storage,
        nodes,
        devices,
        top,
        invite,
        init,
    ):
        verb.register(verbs)
    return yard
