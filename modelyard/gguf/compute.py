"""How large llama.cpp's compute buffer gets: what lies in memory while one batch goes through the layers.

ggml lays the tensors of a graph over each other as far as their lives allow, so the buffer is what lives
all the time plus the largest thing beside it. The factors come from what llama-server reports
(`sched_reserve: compute buffer size`) for models of the architectures llama, qwen3, qwen3moe, gemma3,
deepseek2, lfm2, bert and mamba: it is 5 x width + 3 x feed-forward for most. Rounded up, with N tokens in
a batch and in floats of 4 bytes:

    N x (8 x width + the largest of: feed-forward, attention, scores, state, logits) + the mask, N x cells
"""

from modelyard.gguf.header import Header
from modelyard.gguf.layers import is_encoder

_FLOAT_BYTES = 4
_RESIDUALS = 8
"""The stream, its normed copy, what attention and feed-forward return, and the input embeddings."""
_FEED_FORWARD_COPIES = 3
"""gate, up and their product."""
_ATTENTION_COPIES = 4
"""Queries, keys, values and the result."""
_STATE_COPIES = 6
"""What a recurrent layer makes of its input."""


def activation_bytes(
    header: Header, *, n_batch: int, n_outputs: int, n_cells: int, flash_attention: bool
) -> int:
    """What is needed once on every device: for n_batch tokens, n_cells of cache, n_outputs rows of logits."""
    widest = max(
        _feed_forward(header),
        _ATTENTION_COPIES * max(header.attention.n_head, default=0) * header.attention.key_length,
        0 if flash_attention else max(header.attention.n_head, default=0) * n_cells,
        _STATE_COPIES * header.recurrent.inner_size,
        0 if is_encoder(header) else -(-header.n_vocab * n_outputs // n_batch),
    )
    return n_batch * (_RESIDUALS * header.n_embd + widest) * _FLOAT_BYTES


def mask_bytes(*, n_batch: int, n_cells: int) -> int:
    """Which token may look at which cell. With flash attention newer versions take half of it."""
    return n_batch * n_cells * _FLOAT_BYTES


def output_bytes(header: Header, n_parallel: int) -> int:
    """The logits and embeddings that are handed out, one row a slot, in main memory."""
    return n_parallel * (header.n_vocab + header.n_embd) * _FLOAT_BYTES


def _feed_forward(header: Header) -> int:
    dense = _FEED_FORWARD_COPIES * max(header.n_ff, default=0)
    expert = _FEED_FORWARD_COPIES * max(header.n_ff_exp, default=0) + header.n_embd
    return max(dense, header.n_expert_used * expert)
