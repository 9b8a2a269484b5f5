"""Files as the hub lists them, and those that were chosen."""

from msgspec import Struct

from schemas.base import Format


class RemoteFile(Struct, frozen=True, kw_only=True):
    """A file as the hub lists it; only small ones have no sha256, but git's name for the bytes."""

    path: str
    size_bytes: int
    sha256: str | None = None
    blob_sha1: str | None = None


class Selection(Struct, frozen=True, kw_only=True):
    """The files of one model. Without a format they are but files, of which no model is made."""

    format: Format | None
    quant: str | None = None
    """What tells this model from others of the same repository."""
    model_files: tuple[RemoteFile, ...]
    """Shards in order; of a folder all files."""
    mmproj: RemoteFile | None = None
    """The vision part that goes with it."""

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """Everything to fetch, the model first."""
        return self.model_files + ((self.mmproj,) if self.mmproj else ())

    @property
    def model_path(self) -> str | None:
        """What an engine is given, relative to the repository's folder: the first file, or the folder."""
        if self.format is None:
            return None
        return "." if self.format is Format.SAFETENSORS else self.model_files[0].path


class SelectionError(ValueError):
    """Nothing can be chosen; the message is a sentence, the code tells programs why."""

    def __init__(self, sentence: str, code: str = "no_such_model") -> None:
        super().__init__(sentence)
        self.code = code
