"""How a transfer may end badly: a code for programs and a sentence for people."""

import errno


class DownloadError(Exception):
    """Carries a stable code and a sentence a user can act on; neither ever holds a secret."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class HubError(DownloadError):
    """The hub said no, or nothing: repo_not_found, gated_repo, revision_not_found, entry_not_found,
    hub_unreachable or hub_error."""


class TransferError(DownloadError):
    """The bytes did not arrive whole: disk_full, disk_error, hash_mismatch or a HubError's code."""


def disk_error(error: OSError, path: str) -> TransferError:
    """What an OSError while writing path means."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TransferError("disk_full", f"The disk is full; {path} could not be written. Free some space.")
    return TransferError(
        "disk_error", f"{path} could not be written: {error.strerror or type(error).__name__}."
    )
