"""What is known of a model's files, before anything is guessed from it."""

from pathlib import Path, PurePosixPath

from modelyard.gguf.errors import GgufError
from modelyard.gguf.files import read_model
from modelyard.gguf.header import Header
from modelyard.host.paths import resolve_inside
from modelyard.safetensors import Card, card_of, check_safetensors, weights
from schemas.base import Format, Record
from schemas.errors import UnreadableModel
from schemas.models import ModelSource
from services.downloader.selection.files import RemoteFile
from services.downloader.selection.mmproj import choose_mmproj


class Facts(Record):
    """Of a model in the store."""

    path: str
    """Relative to the store: a GGUF file, or a folder."""
    format: Format
    header: Header | None = None
    """Of a GGUF file; None where it could not be read, and `problem` says why."""
    card: Card = Card()
    """Of a folder."""
    size_bytes: int = 0
    """Of the weights."""
    mmproj: str | None = None
    mmproj_bytes: int = 0
    template: str | None = None
    """A chat template in a file beside it."""
    task: str | None = None
    """What the hub says that it does."""
    source: ModelSource | None = None
    problem: str | None = None

    @property
    def n_ctx_train(self) -> int | None:
        """Tokens of context that it was trained for."""
        return (self.header.n_ctx_train or None) if self.header else self.card.n_ctx_train


def read_facts(
    store: Path,
    path: str,
    *,
    mmproj: str | None = None,
    with_mmproj: bool = True,
    task: str | None = None,
    source: ModelSource | None = None,
) -> Facts:
    """Look at what lies there; blocks. UnreadableModel with a sentence where there is no model.

    `mmproj` is the vision part that came with it; without one the best that lies beside it is taken.
    """
    place = _inside(store, path)
    if place.is_dir():
        return _of_folder(place, path, task, source)
    if not place.is_file():
        raise UnreadableModel(f"There is no {path} in the store.", param="path")
    if place.suffix.lower() != ".gguf":
        raise UnreadableModel(
            f"{path} is no GGUF file; give one, or the folder of a model with safetensors.", param="path"
        )
    header, problem = _header(place)
    mmproj = mmproj or (_beside(store, path) if with_mmproj else None)
    template = _template(store, path) if header and not header.has_chat_template else None
    return Facts(
        path=path,
        format=Format.GGUF,
        header=header,
        size_bytes=header.weights.total_bytes if header else place.stat().st_size,
        mmproj=mmproj,
        mmproj_bytes=_inside(store, mmproj).stat().st_size if mmproj else 0,
        template=template,
        task=task,
        source=source,
        problem=problem,
    )


def _of_folder(place: Path, path: str, task: str | None, source: ModelSource | None) -> Facts:
    try:
        check_safetensors(place)
    except ValueError as error:
        raise UnreadableModel(f"{path}: {error}", param="path") from error
    size_bytes = sum(part.stat().st_size for part in weights(place))
    return Facts(
        path=path,
        format=Format.SAFETENSORS,
        card=card_of(place),
        size_bytes=size_bytes,
        task=task,
        source=source,
    )


def _header(place: Path) -> tuple[Header | None, str | None]:
    """A header that is not understood here may be one of a newer llama.cpp: a reason, but no refusal."""
    try:
        return read_model(place), None
    except (GgufError, OSError) as error:
        return None, str(error)


def _beside(store: Path, path: str) -> str | None:
    folder = PurePosixPath(path).parent
    files = [
        RemoteFile(path=str(folder / one.name), size_bytes=0)
        for one in sorted(_inside(store, path).parent.glob("*.gguf"))
    ]
    chosen = choose_mmproj(files, path)
    return chosen.path if chosen else None


def _template(store: Path, path: str) -> str | None:
    beside = str(PurePosixPath(path).parent / "chat_template.jinja")
    return beside if _inside(store, beside).is_file() else None


def _inside(store: Path, path: str) -> Path:
    try:
        return resolve_inside(store, path)
    except ValueError as error:
        raise UnreadableModel(
            f"{path!r} is no path in the store; give one relative to it.", param="path"
        ) from error
