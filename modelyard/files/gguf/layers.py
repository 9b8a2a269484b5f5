"""Cache and state sizes of each layer, after llama.cpp's llama-model.cpp and llama-hparams.cpp.

An architecture without a rule here counts as one that caches everything: rather too much than too little.
"""

import msgspec

from modelyard.files.gguf.header import Header

# For these llama_model::create_memory makes no cache: encoders, which have no output matrix either, ...
_ENCODERS = {
    *("bert", "clef", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3"),
    *("modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe"),
}
# ... and models that do not write from left to right.
_NO_CACHE = _ENCODERS | {"dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec"}
_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
# One in this many layers attends, the others have a state; the default where the file has no number.
_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
# Attention in layers with key heads, else a state.
_MIXED = {
    *("bailingmoe3", "glm5-next", "granitehybrid", "jamba", "kimi-k3", "kimi-linear"),
    *("lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "plamo2"),
}
_BOTH = {"falcon-h1"}

# Default period of the sliding window pattern; 0: all layers slide.
_PERIODS = {
    **dict.fromkeys(
        (
            *("afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4", "laguna"),
            *("llama4", "mellum", "muse-glimmer", "olmo2", "smallthinker"),
        ),
        4,
    ),
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "lfm2": 0,
    "plamo3": 8,
}
_FULL_FIRST = {"cohere2moe", "laguna", "smallthinker"}
_WINDOWS = {"gemma2": 4096, "llama4": 8192}
_GEMMA3N_OWN_CACHES = 20


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of one layer in numbers (not bytes), for each cache cell and for each slot."""

    key_length: int
    """Of all heads; 0: no cache."""
    value_length: int
    indexer_length: int
    window: int
    """In tokens; 0: the whole context."""
    state_length: int
    """Numbers of 4 bytes for each slot, whatever the length of its text."""


def make_layers(header: Header) -> tuple[Layer, ...]:
    sliding = _sliding(header)
    return tuple(_layer(header, index, sliding[index]) for index in range(header.n_layer))


def is_encoder(header: Header) -> bool:
    """A model that returns vectors or scores only: it has no cache and no logits."""
    return header.architecture in _ENCODERS


def _layer(header: Header, index: int, slides: bool) -> Layer:
    attention, has_cache = header.attention, _has_cache(header, index)
    heads = attention.n_head_kv[index] if has_cache else 0
    value_length = attention.value_length_swa if slides else attention.value_length
    return Layer(
        key_length=heads * (attention.key_length_swa if slides else attention.key_length),
        value_length=0 if attention.key_length_mla else heads * value_length,
        indexer_length=attention.indexer_key_length if heads else 0,
        window=_window(header) if slides else 0,
        state_length=_state_length(header) if _has_state(header, index) else 0,
    )


def _has_cache(header: Header, index: int) -> bool:
    if header.architecture in _NO_CACHE | _RECURRENT or index >= header.n_layer - header.n_layer_nextn:
        return False
    if header.architecture == "gemma3n":
        return index < _GEMMA3N_OWN_CACHES
    if index >= header.n_layer - header.attention.shared_kv_layers:
        return False
    return header.architecture not in _INTERVALS or not _has_state(header, index)


def _has_state(header: Header, index: int) -> bool:
    architecture = header.architecture
    if architecture in _INTERVALS:
        interval = header.recurrent.full_attention_interval or _INTERVALS[architecture]
        return (index + 1) % interval != 0
    if architecture in _MIXED:
        is_feed_forward = architecture.startswith("nemotron") and header.n_ff[index] > 0
        return header.attention.n_head_kv[index] == 0 and not is_feed_forward
    return architecture in _RECURRENT | _BOTH


def _state_length(header: Header) -> int:
    """llama_hparams::n_embd_r() + n_embd_s(): the window of the convolution, and the state itself."""
    sizes, n_head = header.recurrent, max(header.attention.n_head, default=0)
    if sizes.wkv_head_size:
        return header.n_embd * (sizes.token_shift_count + sizes.wkv_head_size)
    if sizes.shortconv_l_cache:
        return header.n_embd * (sizes.shortconv_l_cache - 1)
    if sizes.kda_head_dim:
        kernel = sizes.conv_kernel or 4
        return n_head * sizes.kda_head_dim * (3 * (kernel - 1) + sizes.kda_head_dim)
    if header.architecture == "minimax-01":
        return n_head * header.attention.key_length**2
    convolved = sizes.inner_size + 2 * sizes.group_count * sizes.state_size
    return max(0, sizes.conv_kernel - 1) * convolved + sizes.state_size * sizes.inner_size


def _window(header: Header) -> int:
    if header.architecture == "llama4":
        return _WINDOWS["llama4"]
    return header.attention.sliding_window or _WINDOWS.get(header.architecture, 0)


def _sliding(header: Header) -> tuple[bool, ...]:
    n_layer, pattern = header.n_layer, header.attention.sliding_pattern
    if isinstance(pattern, tuple):
        return pattern
    period = _PERIODS.get(header.architecture)
    if period is None or not _window(header):
        return (False,) * n_layer
    if pattern is not None:
        period = pattern
    full = 0 if header.architecture in _FULL_FIRST else period - 1
    return tuple(period == 0 or index % period != full for index in range(n_layer))
