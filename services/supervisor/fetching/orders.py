"""What has to be ordered so that the files of a model come to a node. Pure."""

import re
from collections.abc import Sequence
from glob import escape

from schemas.downloads import StartDownload
from schemas.hub import Choice
from schemas.library import CopyEntry, LibraryEntry
from schemas.models import ModelSpec

Order = CopyEntry | StartDownload
_SHARD = re.compile(r"(?P<stem>.*-)\d{5}(?P<rest>-of-\d{5}\.gguf)")


def copy_order(
    spec: ModelSpec, missing: Sequence[str], entries: Sequence[Sequence[LibraryEntry]], node: str
) -> CopyEntry | None:
    """Copy the first of the missing files from a node that has it, if each is on some node.

    `entries`: for each of `missing`, what lies at its path elsewhere. A file without an entry of its own,
    as a projector or a template, comes along with the model beside which it lies.
    """
    along = next((found for path, found in zip(missing, entries, strict=True) if path == spec.path), ())
    givers = [found or along for found in entries]
    if not givers or not all(givers):
        return None
    return CopyEntry(entry=givers[0][0].key, node=node)


def hub_order(spec: ModelSpec, missing: Sequence[str], node: str) -> StartDownload | None:
    """Download the missing files at the commit that the model came from, if all of them came from there."""
    if spec.source is None:
        return None
    repo = spec.source.repo
    if not all(path == repo or path.startswith(f"{repo}/") for path in missing):
        return None
    files = [path.removeprefix(f"{repo}/") for path in missing if path != repo]
    return StartDownload(
        reference=f"{repo}@{spec.source.revision}",
        name=spec.name,
        choice=Choice() if repo in missing else Choice(include=tuple(map(_pattern, files))),
        register=False,
        node=node,
    )


def _pattern(file: str) -> str:
    """The file itself; of several shards all."""
    if shard := _SHARD.fullmatch(file):
        return f"{escape(shard['stem'])}?????{escape(shard['rest'])}"
    return escape(file)
