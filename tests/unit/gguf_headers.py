"""Headers of models of any architecture."""

from modelyard.files.gguf.header import Header, make_header
from modelyard.files.gguf.parse import parse
from tests.gguf_bytes import Simple, Weight, gguf_bytes

MAMBA: dict[str, Simple | list[Simple]] = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 1024,
    "ssm.state_size": 16,
    "ssm.group_count": 2,
}
MAMBA_STATE = 3 * (1024 + 2 * 2 * 16) + 16 * 1024


def header(
    architecture: str,
    values: dict[str, Simple | list[Simple]] | None = None,
    *weights: Weight,
    n_layer: int = 4,
) -> Header:
    """A model with 8 heads of 64 numbers and 2 key heads; `values` stand below its architecture."""
    common: dict[str, Simple | list[Simple]] = {
        "block_count": n_layer,
        "embedding_length": 512,
        "context_length": 4096,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
    }
    own = {f"{architecture}.{key}": value for key, value in (common | (values or {})).items()}
    raw = gguf_bytes({"general.architecture": architecture} | own, weights)
    return make_header(parse(raw, len(raw)))
