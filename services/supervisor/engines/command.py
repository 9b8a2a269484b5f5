"""The engine `command`: any program that serves HTTP, started with the model's `args`."""

import re
import shutil

import msgspec

from modelyard.host.settings import Settings
from modelyard.plugins import Engine, EngineApi, EngineProblem, ModelFiles, ServerCommand, engine_environment
from schemas.base import Format
from schemas.instances import Placement
from schemas.models import ModelSpec

_PLACEHOLDER = re.compile(r"\{\{(?P<literal>\w+)\}\}|\{(?P<name>\w+)\}")


class CommandEngine(Engine):
    """`args` is the whole argument list, the program first; placeholders like `{port}` are filled in.

    The server has to listen on 127.0.0.1 at that port, to answer 200 at the model's `health_path` once it is
    ready, and to serve the paths of the model's mode.
    """

    name = "command"
    automatic = False
    preference = 50
    needs_files = False

    def refusal(self, spec: ModelSpec, model_format: Format) -> str | None:
        if not spec.args:
            return f"The engine command starts what is in args: give {spec.name} a program and its arguments."
        if not any(map(_has_port, (*spec.args, *spec.env.values()))):
            return f"The engine command chooses the port: write {{port}} in the args or env of {spec.name}."
        return None

    def command(
        self, spec: ModelSpec, files: ModelFiles, placement: Placement, port: int, settings: Settings
    ) -> ServerCommand:
        values = _values(spec, files, placement, port)
        program, *rest = (fill(text, values) for text in spec.args)
        env = {name: fill(text, values) for name, text in spec.env.items()}
        environment = engine_environment(msgspec.structs.replace(spec, env=env), placement)
        if (path := shutil.which(program, path=environment.get("PATH"))) is None:
            raise EngineProblem(f"There is no program {program} that could be started for {spec.name}.")
        return ServerCommand(argv=(path, *rest), env=environment)

    def api(self, spec: ModelSpec) -> EngineApi:
        return EngineApi(health_path=spec.health_path)


def fill(text: str, values: dict[str, str]) -> str:
    """`text` with every placeholder filled in; EngineProblem for an unknown one. `{{name}}` is `{name}`."""

    def value(match: re.Match[str]) -> str:
        if match["literal"]:
            return f"{{{match['literal']}}}"
        if (name := match["name"]) not in values:
            known = ", ".join(f"{{{known_name}}}" for known_name in values)
            unknown = f"There is no placeholder {{{name}}}; there are {known}."
            raise EngineProblem(f"{unknown} To keep the text as it is, double its braces.")
        return values[name]

    return _PLACEHOLDER.sub(value, text)


def _has_port(text: str) -> bool:
    return any(match["name"] == "port" for match in _PLACEHOLDER.finditer(text))


def _values(spec: ModelSpec, files: ModelFiles, placement: Placement, port: int) -> dict[str, str]:
    return {
        "port": str(port),
        "model": str(files.model),
        "name": spec.name,
        "n_ctx": str(spec.n_ctx),
        "n_parallel": str(spec.n_parallel),
        "mmproj": str(files.mmproj or ""),
        "chat_template": str(files.chat_template or ""),
        "devices": ",".join(device.device for device in placement.devices),
    }
