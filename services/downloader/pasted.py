"""References out of a text that somebody pasted."""

import re

MAX_REFERENCES = 500
_BETWEEN = re.compile(r"[\s,;|\uff0c\uff1b\u3001]+")
_AROUND = "\"'`<>()[]{}."
_BULLET = re.compile(r"[-*+•#>.\d]+\.?|[xX]")
_COMMENT = re.compile(r"(^|\s)#.*")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_UNSEEN = re.compile("[\ufeff\u200b-\u200d\u2060]")


def pasted_references(text: str) -> list[str]:
    """Each reference once, in its order; what follows a `#` on a line is a comment."""
    lines = [_LINK.sub(r"\1", _COMMENT.sub("", line)) for line in _UNSEEN.sub("", text).splitlines()]
    words = [word.strip(_AROUND) for word in _BETWEEN.split("\n".join(lines))]
    return list(dict.fromkeys(word for word in words if word and not _BULLET.fullmatch(word)))
