"""Write one tiny model: `python -m modelyard.files.tinymodels KIND PATH`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from modelyard.files import tinymodels

_WRITERS: dict[str, Callable[[Path], None]] = {
    "reciter": lambda path: tinymodels.write_reciter(path, tinymodels.DEMO_SENTENCE),
    "babbler": tinymodels.write_babbler,
    "embedder": tinymodels.write_embedder,
    "reranker": tinymodels.write_reranker,
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
