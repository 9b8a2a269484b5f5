"""The encoders: an embedder, and a reranker that scores documents for a query."""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from string import ascii_lowercase, digits, punctuation

import gguf
import numpy as np

from modelyard.files.tinymodels.chat import Weights, new_gguf, ones, zeros

_ARCHITECTURE = "bert"
_CONTEXT_LENGTH = 512
_N_EMBD = 64
_N_FF = 64
_NORM_EPSILON = 1e-12
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORD_START = "\u2581"

# The first axes of the residual stream have a meaning each; the rest holds what makes tokens differ.
_IS_SPECIAL, _IS_ALONE, _ALONE_SHARE, _CONTENT = 0, 1, 2, 3
# How strongly tokens attend to [CLS] and [SEP]: as much, together, as to one token like themselves.
_SPECIAL_PULL = 7.0


def _square() -> Weights:
    return zeros(_N_EMBD, _N_EMBD)


@dataclass
class _Attention:
    """The attention of one layer with a single head; matrices are (to, from), and add nothing at first."""

    query: Weights = field(default_factory=_square)
    query_bias: Weights = field(default_factory=lambda: zeros(_N_EMBD))
    key: Weights = field(default_factory=_square)
    value: Weights = field(default_factory=_square)
    output: Weights = field(default_factory=_square)


def write_embedder(path: Path) -> None:
    """Write an encoder with mean pooling (64 axes, up to 512 tokens) for embeddings.

    A text's vector is the mean of its letter pairs' vectors: texts that share words lie close together.
    """
    with new_gguf(path, _ARCHITECTURE, "Tiny Embedder", "Embeds texts by their letter pairs.") as writer:
        _add_metadata(writer, n_layer=1, pooling=gguf.PoolingType.MEAN)
        _add_embeddings(writer, special=0.0)
        _add_layer(writer, 0, _Attention())


def write_reranker(path: Path) -> None:
    """Write an encoder with a classifier head (up to 512 tokens) that scores documents for a query.

    The more of the letter pairs in query and document come twice, the higher the score: in the first
    layer each token attends to its like and so finds out how alone it is, in the second [CLS] takes
    the mean of that, and the head turns the mean into a score.
    """
    with new_gguf(path, _ARCHITECTURE, "Tiny Reranker", "Ranks documents by shared letter pairs.") as writer:
        _add_metadata(writer, n_layer=2, pooling=gguf.PoolingType.RANK)
        _add_embeddings(writer, special=1.0)
        _add_layer(writer, 0, _find_the_like())
        _add_layer(writer, 1, _take_the_mean())
        _add_head(writer)


def _find_the_like() -> _Attention:
    attention = _Attention(key=np.eye(_N_EMBD, dtype=np.float32), output=np.eye(_N_EMBD, dtype=np.float32))
    attention.query[_CONTENT:, _CONTENT:] = np.eye(_N_EMBD - _CONTENT)
    attention.query_bias[_IS_SPECIAL] = _SPECIAL_PULL
    attention.value[_IS_ALONE, _IS_SPECIAL] = 1.0
    return attention


def _take_the_mean() -> _Attention:
    attention = _Attention(key=np.eye(_N_EMBD, dtype=np.float32), output=np.eye(_N_EMBD, dtype=np.float32))
    attention.query_bias[_IS_SPECIAL] = -2 * _SPECIAL_PULL
    attention.value[_ALONE_SHARE, _IS_ALONE] = 1.0
    return attention


def _add_head(writer: gguf.GGUFWriter) -> None:
    """Turn the mean into a score between -4 and 4: below 0 little is shared, 3 is the query itself."""
    dense, bias, out = _square(), zeros(_N_EMBD), zeros(1, _N_EMBD)
    dense[0, _ALONE_SHARE] = -2.0
    bias[0] = 4.4
    out[0, 0] = 4.0
    writer.add_tensor("cls.weight", dense)
    writer.add_tensor("cls.bias", bias)
    writer.add_tensor("cls.output.weight", out)
    writer.add_tensor("cls.output.bias", zeros(1))


