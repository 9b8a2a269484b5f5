"""References to models on the hub: `REPO[:QUANT][@REVISION]`, `REPO/FILE` or a hub URL."""

import re
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE = re.compile(r"(?P<repo>[^/:]+/[^/:]+)/(?P<path>.+\.[A-Za-z0-9]+)")
"""A path after a repository is a file if it has an extension."""
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_HOST = re.compile(r"(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_PAGES = frozenset({"tree", "blob", "resolve", "raw"})
_MAX_PART_CHARS = 96
_MAX_TOKEN_CHARS = 200
_MAX_FILE_CHARS = 1000
_SHOWN_CHARS = 80

MAX_REFERENCES = 500
"""In one text."""
_SEPARATORS = re.compile(r"[\s,;|\uff0c\uff1b\u3001]+")
_QUOTES = "\"'`<>()[]{}."
_BULLET = re.compile(r"[-*+•#>.\d]+\.?|[xX]")
_COMMENT = re.compile(r"(^|\s)#.*")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INVISIBLE = re.compile("[\ufeff\u200b-\u200d\u2060]")


class Reference(Struct, frozen=True, kw_only=True):
    """A model on the hub; without a quant or a file the default one, without a revision the newest."""

    repo: str
    quant: str | None = None
    revision: str | None = None
    file: str | None = None
    """A path in the repository; never together with a quant."""

    def __str__(self) -> str:
        """The form that `parse_reference` reads."""
        file = f"/{self.file}" if self.file else ""
        quant = f":{self.quant}" if self.quant else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{file}{quant}{revision}"


def make_reference(
    repo: str, quant: str | None = None, revision: str | None = None, file: str | None = None
) -> Reference:
    """A validated Reference; ValueError with a sentence for the user."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ValueError(
            f"{_shown(repo)} is not a repository name; write it as on the hub, for example org/name."
        )
    for part in repo.split("/"):
        if len(part) > _MAX_PART_CHARS or part[-1] in ".-" or part.endswith(".git"):
            raise ValueError(f"{_shown(part)} is not a name the hub allows; check the spelling.")
    if quant is not None and not _is_token(_QUANT, quant):
        raise ValueError(
            f"{_shown(quant)} is not a quant; write one like Q4_K_M after the colon, or leave it out."
        )
    if revision is not None and not _is_token(_REVISION, revision):
        raise ValueError(f"{_shown(revision)} is not a revision; write a branch, tag or commit after the @.")
    if file is not None and not _is_file(file):
        raise ValueError(f"{_shown(file)} is not a path in a repository; copy the address of the file.")
    return Reference(repo=repo, quant=quant, revision=revision, file=file)


def parse_reference(text: str) -> Reference:
    """Parse `REPO[:QUANT][@REVISION]` or `REPO/FILE[@REVISION]`, hf.co/ before it or not, or a URL."""
    text = text.strip()
    has_scheme = re.match(r"https?://", text, re.IGNORECASE) is not None
    host = _HOST.match(text)
    rest = text[host.end() :] if host else text
    if host and not has_scheme:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0].rstrip("/")
    is_page = rest.split("/")[2:3] and rest.split("/")[2] in _PAGES
    if (has_scheme and not (host and _is_name(rest))) or (host and is_page):
        return _parse_url(text if has_scheme else f"https://{text}")
    return _parse_text(rest)


def find_references(text: str) -> list[str]:
    """Each reference in a pasted text once, in order; `#` begins a comment."""
    lines = [_LINK.sub(r"\1", _COMMENT.sub("", line)) for line in _INVISIBLE.sub("", text).splitlines()]
    tokens = [token.strip(_QUOTES) for token in _SEPARATORS.split("\n".join(lines))]
    return list(dict.fromkeys(token for token in tokens if token and not _BULLET.fullmatch(token)))


def _parse_text(text: str) -> Reference:
    rest, at, revision = text.partition("@")
    if ":" in revision and ":" not in rest:  # the quant may also follow the revision
        revision, _, quant = revision.partition(":")
        return make_reference(rest, quant, revision)
    if file := _FILE.fullmatch(rest):
        return make_reference(file["repo"], None, revision if at else None, file["path"])
    repo, colon, quant = rest.partition(":")
    return make_reference(repo, quant if colon else None, revision if at else None)


def _parse_url(url: str) -> Reference:
    """The page of a repository (/org/name), of a branch (/tree/REV) or of a file (/blob or /resolve)."""
    address = urlsplit(url)
    parts = [unquote(part) for part in address.path.split("/")]
    parts = [part for part in parts if part]
    if parts[:2] == ["api", "models"]:
        parts = parts[2:]
    if len(parts) < 2 or parts[0] in {"datasets", "spaces"}:
        raise ValueError(f"{_shown(url)} does not lead to a model; copy the address of a model's page.")
    repo, page = "/".join(parts[:2]), parts[2:]
    if not page:
        return make_reference(repo, file=next(iter(parse_qs(address.query).get("show_file_info", ())), None))
    kind, revision, path = page[0], "".join(page[1:2]), page[2:]
    if kind in {"tree", "commit"} and revision:
        return make_reference(repo, path[0] if path else None, revision)
    if kind in _PAGES and path:
        return make_reference(repo, None, revision, "/".join(path))
    raise ValueError(
        f"{_shown(url)} is not a page we know; copy the address of the model or of one of its files."
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")


def _is_name(text: str) -> bool:
    """`https://hf.co/org/name:Q4_K_M` is not a page of the hub, but other programs accept it as a name."""
    return text.count("/") == 1 and (":" in text or "@" in text)


def _is_token(pattern: re.Pattern[str], token: str) -> bool:
    return bool(pattern.fullmatch(token)) and ".." not in token and len(token) <= _MAX_TOKEN_CHARS


def _is_file(path: str) -> bool:
    parts = path.split("/")
    return (
        len(path) <= _MAX_FILE_CHARS
        and not _CONTROL.search(path)
        and "@" not in path
        and not any(part in {"", ".", ".."} for part in parts)
    )
