"""`yard` on the registry, against the real one: files applied, exported and imported, changes undone."""

import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelyard.bus.tasks import Tasks
from modelyard.client import Client
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import Role
from schemas.instances import ClearNode
from schemas.models import ModelSpec
from services.supervisor.service import main
from tests.commands import CommandResult, refusal_code, run_command, start_on_terminal
from tests.support import Yard

CLEAR_S = 20.0
FILE = """
[[model]]
name = "demo"
path = "demo.gguf"
aliases = ["d"]

[[model]]
name = "second"
path = "second.gguf"
replicas = {max = 2}
"""


class Shell:
    """The command line beside the client."""

    def __init__(self, yard: Yard, client: Client, folder: Path) -> None:
        self.yard = yard
        self.registry = client.registry
        self.file = folder / "models.toml"

    async def run(self, *args: str, stdin: str = "", **more: str) -> CommandResult:
        return await run_command(self.yard, *args, stdin=stdin, **more)

    async def apply(self, text: str, *args: str) -> CommandResult:
        self.file.write_text(text)
        return await self.run("apply", "-f", str(self.file), *args)

    async def names(self) -> list[str]:
        return [record.spec.name for record in await self.registry.records()]


@pytest.fixture
async def shell(yard: Yard, settings: Settings, tmp_path: Path) -> AsyncIterator[Shell]:
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        client = Client(await yard.bus())
        yield Shell(yard, client, tmp_path)
        # An edit may have started a runner, which would outlive its supervisor.
        await client.bus.call(
            subjects.NODE_CLEAR, ClearNode(drain_s=0), node=settings.node, timeout_s=CLEAR_S
        )


async def test_apply_shows_the_changes_and_makes_them(shell: Shell) -> None:
    new = await shell.apply(FILE)
    assert (new.code, new.err) == (0, "")
    assert new.out == "+ demo  demo.gguf\n+ second  second.gguf\n2 stored, 0 deleted.\n"
    same = await shell.apply(FILE)
    assert same.out == "Nothing to change.\n"
    dry = await shell.apply(FILE.replace("max = 2", "max = 3"), "--dry-run")
    assert dry.out == "~ second\n    replicas.max: 2 -> 3\n1 would be stored, 0 would be deleted.\n"
    assert (await shell.registry.get("second")).spec.replicas.max == 2
    less = FILE.partition('[[model]]\nname = "second"')[0]
    assert (await shell.apply(less)).out == "Nothing to change.\n"
    pruned = await shell.apply(less, "--prune", "--json")
    assert pruned.document == {"stored": [], "deleted": ["second"]}
    assert await shell.names() == ["demo"]


async def test_apply_makes_all_changes_or_none(shell: Shell) -> None:
    await shell.registry.put(ModelSpec(name="there", path="there.gguf", aliases=("d",)))
    clash = await shell.apply(FILE)
    assert (clash.code, clash.err) == (1, "yard: The name 'd' belongs to the model 'there' already.\n")
    misspelt = await shell.apply(FILE.replace("replicas", "replica"))
    assert misspelt.code == 1
    assert (
        "Model 2 of the file (second): A model has no field 'replica'. Did you mean 'replicas'?"
        in misspelt.err
    )
    assert await refusal_code(shell.yard, "apply", "-f", "nowhere.toml") == "bad_request"
    assert await shell.names() == ["there"]


async def test_apply_asks_on_a_terminal(shell: Shell) -> None:
    shell.file.write_text(FILE)
    screen = await start_on_terminal(shell.yard, "apply", "-f", str(shell.file))
    assert "+ second" in await screen.wait_for("Change 2 models? [y/N] ")
    screen.type("n\n")
    await screen.wait_for("Nothing was changed.")
    assert await screen.wait() == 1
    assert await shell.names() == []
    screen = await start_on_terminal(shell.yard, "apply", "-f", str(shell.file))
    await screen.wait_for("[y/N] ")
    screen.type("y\n")
    await screen.wait_for("2 stored")
    assert await screen.wait() == 0
    screen = await start_on_terminal(shell.yard, "apply", "--yes", "--prune", "-f", "/dev/null")
    await screen.wait_for("2 deleted")
    assert await screen.wait() == 0


