"""`yard plan`, `yard groups` and `yard group`: what the scheduler would do, and rules for it."""

import argparse
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client


def register(verbs: Verbs) -> None:
    plan = verbs.add("plan", "Tell what would happen if a model were asked for now.", _plan)
    plan.description = "Tell what would happen if a model were asked for now; nothing is done."
    plan.add_argument("model", metavar="MODEL", help="its name or an alias")
    verbs.add("groups", "List the groups of models.", _groups, json="a JSON list")
    group = verbs.add("group", "Let models run together, or never at the same time.", _group)
    group.add_argument("name", metavar="NAME", help="the group's name")
    rule = group.add_mutually_exclusive_group(required=True)
    rule.add_argument("--apart", nargs="+", metavar="MODEL", help="at most one of them runs at a time")
    rule.add_argument("--together", nargs="+", metavar="MODEL", help="where one is started, all are")
    rule.add_argument("--remove", action="store_true", help="take the group away")


async def _plan(yard: "Client", arguments: argparse.Namespace) -> None:
    answer = await yard.plan(arguments.model)
    if arguments.json:
        emit(answer)
    else:
        say(answer.text)


async def _groups(yard: "Client", arguments: argparse.Namespace) -> None:
    groups = await yard.groups()
    if arguments.json:
        emit(list(groups))
    elif not groups:
        say("There are no groups.")
    else:
        table(("GROUP", "RULE", "MODELS"), [(one.name, one.kind, ", ".join(one.models)) for one in groups])


async def _group(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.errors import BadRequest
    from schemas.groups import GroupKind, ModelGroup

    if arguments.remove:
        stored = await yard.remove_group(arguments.name)
    else:
        kind = GroupKind.APART if arguments.apart else GroupKind.TOGETHER
        try:
            group = ModelGroup(
                name=arguments.name, kind=kind, models=tuple(arguments.apart or arguments.together)
            )
        except ValueError as error:
            raise BadRequest(f"That is no group: {error}.") from error
        stored = await yard.put_group(group)
    if arguments.json:
        emit(stored)
    else:
        say(f"The group {stored.name} {'is gone' if arguments.remove else 'holds from now on'}.")
