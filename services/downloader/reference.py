"""What a user may type to name a model on the hub: `REPO[:QUANT][@REVISION]` or a hub URL."""

import re
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from services.downloader.quants import label_of_file

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_HOST_PREFIX = re.compile(r"(?:hf\.co|huggingface\.co)/", re.IGNORECASE)
_MAX_PART_CHARS = 96
_MAX_WORD_CHARS = 200


class Reference(Struct, frozen=True, kw_only=True):
    """A model on the hub; without a quant the best known one is meant, without a revision the newest."""

    repo: str
    quant: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        quant = f":{self.quant}" if self.quant else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{quant}{revision}"


def make_reference(repo: str, quant: str | None = None, revision: str | None = None) -> Reference:
    """A checked Reference; ValueError carries a sentence for the user."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ValueError(f"{repo!r} is not a repository name; write it as on the hub, for example org/name.")
    for part in repo.split("/"):
        if len(part) > _MAX_PART_CHARS or part[-1] in ".-" or part.endswith(".git"):
            raise ValueError(f"{part!r} in {repo!r} is not a name the hub allows; check the spelling.")
    if quant is not None and not _is_word(_QUANT, quant):
        raise ValueError(f"{quant!r} is not a quant; write one like Q4_K_M after the colon, or leave it out.")
    if revision is not None and not _is_word(_REVISION, revision):
        raise ValueError(f"{revision!r} is not a revision; write a branch, tag or commit after the @.")
    return Reference(repo=repo, quant=quant, revision=revision)


def parse_reference(text: str) -> Reference:
    """Read `REPO[:QUANT][@REVISION]`, with or without hf.co/ before it, or the URL of a hub page."""
    text = text.strip()
    if re.match(r"https?://", text, re.IGNORECASE):
        return _parse_url(text)
    text = _HOST_PREFIX.sub("", text, count=1) if _HOST_PREFIX.match(text) else text
    rest, at, revision = text.partition("@")
    repo, colon, quant = rest.partition(":")
    return make_reference(repo, quant if colon else None, revision if at else None)


def _parse_url(url: str) -> Reference:
    """The page of a repository (/org/name), of a branch (/tree/REV) or of a file (/blob or /resolve)."""
    parts = [unquote(part) for part in urlsplit(url).path.split("/") if part]
    if len(parts) < 2 or parts[0] in {"datasets", "spaces"}:
        raise ValueError(f"{url!r} does not lead to a model; copy the address of a model's page.")
    repo, page = "/".join(parts[:2]), parts[2:]
    if not page:
        return make_reference(repo)
    if page[0] == "tree" and len(page) >= 2:
        return make_reference(repo, page[2] if len(page) > 2 else None, page[1])
    if page[0] in {"blob", "resolve"} and len(page) >= 3:
        return make_reference(repo, label_of_file("/".join(page[2:])), page[1])
    raise ValueError(f"{url!r} is not a page we know; copy the address of the model or of one of its files.")


def _is_word(pattern: re.Pattern[str], word: str) -> bool:
    return bool(pattern.fullmatch(word)) and ".." not in word and len(word) <= _MAX_WORD_CHARS
