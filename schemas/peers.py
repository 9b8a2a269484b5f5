"""Peer transfers: commands between downloaders; the bytes themselves travel over HTTP.

Tokens are only ever in an answer to a downloader and in the header of its request: in no URL, log or event.
"""

import re

from schemas.base import Record

_SHA256 = re.compile(r"[0-9a-f]{64}")


class RequestFile(Record):
    """Have you all of this file, and do you give it to me?"""

    sha256: str
    size_bytes: int
    node: str
    """The requesting node."""
    host: str
    """Its address for other nodes."""

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError("a sha256 has 64 hexadecimal digits, in lower case")


class FileOffer(Record):
    """The address of a file, for GET with ranges, and its bearer token."""

    url: str
    token: str
    """Valid for this file only; request another to use it longer."""
    expires_in_s: float

    def __repr__(self) -> str:
        return f"FileOffer({self.url!r})"


class KnownFile(Record):
    """One file of a node's store."""

    path: str
    """Relative to the store; of a repository: as the hub calls it."""
    size_bytes: int
    sha256: str | None = None
    """None: not computed yet; request it again later."""
    noted: bool = False
    """Its sha256 is recorded: it has weights, or the hub's metadata lists it."""
    repo: str | None = None
    """Source repository, commit, and path in the repository."""
    revision: str | None = None
    remote: str | None = None


class ListEntryFiles(Record):
    """Lists the files of an entry (`node.store.entry`)."""

    entry: str


class EntryFiles(Record):
    """All that makes up an entry, what it shares with others as well."""

    path: str
    files: tuple[KnownFile, ...]
    bytes_to_read: int = 0
    """Bytes still to be read until all sha256 are known."""


class ListRepoFiles(Record):
    """Which files have you of this repository? Without a revision: of the commit that came last."""

    repo: str
    revision: str | None = None


class RepoFiles(Record):
    """Files of a repository on a node, at one commit."""

    commit: str
    downloaded_at: float
    files: tuple[KnownFile, ...]
    bytes_to_read: int = 0
