"""Write one tiny model: `python -m modelyard.files.tinymodels KIND PATH`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from modelyard.files.tinymodels import (
    DEMO_SENTENCE,
    write_babbler,
    write_embedder,
    write_reciter,
    write_reranker,
)

_WRITERS: dict[str, Callable[[Path], None]] = {
    "reciter": lambda path: write_reciter(path, DEMO_SENTENCE),
    "babbler": write_babbler,
    "embedder": write_embedder,
    "reranker": write_reranker,
}


def main(arguments: Sequence[str]) -> str | None:
    """Write the model; return one sentence where that fails, else None."""
    match arguments:
        case [kind, target] if kind in _WRITERS:
            try:
                _WRITERS[kind](Path(target))
            except OSError as error:
                return f"Cannot write {target}: {error.strerror}."
            return None
        case _:
            return f"Name the model to write, and the path: {' or '.join(_WRITERS)}, then a path."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
