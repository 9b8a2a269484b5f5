"""The grammar of the command line. A verb's module is imported when the verb is chosen."""

import argparse
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import modelyard

_DESCRIPTION = "A yard for local language models: download them, start them, talk to them, watch them."
_EPILOG = """\
exit status:
  0    done
  1    the yard refused; the reason is on standard error
  2    the command line is wrong
  3    the yard cannot be reached: no broker, another home, or the service does not run
  78   a setting is wrong
  130  interrupted

`yard up` runs the yard; every other command talks to it over NATS. YARD_HOME selects the yard, YARD_NATS_URL
its broker; `yard settings` shows all settings.
"""


COMMON_HELP = {
    "model": "its name or an alias",
    "node": "its name, as `yard nodes` lists it",
    "budget": "the name of the budget",
    "report": "the name of the report",
}
"""Texts of arguments that mean the same for every verb."""


class Verb(NamedTuple):
    """A verb of the first level; its module has a function `register` for all of its verbs."""

    name: str
    module: str
    summary: str


VERBS = (
    Verb("up", "setup", "Run the yard on this machine."),
    Verb("pull", "downloads", "Download models from the hub."),
    Verb("search", "hub", "Search the hub for models."),
    Verb("offer", "hub", "Show what a repository offers, and what fits which node."),
    Verb("register", "hub", "Make a model of files that are in the store."),
    Verb("downloads", "downloads", "List downloads, or change them."),
    Verb("list", "models", "List the models of the yard."),
    Verb("library", "library", "Show and maintain the models on disk."),
    Verb("edit", "models", "Change a model."),
    Verb("rename", "models", "Give a model another name."),
    Verb("rm", "models", "Remove a model from the registry; its files stay."),
    Verb("history", "models", "Show the last changes of a model."),
    Verb("undo", "models", "Restore an earlier revision of a model, deleted or not."),
    Verb("apply", "importing.registry_file", "Make the registry equal to a TOML file."),
    Verb("export", "importing.registry_file", "Print the registry as a TOML file."),
    Verb("import", "importing.registry_file", "Import models from another program's file."),
    Verb("ps", "instances", "List running and failed instances."),
    Verb("start", "instances", "Start a model and wait until it is ready."),
    Verb("stop", "instances", "Stop a model."),
    Verb("plan", "instances", "Show what would happen if a model were requested now."),
    Verb("groups", "instances", "List the groups of models."),
    Verb("group", "instances", "Let models run together, or never at the same time."),
    Verb("chat", "chat", "Talk to a model."),
    Verb("logs", "logs", "Show the logs of engines and services."),
    Verb("events", "logs", "Show the events of the yard."),
    Verb("usage", "usage", "Sum up requests, tokens and cost."),
    Verb("alerts", "alerts", "List alerts, or the rules that raise them."),
    Verb("alert", "alerts", "Change alert rules, and silence alerts."),
    Verb("webhook", "alerts", "Choose who is notified of events."),
    Verb("audit", "logs", "Show who changed what."),
    Verb("price", "accounts", "Show and change what models cost."),
    Verb("budget", "accounts", "Show and change how much may be used."),
    Verb("report", "usage", "Usage queries that are stored under a name."),
    Verb("storage", "usage", "Show what the yard stores, and remove data."),
    Verb("nodes", "nodes", "List the nodes of the yard, and other yards on the network."),
    Verb("cordon", "nodes", "Stop scheduling on a node; running instances stay."),
    Verb("uncordon", "nodes", "Resume scheduling on a node."),
    Verb("drain", "nodes", "Stop scheduling on a node and drain its instances."),
    Verb("devices", "nodes", "Show processors and graphics cards, and their state."),
    Verb("top", "nodes", "Show devices and instances, live; Ctrl-C ends it."),
    Verb("invite", "setup", "Let another machine join the yard that runs here."),
    Verb("expel", "setup", "Remove the logins of a machine that joined."),
    Verb(
        "init", "setup", "Create logins, an API key and a broker configuration, for a yard without `yard up`."
    ),
    Verb("settings", "setup", "Show every setting, its value and where that comes from."),
)


class VerbParser(argparse.ArgumentParser):
    """The parser of one verb, filled when it is first used."""

    def __init__(self, **options: Any) -> None:
        self.arguments: list[argparse.Action] = []
        self.verbs: dict[str, VerbParser] = {}
        """The verbs below this one."""
        self.on_load: Callable[[], None] | None = None
        """Adds the arguments."""
        self.on_help: list[Callable[[], None]] = []
        """Add texts that only a help page needs."""
        super().__init__(**options)
        self.formatter_class = argparse.RawDescriptionHelpFormatter

    def load(self) -> None:
        """Import the verb's module and add its arguments, once."""
        load, self.on_load = self.on_load, None
        if load:
            load()

    def describe(self, text: str) -> None:
        """Add text below the summary."""
        more = text.strip("\n")
        self.description = f"{self.description}\n\n{more}\n"

    def subverbs(self, *, required: bool = True) -> Callable[[str, str], "VerbParser"]:
        """A function that adds a verb below this one, by its name and summary."""
        parsers = self.add_subparsers(title="commands", metavar="COMMAND", required=required)

        def add(name: str, summary: str) -> VerbParser:
            self.verbs[name] = parsers.add_parser(name, help=summary, description=summary)
            return self.verbs[name]

        return add

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        if not names[0].startswith("-"):
            options = {"metavar": names[0].upper(), "help": COMMON_HELP.get(names[0]), **options}
        return self._add_to(super(), *names, **options)

    def flag(self, *names: str, text: str) -> None:
        """Add an option without a value; `text` is its help."""
        self.add_argument(*names, action="store_true", help=text)

    def exclusive(self, *, required: bool = False) -> Callable[..., argparse.Action]:
        """A function that adds arguments of which only one may be given."""
        return partial(self._add_to, self.add_mutually_exclusive_group(required=required))

    def section(self, title: str) -> Callable[..., argparse.Action]:
        """A function that adds arguments under a title of their own."""
        return partial(self._add_to, self.add_argument_group(title))

    def _add_to(self, group: Any, *names: Any, **options: Any) -> argparse.Action:
        self.arguments.append(group.add_argument(*names, **options))
        return self.arguments[-1]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.load()
        return super().parse_known_args(args, namespace)

    def complete(self) -> None:
        """Add everything that a help page shows."""
        self.load()
        for add_texts in self.on_help:
            add_texts()
        self.on_help.clear()

    def format_help(self) -> str:
        self.complete()
        return super().format_help()


def parser() -> VerbParser:
    """A new parser with all verbs."""
    yard = VerbParser(prog="yard", description=_DESCRIPTION, epilog=_EPILOG)
    yard.add_argument("--version", action="version", version=f"yard {modelyard.__version__}")
    add = yard.subverbs()
    for verb in VERBS:
        add(verb.name, verb.summary).on_load = partial(_register, verb.module, yard.verbs)
    return yard


def _register(module: str, parsers: dict[str, VerbParser]) -> None:
    own = {verb.name: parsers[verb.name] for verb in VERBS if verb.module == module}
    for verb_parser in own.values():
        verb_parser.on_load = None
    importlib.import_module(f"modelyard.cli.{module}").register(own)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of one command line; `run` is the function that executes it."""
    return parser().parse_args(argv, argparse.Namespace(json=False))
