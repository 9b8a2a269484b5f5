"""The server of the engine sentence-transformers. This module has only its start options, and stays light."""

from schemas.base import Record
from schemas.models import Mode
from schemas.profiles import EmbeddingOptions


class SentenceServerOptions(Record):
    """One JSON document in the arguments of the server."""

    model: str
    """Folder of the model."""
    name: str
    mode: Mode
    device: str | None = None
    """`cpu`, or None for a visible GPU."""
    embedding: EmbeddingOptions = EmbeddingOptions()
