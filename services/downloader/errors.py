"""How a transfer may end badly: a code for programs and a sentence for people."""

import errno

from schemas.errors import BY_CODE, HubFailed, YardError


class DownloadError(Exception):
    """Carries a stable code and a sentence a user can act on; neither ever holds a secret."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class HubError(DownloadError):
    """The hub said no, or nothing; the codes are those of `schemas.errors`."""

    def __init__(self, code: str, sentence: str, retry_after_s: float = 0.0) -> None:
        super().__init__(code, sentence)
        self.retry_after_s = retry_after_s
        """So long the hub wants to be left alone."""


class TransferError(DownloadError):
    """The bytes did not arrive whole: disk_full, disk_error, hash_mismatch or a HubError's code."""


def as_yard_error(error: DownloadError) -> YardError:
    """The same for who asked with a command."""
    return BY_CODE.get(error.code, HubFailed)(error.sentence)


def disk_error(error: OSError, path: str) -> TransferError:
    """What an OSError while writing path means."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TransferError("disk_full", f"The disk is full; {path} could not be written. Free some space.")
    return TransferError(
        "disk_error", f"{path} could not be written: {error.strerror or type(error).__name__}."
    )
