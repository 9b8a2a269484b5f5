"""An entry's damaged and missing files, fetched again alone from where they came."""

from collections.abc import Iterable, Mapping

from schemas.errors import Conflict
from schemas.library import EntryFormat, VerifyState
from services.downloader.library import records
from services.downloader.library.shelf import Model
from services.downloader.worker.messages import WantedFile

Records = Mapping[str, records.FileRecord]


def missing_files(model: Model, recorded: Records, there: Iterable[str]) -> list[str]:
    """What should be there besides: shards, and what the folder's own record says that came with the model.

    Of GGUF files a record may know others that were taken away on purpose: only a projector counts.
    """
    group = model.group
    gone = {path for path, record in recorded.items() if record.repo} - set(there)
    if group.format is EntryFormat.GGUF:
        gone = {path for path in gone if "mmproj" in path.rpartition("/")[2].lower()}
    return sorted(gone | {f"{group.folder}/{name}" for name in group.missing_shards})


def wanted_files(model: Model, recorded: Records, there: Iterable[str]) -> list[WantedFile]:
    """What has to be fetched again; Conflict where nobody knows where it came from."""
    damaged = [file.path for file in model.files if file.verified is VerifyState.DAMAGED]
    paths = damaged + missing_files(model, recorded, there)
    known = {**recorded, **model.record}
    found = [_wanted(path, known.get(path)) for path in paths]
    lost = next((path for path, file in zip(paths, found, strict=True) if file is None), None)
    if lost is not None:
        raise Conflict(f"Nobody noted where {lost} came from; fetch the model anew: yard pull REPO:QUANT.")
    return [file for file in found if file is not None]


def _wanted(path: str, record: records.FileRecord | None) -> WantedFile | None:
    sha256 = records.wanted_sha256(record)
    if record is None or sha256 is None or not (record.repo and record.revision and record.remote):
        return None
    return WantedFile(
        repo=record.repo,
        revision=record.revision,
        remote=record.remote,
        size_bytes=record.size_bytes,
        sha256=sha256,
        path=path,
    )
