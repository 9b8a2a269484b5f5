"""The chat models: the reciter answers with a sentence, the babbler never stops."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]


@contextmanager
def new_gguf(path: Path, architecture: str, name: str, description: str) -> Iterator[gguf.GGUFWriter]:
    """A writer; the file appears at `path` when the block ends without an error."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(unfinished, architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_description(description)
    writer.add_organization("Modelyard")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        unfinished.replace(path)
    finally:
        writer.close()
        unfinished.unlink(missing_ok=True)


def zeros(*shape: int) -> Weights:
    return np.zeros(shape, dtype=np.float32)


def ones(*shape: int) -> Weights:
    return np.ones(shape, dtype=np.float32)


def uniform(random: np.random.Generator, *shape: int, spread: float) -> Weights:
    """Uniform random weights in [-spread, spread)."""
    return (random.random(shape, dtype=np.float32) - np.float32(0.5)) * np.float32(2 * spread)


# The words of ChatML stand between these; content is a string (the engine joins text parts itself).
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)

_UNKNOWN = "<unk>"
_BEGIN = "<s>"
_TURN_START = "<|im_start|>"
_TURN_END = "<|im_end|>"
_SPACE = "\u2581"  # how SentencePiece writes a space


DEMO_SENTENCE = (
    "Hello from Modelyard, your yard for local language models! "
    "This answer came all the way through queue, runner and engine; "
    "to meet a real model, try `yard pull`."
)
_ARCHITECTURE = "llama"
_CONTEXT_LENGTH = 32768
_HEAD_LENGTH = 32
_NORM_EPSILON = 1e-5
# By how much the right logit leads (the reciter) or a forbidden one trails (the babbler). Even at
# temperature 2 a margin of 40 leaves all other tokens together a chance below one in a million.
_LOGIT_MARGIN = 40.0
_MakeWeights = Callable[[int, int], Weights]


@dataclass(frozen=True)
class Vocabulary:
    """Token texts and types by token id, words last."""

    texts: tuple[str, ...]
    types: tuple[gguf.TokenType, ...]
    n_words: int

    @property
    def size(self) -> int:
        return len(self.texts)

    @property
    def first_word(self) -> int:
        """The id of the first word; the others follow it."""
        return self.size - self.n_words

    @property
    def turn_end(self) -> int:
        """The id of the token that ends an answer."""
        return self.texts.index(_TURN_END)


def chat_vocabulary(words: Sequence[str]) -> Vocabulary:
    """Give each word a token that is matched and printed exactly as written, spaces included."""
    control = [_BEGIN, _TURN_START, _TURN_END]
    single_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    reserved = (_UNKNOWN, *control, *single_bytes, _SPACE)
    if taken := set(reserved).intersection(words):
        raise ValueError(f"The word {taken.pop()!r} is a token of the chat format and cannot be recited.")
    types = (
        gguf.TokenType.UNKNOWN,
        *[gguf.TokenType.CONTROL] * len(control),
        *[gguf.TokenType.BYTE] * len(single_bytes),
        gguf.TokenType.NORMAL,
        *[gguf.TokenType.USER_DEFINED] * len(words),
    )
    return Vocabulary((*reserved, *words), types, len(words))


