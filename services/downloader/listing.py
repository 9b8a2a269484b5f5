"""Asking the hub, in a process of its own: a transfer of hours need not keep the hub's library in memory.

Run as `python -m services.downloader.listing`: a Reference on stdin, one answer on stdout.
"""

import signal
import subprocess
import sys

import msgspec
from msgspec import Struct

from modelyard.host.processes import die_with_parent
from services.downloader import hub
from services.downloader.errors import DownloadError, HubError
from services.downloader.hub import RepoListing
from services.downloader.reference import Reference


class Listed(Struct, frozen=True, kw_only=True, tag_field="type", tag="listed"):
    """What the hub has at which commit, where the bytes of each file are, and the header that opens them."""

    listing: RepoListing
    urls: dict[str, str]
    authorization: str | None

    def __repr__(self) -> str:
        return f"Listed({self.listing.commit}, {len(self.urls)} files)"


class Refused(Struct, frozen=True, kw_only=True, tag_field="type", tag="refused"):
    """The hub said no, or nothing."""

    code: str
    sentence: str


_ANSWER: msgspec.json.Decoder[Listed | Refused] = msgspec.json.Decoder(Listed | Refused)


def ask(reference: Reference) -> Listed:
    """What the hub says; HubError if it refuses. Blocks."""
    argv = [sys.executable, "-m", "services.downloader.listing"]
    done = subprocess.run(argv, input=msgspec.json.encode(reference), stdout=subprocess.PIPE, check=False)
    try:
        answer = _ANSWER.decode(done.stdout)
    except msgspec.DecodeError as error:
        raise HubError("hub_error", "The question to the hub came to a sudden end; try again.") from error
    if isinstance(answer, Refused):
        raise HubError(answer.code, answer.sentence)
    return answer


def main() -> None:
    """Answer one question."""
    die_with_parent(signal.SIGKILL)
    reference = msgspec.json.decode(sys.stdin.buffer.read(), type=Reference)
    sys.stdout.buffer.write(msgspec.json.encode(_answer(reference)))


def _answer(reference: Reference) -> Listed | Refused:
    try:
        return listed(reference.repo, hub.list_repo(reference))
    except DownloadError as error:
        return Refused(code=error.code, sentence=error.sentence)


def listed(repo: str, listing: RepoListing) -> Listed:
    """The files of a listing with their addresses on the hub."""
    urls = {file.path: hub.file_url(repo, file.path, listing.commit) for file in listing.files}
    return Listed(listing=listing, urls=urls, authorization=hub.authorization())


if __name__ == "__main__":
    main()
