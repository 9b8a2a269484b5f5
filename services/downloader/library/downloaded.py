"""What a transfer leaves beside the files that it brought."""

import time
from pathlib import Path

from modelyard.bus import logs
from services.downloader.library import inside, records
from services.downloader.worker.messages import Resolved

log = logs.get(__name__)


def note_download(root: Path, repo: str, resolved: Resolved) -> None:
    """The transfer has read every byte and compared it with what the hub lists."""
    now, changes = time.time(), {}
    for file in resolved.files:
        path = f"{repo}/{file.path}"
        try:
            modified_ns = inside.stat_of(root, path).st_mtime_ns
        except OSError as error:
            log.warning("download_not_noted", path=path, error=str(error))
            continue
        changes[path] = records.FileRecord(
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            repo=repo,
            revision=resolved.commit,
            remote=file.path,
            downloaded_at=now,
            checked_at=now if file.sha256 else None,
            checked_ns=modified_ns,
        )
    try:
        records.note(root, changes)
    except OSError as error:
        # The model is there all the same; it only has to be checked by hand.
        log.warning("download_not_noted", repo=repo, error=str(error))
