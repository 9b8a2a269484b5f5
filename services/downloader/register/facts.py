"""Facts read from a model's files, the input of a proposal."""

from pathlib import Path, PurePosixPath

from modelyard.files.gguf.header import Header
from modelyard.files.gguf.parse import GgufError
from modelyard.files.gguf.reader import read_model
from modelyard.files.safetensors import ModelCard, check_safetensors, read_stored_card, weight_files
from modelyard.host.paths import resolve_inside
from schemas.base import Format, Record
from schemas.errors import UnreadableModel
from schemas.models import ModelSource
from services.downloader.selection.files import RemoteFile
from services.downloader.selection.gguf import choose_mmproj


class ModelFacts(Record):
    path: str
    """Relative to the store: a GGUF file, or a folder."""
    format: Format
    header: Header | None = None
    """Header of a GGUF file; None where it is unreadable, with the reason in `problem`."""
    card: ModelCard = ModelCard()
    """Card of a folder of safetensors."""
    size_bytes: int = 0
    """Size of the weights."""
    mmproj: str | None = None
    mmproj_bytes: int = 0
    template: str | None = None
    """Path of a chat template beside a model that has none."""
    task: str | None = None
    """The hub's task tag."""
    source: ModelSource | None = None
    problem: str | None = None

    @property
    def n_ctx_train(self) -> int | None:
        """Trained context in tokens."""
        return (self.header.n_ctx_train or None) if self.header else self.card.n_ctx_train


def read_facts(
    store: Path,
    path: str,
    *,
    mmproj: str | None = None,
    with_mmproj: bool = True,
    task: str | None = None,
    source: ModelSource | None = None,
) -> ModelFacts:
    """Read a model's files; blocks. UnreadableModel with a sentence where there is no model.

    `mmproj` is the projector downloaded with it; the default is the best projector beside it.
    """
    place = _inside(store, path)
    if place.is_dir():
        return _folder_facts(place, path, task, source)
    if not place.is_file():
        raise UnreadableModel(f"There is no {path} in the store.", param="path")
    if place.suffix.lower() != ".gguf":
        raise UnreadableModel(
            f"{path} is not a GGUF file; give one, or the folder of a model with safetensors.", param="path"
        )
    header, problem = _header(place)
    mmproj = mmproj or (_projector_beside(store, path) if with_mmproj else None)
    template = _template_beside(store, path) if header and not header.has_chat_template else None
    return ModelFacts(
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


def _folder_facts(place: Path, path: str, task: str | None, source: ModelSource | None) -> ModelFacts:
    try:
        check_safetensors(place)
    except ValueError as error:
        raise UnreadableModel(f"{path}: {error}", param="path") from error
    size_bytes = sum(part.stat().st_size for part in weight_files(place))
    return ModelFacts(
        path=path,
        format=Format.SAFETENSORS,
        card=read_stored_card(place),
        size_bytes=size_bytes,
        task=task,
        source=source,
    )


def _header(place: Path) -> tuple[Header | None, str | None]:
    # A newer llama.cpp may understand what is unreadable here: a reason, not a refusal.
    try:
        return read_model(place), None
    except (GgufError, OSError) as error:
        return None, str(error)


def _projector_beside(store: Path, path: str) -> str | None:
    folder = PurePosixPath(path).parent
    files = [
        RemoteFile(path=str(folder / file.name), size_bytes=0)
        for file in sorted(_inside(store, path).parent.glob("*.gguf"))
    ]
    chosen = choose_mmproj(files, path)
    return chosen.path if chosen else None


def _template_beside(store: Path, path: str) -> str | None:
    beside = str(PurePosixPath(path).parent / "chat_template.jinja")
    return beside if _inside(store, beside).is_file() else None


def _inside(store: Path, path: str) -> Path:
    try:
        return resolve_inside(store, path)
    except ValueError as error:
        raise UnreadableModel(
            f"{path!r} is not a path in the store; give one relative to it.", param="path"
        ) from error