async def test_an_export_can_be_applied(shell: Shell) -> None:
    await shell.apply(FILE)
    exported = await shell.run("export")
    assert tomllib.loads(exported.out) == tomllib.loads(FILE)
    assert (await shell.apply(exported.out, "--prune")).out == "Nothing to change.\n"
    one = await shell.run("export", "d", "--json")
    assert one.document == [{"name": "demo", "path": "demo.gguf", "aliases": ["d"]}]
    piped = await shell.run("apply", "-f", "-", "--prune", stdin=(await shell.run("export", "d")).out)
    assert piped.out == "- second\n0 stored, 1 deleted.\n"


async def test_import_names_the_models_that_it_cannot_import(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "models:\n"
        "  good: {cmd: 'llama-server -m /srv/m/good.gguf --port ${PORT}', ttl: 60}\n"
        "  bad: {cmd: docker run x}\n"
    )
    words = ("import", str(config), "--root", "/srv/m")
    stopped = await shell.run(*words)
    assert stopped.code == 1
    assert "bad cannot be imported: it runs docker" in stopped.err
    assert "--skip leaves them out" in stopped.err
    assert await shell.names() == []
    printed = await shell.run(*words, "--skip", "--print")
    assert tomllib.loads(printed.out)["model"] == [{"name": "good", "path": "good.gguf", "ttl_s": 60.0}]
    done = await shell.run(*words, "--skip")
    assert (done.code, done.out) == (0, "+ good  good.gguf\n1 stored, 0 deleted.\n")
    assert await shell.names() == ["good"]


async def test_edit_changes_fields_or_opens_an_editor(shell: Shell) -> None:
    await shell.apply(FILE)
    edited = await shell.run("edit", "d", "n_ctx=4096", "replicas.max=3", "replicas.min=1", "ttl_s=30")
    assert edited.code == 0
    spec = (await shell.registry.get("demo")).spec
    assert (spec.n_ctx, spec.replicas.min, spec.replicas.max, spec.ttl_s) == (4096, 1, 3, 30.0)
    assert (await shell.run("edit", "d", "n_ctx=4096")).out == "Nothing to change.\n"
    await shell.run("edit", "d", "ttl_s=", "engine=llama.cpp")
    spec = (await shell.registry.get("demo")).spec
    assert (spec.ttl_s, spec.engine) == (None, "llama.cpp")
    assert await refusal_code(shell.yard, "edit", "demo", "n_cxt=1") == "bad_request"
    assert (await shell.run("edit", "demo", "n_ctx")).code == 2
    by_hand = await shell.run("edit", "demo", EDITOR="sed -i s/4096/2048/", VISUAL="")
    assert by_hand.code == 0
    assert (await shell.registry.get("demo")).spec.n_ctx == 2048
    broken = await shell.run("edit", "demo", EDITOR="false", VISUAL="")
    assert (broken.code, broken.err) == (1, "yard: The editor 'false' failed; nothing was changed.\n")


async def test_changes_of_a_model_are_listed_and_undone(shell: Shell) -> None:
    await shell.apply(FILE)
    await shell.run("edit", "demo", "n_ctx=4096")
    assert (await shell.run("rm", "demo")).out.endswith("`yard undo demo` brings it back.\n")
    assert await refusal_code(shell.yard, "rm", "demo") == "model_not_found"
    history = await shell.run("history", "demo")
    changes = [line.split("operator")[1].strip() for line in history.out.splitlines()[1:]]
    assert changes == ["deleted or renamed", "n_ctx: 8192 -> 4096", "put: demo.gguf"]
    revisions = (await shell.run("history", "demo", "--json")).document["revisions"]
    assert (await shell.run("undo", "demo")).code == 0
    assert (await shell.registry.get("demo")).spec.n_ctx == 4096
    await shell.run("undo", "demo", "--to", str(revisions[-1]["revision"]))
    assert (await shell.registry.get("demo")).spec.n_ctx == 8192
    assert await refusal_code(shell.yard, "undo", "second") == "conflict"


async def test_rename_keeps_the_old_name_if_asked(shell: Shell) -> None:
    await shell.apply(FILE)
    assert (await shell.run("rename", "demo", "new")).out == "demo is called new now.\n"
    assert await refusal_code(shell.yard, "rename", "new", "second") == "conflict"
    await shell.run("rename", "new", "newer", "--keep-alias")
    assert (await shell.registry.get("new")).spec.aliases == ("d", "new")
