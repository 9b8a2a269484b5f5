"""What a model is for, by what its files say; pure, a table of rules for each format."""

import re
from typing import NamedTuple

from modelyard.gguf.header import Header
from modelyard.gguf.layers import is_encoder
from modelyard.safetensors import Card
from schemas.base import Format
from schemas.errors import UnreadableModel
from schemas.models import Mode
from services.downloader.hub.metadata import mode_of
from services.downloader.registering.facts import Facts

_VECTOR_POOLINGS = frozenset({"mean", "cls", "last"})
_OTHER_PROGRAMS = {
    "whisper": "speech recognition of whisper.cpp",
    **dict.fromkeys(
        (
            *("flux", "sd1", "sdxl", "sd3", "aura", "hidream", "lumina2", "qwen_image", "z_image", "pixart"),
            *("wan", "hyvid", "hunyuan_video", "ltxv", "cosmos", "mochi", "kolors", "chroma", "omnigen2"),
        ),
        "making images or video",
    ),
    "t5encoder": "encoding text for another model",
    "kokoro": "speech",
}
"""GGUF files that llama.cpp does not serve, by their architecture."""
_KINDS = {
    "mmproj": "the vision part of a model",
    "adapter": "an adapter for a model (a LoRA)",
    "imatrix": "a list of what matters in a model",
    "control_vector": "a control vector for a model",
    "vocab": "a vocabulary without weights",
}
_RERANK = re.compile(r"(?<![a-z])(re-?rank(er|ing)?|cross-?encoder)(?![a-z])")
_EMBED = re.compile(r"(?<![a-z])(embed(ding|dings|der)?|gte|e5|bge)(?![a-z])")
_CHAT = re.compile(r"(?<![a-z])(chat|instruct|it|assistant)(?![a-z])")


class Guess(NamedTuple):
    """A value, and why; the reason ends a sentence that begins with the value."""

    value: str
    reason: str


def guess_mode(facts: Facts) -> Guess:
    """The mode; UnreadableModel for what no engine of the yard serves."""
    if facts.format is Format.SAFETENSORS:
        return _of_card(facts.card, facts)
    if facts.header is None:
        return _by_words(facts) or Guess(
            Mode.CHAT, f"most models are for that; the header says nothing: {facts.problem}"
        )
    return _of_header(facts.header, facts)


def check_served(facts: Facts) -> None:
    """UnreadableModel for a GGUF file that is no model for llama.cpp."""
    header = facts.header
    if header is None:
        return
    kind = "mmproj" if header.is_mmproj else header.kind
    if kind in _KINDS:
        raise UnreadableModel(f"{facts.path} is {_KINDS[kind]}, and no model by itself.", param="path")
    if (purpose := _OTHER_PROGRAMS.get(header.architecture.lower())) is not None:
        raise UnreadableModel(
            f"{facts.path} is for {purpose} ({header.architecture}), which llama.cpp does not serve.",
            param="path",
        )
    if header.n_params == 0 and header.n_shards == 1:
        raise UnreadableModel(f"{facts.path} has no weights in it.", param="path")


def _of_header(header: Header, facts: Facts) -> Guess:
    if header.pooling == "rank":
        return Guess(Mode.RERANK, "its header says that it pools by `rank`")
    if is_encoder(header):
        if words := _found(_RERANK, facts.path):
            return Guess(Mode.RERANK, f"it is an encoder ({header.architecture}) and called {words!r}")
        return Guess(Mode.EMBEDDING, f"its architecture {header.architecture} turns text into vectors")
    if header.pooling in _VECTOR_POOLINGS:
        return Guess(Mode.EMBEDDING, f"its header says that it pools by `{header.pooling}`")
    if guessed := _by_task(facts, {Mode.EMBEDDING, Mode.RERANK}) or _by_words(facts):
        return guessed
    if facts.mmproj is not None and (guessed := _by_task(facts, {Mode.TRANSCRIPTION})):
        return guessed
    return _of_template(facts, has_template=header.has_chat_template)


def _of_card(card: Card, facts: Facts) -> Guess:
    name = card.architectures[0] if card.architectures else ""
    if name.endswith("ForSequenceClassification"):
        return _of_classifier(card, facts, name)
    if card.modules:
        return Guess(Mode.EMBEDDING, "it has modules.json of sentence-transformers")
    if name.startswith("Whisper") or name.endswith(("ForSpeechSeq2Seq", "ForCTC", "ForRNNT")):
        return Guess(Mode.TRANSCRIPTION, f"config.json names {name}")
    if guessed := _by_task(facts, {Mode.EMBEDDING, Mode.RERANK}) or _by_words(facts):
        return guessed
    if name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")):
        return _of_template(facts, has_template=card.has_chat_template)
    if name.endswith(("Model", "ForMaskedLM", "ForPreTraining")):
        return Guess(Mode.EMBEDDING, f"config.json names {name}, which turns text into vectors")
    return _by_task(facts, set(Mode)) or _of_template(facts, has_template=card.has_chat_template)


def _of_classifier(card: Card, facts: Facts, name: str) -> Guess:
    """With one class it scores; with more it tells kinds of text apart, which nobody here asks for."""
    if card.n_labels == 1 or _found(_RERANK, facts.path) or mode_of(facts.task) is Mode.RERANK:
        return Guess(Mode.RERANK, f"config.json names {name}, which scores pairs of texts")
    raise UnreadableModel(
        f"{facts.path} tells {card.n_labels or 'some'} kinds of text apart ({name}), "
        "which no path of the yard asks for.",
        param="path",
    )


def _of_template(facts: Facts, *, has_template: bool) -> Guess:
    if has_template:
        return Guess(Mode.CHAT, "it has a chat template")
    if facts.template is not None:
        return Guess(Mode.CHAT, "a chat template lies beside it")
    if words := _found(_CHAT, facts.path):
        return Guess(
            Mode.CHAT, f"it is called {words!r}; it has no chat template, so the engine's own is used"
        )
    return Guess(Mode.COMPLETION, "it has no chat template")


def _by_task(facts: Facts, among: set[Mode]) -> Guess | None:
    mode = mode_of(facts.task)
    if mode is None or mode not in among:
        return None
    return Guess(mode, f"the hub lists it under {facts.task}")


def _by_words(facts: Facts) -> Guess | None:
    """What authors call their models; rerankers are often named after the embedder that they go with."""
    if words := _found(_RERANK, facts.path):
        return Guess(Mode.RERANK, f"it is called {words!r}")
    if words := _found(_EMBED, facts.path):
        return Guess(Mode.EMBEDDING, f"it is called {words!r}")
    return None


def _found(pattern: re.Pattern[str], path: str) -> str | None:
    match = pattern.search(path.lower())
    return match[0] if match else None
