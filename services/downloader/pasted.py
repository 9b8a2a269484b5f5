"""References out of a text that somebody pasted."""

import re

MAX_REFERENCES = 500
_BETWEEN = re.compile(r"[\s,;]+")
_AROUND = "\"'`<>()[]{}"
_BULLET = re.compile(r"[-*+•#>.\d]+\.?")


def pasted_references(text: str) -> list[str]:
    """Each reference once, in its order; a `#` at the beginning of a line makes it a comment."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    words = [word.strip(_AROUND) for word in _BETWEEN.split("\n".join(lines))]
    return list(dict.fromkeys(word for word in words if word and not _BULLET.fullmatch(word)))
