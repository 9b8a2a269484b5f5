"""Recognises another program's file and reads its models."""

from pathlib import Path
from typing import Any

import msgspec

from modelyard.cli.importing import llama_swap, llm_deploy, llm_manager
from modelyard.cli.importing.paths import StorePaths
from modelyard.cli.importing.result import UNEXPECTED_SHAPE, ImportResult
from schemas.errors import BadRequest


def read_foreign(path: Path, text: str, root: Path) -> ImportResult:
    """The models of the file; BadRequest if no known program writes such a file.

    `root`: the folder whose contents are in the store, under the same paths.
    """
    yaml = path.suffix.lower() in (".yaml", ".yml")
    document = _decode(path, text, yaml=yaml)
    paths = StorePaths(path.absolute().parent, root.absolute())
    try:
        return (_read_yaml if yaml else _read_json)(path, document, paths)
    except UNEXPECTED_SHAPE as error:
        raise BadRequest(f"{path} is not in the format of its program.") from error


def _read_yaml(path: Path, document: dict[str, Any], paths: StorePaths) -> ImportResult:
    if not isinstance(document.get("models"), dict):
        raise BadRequest(f"{path} has no `models:`, so it is no configuration of llama-swap.")
    return llama_swap.read(document, paths)


def _read_json(path: Path, document: dict[str, Any], paths: StorePaths) -> ImportResult:
    if isinstance(document.get("program"), dict):
        return llm_manager.read(document, paths)
    if any(isinstance(each, dict) and ("repo_id" in each or "type" in each) for each in document.values()):
        return llm_deploy.read(document, paths)
    raise BadRequest(
        f"{path} is neither a config.json of LLM-Manager (with `program`) nor a models.json of "
        "Local LLM Deploy (with `repo_id`)."
    )


def _decode(path: Path, text: str, *, yaml: bool) -> dict[str, Any]:
    try:
        if yaml:
            return msgspec.yaml.decode(text.encode(), type=dict[str, Any])
        return msgspec.json.decode(text.encode(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadRequest(f"{path} cannot be understood: {error}.") from error
    except RecursionError as error:
        raise BadRequest(f"{path} cannot be understood: it is nested too deeply.") from error