def _tokens() -> list[str]:
    """Letters, pairs of letters, digits and punctuation, at the start of a word and inside it."""
    pairs = [first + second for first, second in product(ascii_lowercase, repeat=2)]
    texts = [*ascii_lowercase, *digits, *pairs]
    return [*_SPECIAL, *(_WORD_START + text for text in [*texts, *punctuation]), *texts]


def _add_metadata(writer: gguf.GGUFWriter, n_layer: int, pooling: gguf.PoolingType) -> None:
    tokens = _tokens()
    normal = [gguf.TokenType.NORMAL] * (len(tokens) - len(_SPECIAL))
    writer.add_context_length(_CONTEXT_LENGTH)
    writer.add_embedding_length(_N_EMBD)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(_N_FF)
    writer.add_head_count(1)
    writer.add_layer_norm_eps(_NORM_EPSILON)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * len(_SPECIAL) + normal)
    writer.add_token_type_count(2)
    writer.add_pad_token_id(_SPECIAL.index("[PAD]"))
    writer.add_unk_token_id(_SPECIAL.index("[UNK]"))
    writer.add_bos_token_id(_SPECIAL.index("[CLS]"))
    writer.add_eos_token_id(_SPECIAL.index("[SEP]"))
    writer.add_sep_token_id(_SPECIAL.index("[SEP]"))
    writer.add_mask_token_id(_SPECIAL.index("[MASK]"))


def _add_embeddings(writer: gguf.GGUFWriter, special: float) -> None:
    """Add embeddings (tokens, 64): random signs for content, `special` on its own axis; no positions."""
    tokens = _tokens()
    random = np.random.Generator(np.random.PCG64(20_260_102))
    embeddings = zeros(len(tokens), _N_EMBD)
    signs = random.integers(0, 2, size=(len(tokens), _N_EMBD - _CONTENT)) * 2 - 1
    embeddings[:, _CONTENT:] = signs
    for marker in ("[CLS]", "[SEP]"):
        embeddings[_SPECIAL.index(marker)] = 0.0
        embeddings[_SPECIAL.index(marker), _IS_SPECIAL] = special
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("token_types.weight", zeros(2, _N_EMBD))
    writer.add_tensor("position_embd.weight", zeros(_CONTEXT_LENGTH, _N_EMBD))
    _add_norm(writer, "token_embd_norm")


def _add_layer(writer: gguf.GGUFWriter, layer: int, attention: _Attention) -> None:
    """Add one layer; its feed-forward part adds nothing."""
    block = f"blk.{layer}"
    _add_linear(writer, f"{block}.attn_q", attention.query, attention.query_bias)
    _add_linear(writer, f"{block}.attn_k", attention.key, zeros(_N_EMBD))
    _add_linear(writer, f"{block}.attn_v", attention.value, zeros(_N_EMBD))
    _add_linear(writer, f"{block}.attn_output", attention.output, zeros(_N_EMBD))
    _add_norm(writer, f"{block}.attn_output_norm")
    _add_linear(writer, f"{block}.ffn_up", zeros(_N_FF, _N_EMBD), zeros(_N_FF))
    _add_linear(writer, f"{block}.ffn_down", zeros(_N_EMBD, _N_FF), zeros(_N_EMBD))
    _add_norm(writer, f"{block}.layer_output_norm")


def _add_linear(writer: gguf.GGUFWriter, name: str, weight: Weights, bias: Weights) -> None:
    writer.add_tensor(f"{name}.weight", weight)
    writer.add_tensor(f"{name}.bias", bias)


def _add_norm(writer: gguf.GGUFWriter, name: str) -> None:
    _add_linear(writer, name, ones(_N_EMBD), zeros(_N_EMBD))
