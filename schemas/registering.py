"""Registration of files as a model: fields that the user sets, and fields derived from the files."""

from schemas.base import Record, check_model_name
from schemas.models import Mode, ModelSpec


class ModelOverrides(Record):
    """Fields of a new model that the user sets; the rest is derived from its files."""

    aliases: tuple[str, ...] = ()
    """Other names of the model."""
    mode: Mode | None = None
    """The purpose of the model; None: guessed."""
    n_ctx: int | None = None
    """Context in tokens; None: the largest that fits."""
    engine: str | None = None
    """The engine that runs it; None: by the format of its files."""

    def __post_init__(self) -> None:
        for alias in self.aliases:
            check_model_name(alias)
        if self.n_ctx is not None and not 16 <= self.n_ctx <= 16_777_216:
            raise ValueError("n_ctx must be between 16 and 16777216 tokens")


class RegisterFiles(Record):
    """Make a model of files in a store."""

    path: str
    """Relative to the store: a GGUF file, or a folder of safetensors; or an entry of the library."""
    name: str | None = None
    """The model's name; None: after the files."""
    overrides: ModelOverrides = ModelOverrides()
    dry_run: bool = False
    """Guess, and change nothing."""

    def __post_init__(self) -> None:
        if self.name is not None:
            check_model_name(self.name)


class GuessedField(Record):
    """Why a field of a model is as it is."""

    field: str
    value: str
    reason: str
    """The end of a sentence, such as `its header states …`."""


class Registered(Record):
    """The model that was made, or would be."""

    spec: ModelSpec
    reasons: tuple[GuessedField, ...]
    """For every field that was guessed."""
    revision: int | None = None
    """The model's revision; None: it was a dry run."""
    kept: tuple[str, ...] = ()
    """Fields of an existing model that keep the user's values."""
