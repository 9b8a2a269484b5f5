"""What the server is started with, as one JSON document in its arguments."""

from schemas.base import Record
from schemas.models import Mode
from schemas.profiles import EmbeddingOptions


class Options(Record):
    """One model."""

    model: str
    """Its folder."""
    name: str
    mode: Mode
    device: str | None = None
    """`cpu`, or None for a GPU if one can be seen."""
    embedding: EmbeddingOptions = EmbeddingOptions()
