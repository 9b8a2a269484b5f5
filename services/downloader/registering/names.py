"""What a model is called if nobody says."""

import re

from schemas.base import check_model_name
from services.downloader.reference import Reference
from services.downloader.selection.quants import label_of_file

_DEFAULT_BRANCH = "main"
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._:/@+-]+")


def name_of_reference(reference: Reference) -> str:
    """As it was referred to; a file is called by its quant."""
    label = reference.quant
    if reference.file is not None:
        label = label_of_file(reference.file)
    revision = reference.revision if reference.revision != _DEFAULT_BRANCH else None
    quant = f":{label}" if label else ""
    return checked(f"{reference.repo}{quant}{f'@{revision}' if revision else ''}")


def name_of_path(path: str) -> str:
    """`org/name:QUANT` for a file that lies as the hub has it, else its own name."""
    parts = path.split("/")
    label = label_of_file(path)
    if label is None:
        return checked("/".join(parts[-2:]))
    if len(parts) > 2:
        return checked(f"{parts[0]}/{parts[1]}:{label}")
    return checked(parts[-1].removesuffix(".gguf"))


def checked(name: str) -> str:
    """The name without what no model's name may have; ValueError if nothing is left of it."""
    return check_model_name(_FORBIDDEN.sub("-", name).strip("-./:@"))
