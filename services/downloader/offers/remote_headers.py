"""Headers and cards of models on the hub, read from a few bytes of their files."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from modelyard.files.gguf.header import Header, make_header
from modelyard.files.gguf.parse import GgufError
from modelyard.files.safetensors import CARD_FILE_BYTES, CARD_FILES, ModelCard, parse_card
from services.downloader.errors import DownloadError
from services.downloader.selection.files import RemoteFile
from services.downloader.selection.gguf import GgufGroup

if TYPE_CHECKING:
    from services.downloader.hub.remote_files import RemoteFiles

_CACHED_HEADERS = 64
_TIMEOUT_S = 20.0
"""A person waits for the offer, which is of use without a header too."""


class RemoteHeaders:
    """Reads headers of files on the hub; caches the latest, since a commit never changes."""

    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[str, str, str], Header] = OrderedDict()

    async def read(self, repo: str, commit: str, group: GgufGroup) -> Header | str:
        """The header of a model's first file, or a sentence on why it cannot be read."""
        file = group.in_order[0]
        key = (repo, commit, file.path)
        if (header := self._cache.get(key)) is None:
            try:
                async with asyncio.timeout(_TIMEOUT_S), _remote_files(repo, commit) as remote:
                    contents = await remote.header(file)
                header = await asyncio.to_thread(make_header, contents, n_shards=group.shards)
            except GgufError as error:
                return f"{file.path} cannot be read: {error}"
            except DownloadError as error:
                return error.sentence
            except TimeoutError:
                return f"{file.path} could not be read within {_TIMEOUT_S:g} s; try again."
        self._cache[key] = header
        self._cache.move_to_end(key)
        while len(self._cache) > _CACHED_HEADERS:
            self._cache.popitem(last=False)
        return header


async def read_remote_card(repo: str, commit: str, files: Sequence[RemoteFile]) -> ModelCard:
    """The card of a repository; a file that is missing or refused counts as empty."""
    wanted = [file for file in files if file.path in CARD_FILES and file.size_bytes <= CARD_FILE_BYTES]
    async with _remote_files(repo, commit) as remote:
        texts = await asyncio.gather(*(_text(remote, file) for file in wanted))
    pairs = zip(wanted, texts, strict=True)
    return parse_card({file.path: text for file, text in pairs if text is not None})


@asynccontextmanager
async def _remote_files(repo: str, commit: str) -> AsyncIterator["RemoteFiles"]:
    # Imported at use: the hub's library is large and slow to load.
    from services.downloader.hub.remote_files import RemoteFiles
    from services.downloader.transfer.file_transfer import open_session

    async with open_session() as session:
        yield RemoteFiles(session, repo, commit)


async def _text(remote: "RemoteFiles", file: RemoteFile) -> bytes | None:
    try:
        return await remote.part(file, 0, file.size_bytes)
    except DownloadError:
        return None
