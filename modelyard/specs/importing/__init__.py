"""Models out of other programs' files."""

from pathlib import Path
from typing import Any

import msgspec

from modelyard.specs.importing import llama_swap, llm_deploy, llm_manager
from modelyard.specs.importing.found import STRANGE, Found
from modelyard.specs.importing.place import Place
from schemas.errors import BadRequest

__all__ = ["Found", "read_foreign"]


def read_foreign(path: Path, text: str, root: Path) -> Found:
    """What the file has; BadRequest if it is of no program that we know.

    `root`: the folder whose contents lie in our store, under the same paths.
    """
    document = _decoded(path, text)
    try:
        return _read(path, document, Place(path.absolute().parent, root.absolute()))
    except STRANGE as error:
        raise BadRequest(f"{path} is not as its program writes it.") from error


def _read(path: Path, document: dict[str, Any], place: Place) -> Found:
    if path.suffix.lower() in (".yaml", ".yml"):
        if not isinstance(document.get("models"), dict):
            raise BadRequest(f"{path} has no `models:`, so it is no configuration of llama-swap.")
        return llama_swap.read(document, place)
    if isinstance(document.get("program"), dict):
        return llm_manager.read(document, place)
    if any(isinstance(each, dict) and ("repo_id" in each or "type" in each) for each in document.values()):
        return llm_deploy.read(document, place)
    raise BadRequest(
        f"{path} is neither a config.json of LLM-Manager (with `program`) nor a models.json of "
        "Local LLM Deploy (with `repo_id`)."
    )


def _decoded(path: Path, text: str) -> dict[str, Any]:
    decode = msgspec.yaml.decode if path.suffix.lower() in (".yaml", ".yml") else msgspec.json.decode
    try:
        return decode(text.encode(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadRequest(f"{path} cannot be understood: {error}.") from error
    except RecursionError as error:
        raise BadRequest(f"{path} cannot be understood: it is nested too deeply.") from error