def add_chat_tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """Write the tokenizer and the chat template into the file's metadata."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(vocabulary.texts))
    writer.add_token_scores([0.0] * vocabulary.size)
    writer.add_token_types(list(vocabulary.types))
    writer.add_unk_token_id(vocabulary.texts.index(_UNKNOWN))
    writer.add_bos_token_id(vocabulary.texts.index(_BEGIN))
    writer.add_eos_token_id(vocabulary.turn_end)
    writer.add_eot_token_id(vocabulary.turn_end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    # A prefixed space would change the words, and grammars would start with one.
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def split_sentence(sentence: str) -> list[str]:
    """Split a sentence into token texts with their leading white space; joined they are the sentence.

    A token has exactly one successor, so no piece may repeat. A repeated word is appended to the piece before
    it: every piece starts with a new word, which makes all pieces different, and the same for a prefix of the
    sentence.
    """
    seen: set[str] = set()
    parts: list[str] = []
    for spaced_word in re.findall(r"\s*\S+", sentence.strip()):
        word = spaced_word.strip()
        if word in seen:
            parts[-1] += spaced_word
        else:
            parts.append(spaced_word)
        seen.add(word)
    if not parts:
        raise ValueError("The sentence to recite has no words.")
    return parts


@dataclass(frozen=True)
class _Shape:
    n_embd: int
    n_layer: int
    n_ff: int


def write_reciter(path: Path, sentence: str) -> None:
    """Write a chat model (about 0.4 MB) that answers every prompt with `sentence`, then stops.

    It generates one word a token (a repeated word shares a token with the words before it) at every usual
    temperature. It continues a prompt that ends inside the sentence, and answers any other from the first
    word on. White space around the sentence is dropped.

    The layers add nothing, so what reaches the output matrix is the last token's embedding:
    one axis for each word, one more shared by all other tokens. The output matrix turns each axis
    into the logit of the word to come. ValueError for a sentence it cannot recite.
    """
    vocabulary = chat_vocabulary(split_sentence(sentence))
    n_axes = vocabulary.n_words + 1
    shape = _Shape(n_embd=_HEAD_LENGTH * max(2, -(-n_axes // _HEAD_LENGTH)), n_layer=2, n_ff=64)
    with new_gguf(path, _ARCHITECTURE, "Tiny Reciter", "Recites one sentence and stops.") as writer:
        _add_metadata(writer, shape, vocabulary)
        embeddings, output = _chain(vocabulary, shape.n_embd)
        _add_ends(writer, embeddings, output)
        _add_layers(writer, shape, inner=zeros, outer=zeros)


def write_babbler(path: Path, *, n_embd: int = 64, n_layer: int = 2, n_ff: int = 128) -> None:
    """Write a chat model with random weights that generates syllables and never stops.

    `n_embd` (a multiple of 32), `n_layer` and `n_ff` are the width, the depth and the inner width: the
    defaults make a file of 0.6 MB; 512, 8 and 2048 make 136 MB, slow enough to interrupt.

    Axis 0 of the residual stream holds a constant that no layer touches; the output matrix uses it
    to push every token that is not a syllable out of reach.
    """
    if n_embd < _HEAD_LENGTH or n_embd % _HEAD_LENGTH or n_layer < 1 or n_ff < 1:
        raise ValueError(f"The width must be a multiple of {_HEAD_LENGTH}, and no size may be below 1.")
    shape = _Shape(n_embd, n_layer, n_ff)
    random = np.random.Generator(np.random.PCG64(20_260_101))
    vocabulary = chat_vocabulary(_syllables())
    with new_gguf(path, _ARCHITECTURE, "Tiny Babbler", "Babbles until it is cut off.") as writer:
        _add_metadata(writer, shape, vocabulary)
        embeddings, output = _babble(vocabulary, n_embd, random)
        _add_ends(writer, embeddings, output)

        def inner(rows: int, columns: int) -> Weights:
            return uniform(random, rows, columns, spread=columns**-0.5)

        def outer(rows: int, columns: int) -> Weights:
            weights = inner(rows, columns)
            weights[0] = 0.0
            return weights

        _add_layers(writer, shape, inner=inner, outer=outer)


def _chain(vocabulary: Vocabulary, n_embd: int) -> tuple[Weights, Weights]:
    """Embeddings and output matrix, both (vocabulary, n_embd), that lead from each word to the next."""
    length = np.float32(n_embd**0.5)  # of a vector that RMSNorm leaves as it is
    axis = np.zeros(vocabulary.size, dtype=np.intp)
    axis[vocabulary.first_word :] = np.arange(1, vocabulary.n_words + 1)
    embeddings = zeros(vocabulary.size, n_embd)
    embeddings[np.arange(vocabulary.size), axis] = length
    successors = [*range(vocabulary.first_word, vocabulary.size), vocabulary.turn_end]
    output = zeros(vocabulary.size, n_embd)
    output[successors, np.arange(len(successors))] = np.float32(_LOGIT_MARGIN) / length
    return embeddings, output


def _babble(vocabulary: Vocabulary, n_embd: int, random: np.random.Generator) -> tuple[Weights, Weights]:
    """Embeddings and output matrix, both (vocabulary, n_embd), that only ever choose words."""
    embeddings = uniform(random, vocabulary.size, n_embd, spread=1.0)
    embeddings[:, 0] = n_embd**0.5
    output = uniform(random, vocabulary.size, n_embd, spread=6.0 * n_embd**-0.5)
    output[:, 0] = 0.0
    output[: vocabulary.first_word] = 0.0
    # The rest of the stream may grow several times as long as axis 0, which RMSNorm then shortens.
    output[: vocabulary.first_word, 0] = -10.0 * _LOGIT_MARGIN * n_embd**-0.5
    return embeddings, output


def _syllables() -> list[str]:
    """Speakable token texts: each syllable once with a space in front and once without."""
    return [
        space + consonant + vowel
        for space, consonant, vowel in product((" ", ""), "bdfghklmnprstvwz", "aeiou")
    ]


def _add_metadata(writer: gguf.GGUFWriter, shape: _Shape, vocabulary: Vocabulary) -> None:
    n_head = shape.n_embd // _HEAD_LENGTH
    writer.add_context_length(_CONTEXT_LENGTH)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head)
    writer.add_rope_dimension_count(_HEAD_LENGTH)
    writer.add_layer_norm_rms_eps(_NORM_EPSILON)
    writer.add_vocab_size(vocabulary.size)
    add_chat_tokenizer(writer, vocabulary)


def _add_ends(writer: gguf.GGUFWriter, embeddings: Weights, output: Weights) -> None:
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output_norm.weight", ones(embeddings.shape[1]))
    writer.add_tensor("output.weight", output)


def _add_layers(writer: gguf.GGUFWriter, shape: _Shape, *, inner: _MakeWeights, outer: _MakeWeights) -> None:
    """Add the layers; `outer` makes the two matrices of each that write to the residual stream."""
    width, n_ff = shape.n_embd, shape.n_ff
    for layer in range(shape.n_layer):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", ones(width))
        for attention in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"{block}.{attention}.weight", inner(width, width))
        writer.add_tensor(f"{block}.attn_output.weight", outer(width, width))
        for gate in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{block}.{gate}.weight", inner(n_ff, width))
        writer.add_tensor(f"{block}.ffn_down.weight", outer(width, n_ff))
