"""The mode of a model, guessed from its files by rules for each format. Pure."""

import re
from typing import NamedTuple

from modelyard.files.gguf.header import Header
from modelyard.files.gguf.layers import is_encoder
from modelyard.files.safetensors import ModelCard
from schemas.base import Format
from schemas.errors import UnreadableModel
from schemas.models import Mode
from services.downloader.hub.metadata import mode_of
from services.downloader.register.facts import ModelFacts

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
"""Architectures of GGUF files that llama.cpp does not serve."""
_KINDS = {
    "mmproj": "the vision projector of a model",
    "adapter": "an adapter for a model (a LoRA)",
    "imatrix": "an importance matrix for quantizing a model",
    "control_vector": "a control vector for a model",
    "vocab": "a vocabulary without weights",
}
_RERANK = re.compile(r"(?<![a-z])(re-?rank(er|ing)?|cross-?encoder)(?![a-z])")
_EMBED = re.compile(r"(?<![a-z])(embed(ding|dings|der)?|gte|e5|bge)(?![a-z])")
_CHAT = re.compile(r"(?<![a-z])(chat|instruct|it|assistant)(?![a-z])")


class Guess(NamedTuple):
    """A value and its reason, the end of a sentence that starts with the value."""

    value: str
    reason: str


def guess_mode(facts: ModelFacts) -> Guess:
    """The guessed mode; UnreadableModel where no engine serves the model."""
    if facts.format is Format.SAFETENSORS:
        return _card_mode(facts.card, facts)
    if facts.header is None:
        return _named_mode(facts) or Guess(
            Mode.CHAT, f"most models are for that; its header is unreadable: {facts.problem}"
        )
    return _header_mode(facts.header, facts)


def check_served(facts: ModelFacts) -> None:
    """UnreadableModel for a GGUF file that llama.cpp does not serve."""
    header = facts.header
    if header is None:
        return
    kind = "mmproj" if header.is_mmproj else header.kind
    if kind in _KINDS:
        raise UnreadableModel(f"{facts.path} is {_KINDS[kind]}, not a model by itself.", param="path")
    if (purpose := _OTHER_PROGRAMS.get(header.architecture.lower())) is not None:
        raise UnreadableModel(
            f"{facts.path} is for {purpose} ({header.architecture}), which llama.cpp does not serve.",
            param="path",
        )
    if header.n_params == 0 and header.n_shards == 1:
        raise UnreadableModel(f"{facts.path} has no weights in it.", param="path")


def _header_mode(header: Header, facts: ModelFacts) -> Guess:
    if header.pooling == "rank":
        return Guess(Mode.RERANK, "its header sets pooling to `rank`")
    if is_encoder(header):
        if words := _match(_RERANK, facts.path):
            return Guess(Mode.RERANK, f"it is an encoder ({header.architecture}) and called {words!r}")
        return Guess(Mode.EMBEDDING, f"its architecture {header.architecture} turns text into vectors")
    if header.pooling in _VECTOR_POOLINGS:
        return Guess(Mode.EMBEDDING, f"its header sets pooling to `{header.pooling}`")
    if guessed := _task_mode(facts, {Mode.EMBEDDING, Mode.RERANK}) or _named_mode(facts):
        return guessed
    if facts.mmproj is not None and (guessed := _task_mode(facts, {Mode.TRANSCRIPTION})):
        return guessed
    return _template_mode(facts, has_template=header.has_chat_template)


def _card_mode(card: ModelCard, facts: ModelFacts) -> Guess:
    name = card.architectures[0] if card.architectures else ""
    if name.endswith("ForSequenceClassification"):
        return _classifier_mode(card, facts, name)
    if card.modules:
        return Guess(Mode.EMBEDDING, "it has modules.json of sentence-transformers")
    if name.startswith("Whisper") or name.endswith(("ForSpeechSeq2Seq", "ForCTC", "ForRNNT")):
        return Guess(Mode.TRANSCRIPTION, f"config.json names {name}")
    if guessed := _task_mode(facts, {Mode.EMBEDDING, Mode.RERANK}) or _named_mode(facts):
        return guessed
    if name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")):
        return _template_mode(facts, has_template=card.has_chat_template)
    if name.endswith(("Model", "ForMaskedLM", "ForPreTraining")):
        return Guess(Mode.EMBEDDING, f"config.json names {name}, which turns text into vectors")
    return _task_mode(facts, set(Mode)) or _template_mode(facts, has_template=card.has_chat_template)


def _classifier_mode(card: ModelCard, facts: ModelFacts, name: str) -> Guess:
    # One class is a score. Several classes are a text classifier, which no API of the yard serves.
    if card.n_labels == 1 or _match(_RERANK, facts.path) or mode_of(facts.task) is Mode.RERANK:
        return Guess(Mode.RERANK, f"config.json names {name}, which scores pairs of texts")
    raise UnreadableModel(
        f"{facts.path} sorts texts into {card.n_labels or 'several'} classes ({name}), "
        "which no API of the yard serves.",
        param="path",
    )


def _template_mode(facts: ModelFacts, *, has_template: bool) -> Guess:
    if has_template:
        return Guess(Mode.CHAT, "it has a chat template")
    if facts.template is not None:
        return Guess(Mode.CHAT, "a chat template is beside it")
    if words := _match(_CHAT, facts.path):
        return Guess(
            Mode.CHAT, f"it is called {words!r}; it has no chat template, so the engine's own is used"
        )
    return Guess(Mode.COMPLETION, "it has no chat template")


def _task_mode(facts: ModelFacts, among: set[Mode]) -> Guess | None:
    mode = mode_of(facts.task)
    if mode is None or mode not in among:
        return None
    return Guess(mode, f"the hub lists it under {facts.task}")


def _named_mode(facts: ModelFacts) -> Guess | None:
    # Rerankers first: their names often contain the name of their embedder.
    if words := _match(_RERANK, facts.path):
        return Guess(Mode.RERANK, f"it is called {words!r}")
    if words := _match(_EMBED, facts.path):
        return Guess(Mode.EMBEDDING, f"it is called {words!r}")
    return None


def _match(pattern: re.Pattern[str], path: str) -> str | None:
    match = pattern.search(path.lower())
    return match[0] if match else None
