"""Errors of hub requests and transfers: a stable code for programs and a sentence for people."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import BY_CODE, HubFailed, YardError


class DownloadError(Exception):
    """Has a stable code and a sentence that a user can act on; neither ever contains a secret."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class HubError(DownloadError):
    """The hub refused or did not respond; the codes are those of `schemas.errors`."""

    def __init__(self, code: str, sentence: str, retry_after_s: float = 0.0) -> None:
        super().__init__(code, sentence)
        self.retry_after_s = retry_after_s


class TransferError(DownloadError):
    """The transfer failed: disk_full, disk_error, hash_mismatch, no_peer or a HubError's code."""


def as_yard_error(error: DownloadError) -> YardError:
    """The error of a command."""
    return BY_CODE.get(error.code, HubFailed)(error.sentence)


@contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Turn an OSError of an access to path into a TransferError."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: str) -> TransferError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TransferError("disk_full", f"The disk is full; {path} could not be written. Free some space.")
    return TransferError(
        "disk_error", f"{path} could not be written: {error.strerror or type(error).__name__}."
    )
