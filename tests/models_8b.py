"""The header of a model of realistic size, without weights."""

from tests.gguf_bytes import Weight, gguf_front

N_LAYER, N_EMBD = 32, 4096
_Q4_K, _F16 = 12, 1


def _weight(name: str, n_elements: int, kind: int) -> Weight:
    size_bytes = n_elements // 256 * 144 if kind == _Q4_K else n_elements * 2
    return Weight(name, (N_EMBD, n_elements // N_EMBD), kind, size_bytes)


def front_8b(*, kind: int = _Q4_K, n_tokens: int = 128_000, **more: str | int) -> tuple[bytes, int]:
    """The header of a llama with 8 billion weights and its vocabulary, and the size of the whole file."""
    values: dict[str, object] = {
        "general.architecture": "llama",
        "llama.block_count": N_LAYER,
        "llama.context_length": 131_072,
        "llama.embedding_length": N_EMBD,
        "llama.feed_forward_length": 14_336,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "tokenizer.ggml.tokens": [f"token {number}" for number in range(n_tokens)],
        "tokenizer.chat_template": "{{ messages }}",
    }
    blocks = [_weight(f"blk.{n}.all.weight", 218_103_808, kind) for n in range(N_LAYER)]
    ends = [_weight(name, 524_288_000, kind) for name in ("token_embd.weight", "output.weight")]
    return gguf_front({**values, **more}, [*ends, *blocks])  # type: ignore[dict-item]


def front_8b_f16() -> tuple[bytes, int]:
    """The same, four times as large."""
    return front_8b(kind=_F16)
