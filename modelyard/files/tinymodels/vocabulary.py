"""The vocabulary of the chat models: ChatML tokens, one token for each byte, and the words of the answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import gguf

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
