"""What a model's files are."""

from enum import StrEnum


class Format(StrEnum):
    """What a model's `path` leads to."""

    GGUF = "gguf"
    """A file of llama.cpp's, or the first of its shards."""
    SAFETENSORS = "safetensors"
    """A folder with config.json and weights, as the hub has it."""
