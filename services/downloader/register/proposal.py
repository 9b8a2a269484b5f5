"""From facts to a model proposal: its name, its spec, and a reason for each guessed field. Pure."""

import re
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from msgspec import Struct

from modelyard.files.gguf.header import Header
from modelyard.files.gguf.layers import is_encoder
from modelyard.files.memory import ModelSizes, memory_requirements
from modelyard.files.safetensors import ModelCard
from schemas.base import Format, check_model_name
from schemas.errors import UnreadableModel
from schemas.hub import Fit
from schemas.instances import Node
from schemas.models import Mode, ModelSpec
from schemas.registry import GuessedField, ModelOverrides
from services.downloader.reference import Reference
from services.downloader.register.facts import ModelFacts
from services.downloader.register.fit import VECTOR_MODES, FitQuery, contexts, fits
from services.downloader.selection.files import mode_of
from services.downloader.selection.gguf import label_of_file

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
_CHOSEN = "you chose it"
_DEFAULT_BRANCH = "main"
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._:/@+-]+")


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
        raise UnreadableModel(f"{facts.path} is {_KINDS[kind]}, not a model of its own.", param="path")
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


class ModelProposal(Struct, frozen=True, kw_only=True):
    """A model to register. `reasons` are in display order."""

    spec: ModelSpec
    reasons: tuple[GuessedField, ...]
    chosen: frozenset[str]
    """Fields the caller set."""


def propose(
    facts: ModelFacts, name: str, overrides: ModelOverrides, nodes: Iterable[Node] = ()
) -> ModelProposal:
    """The spec for these files; UnreadableModel where no engine serves them."""
    check_served(facts)
    mode = Guess(overrides.mode, _CHOSEN) if overrides.mode else guess_mode(facts)
    all_nodes = tuple(nodes)
    engine = _engine(facts, Mode(mode.value), overrides, all_nodes)
    n_ctx = _context(facts, Mode(mode.value), overrides, all_nodes)
    spec = ModelSpec(
        name=name,
        path=facts.path,
        aliases=overrides.aliases,
        mode=Mode(mode.value),
        engine=engine.value,
        mmproj=facts.mmproj,
        chat_template=facts.template,
        source=facts.source,
        n_ctx=int(n_ctx.value),
    )
    guesses = {"mode": mode, "engine": engine, "n_ctx": n_ctx, **_companions(facts)}
    reasons = tuple(
        GuessedField(field=field, value=guess.value, reason=guess.reason) for field, guess in guesses.items()
    )
    chosen = {field for field in ("mode", "engine", "n_ctx", "aliases") if getattr(overrides, field)}
    return ModelProposal(spec=spec, reasons=reasons, chosen=frozenset(chosen))


def name_of_reference(reference: Reference) -> str:
    """The default model name of a reference; a file is named by its quant."""
    label = reference.quant
    if reference.file is not None:
        label = label_of_file(reference.file)
    revision = reference.revision if reference.revision != _DEFAULT_BRANCH else None
    quant = f":{label}" if label else ""
    return _valid_name(f"{reference.repo}{quant}{f'@{revision}' if revision else ''}")


def name_of_path(path: str) -> str:
    """`org/name:QUANT` for a file in the hub's layout, else the file's own name."""
    parts = path.split("/")
    label = label_of_file(path)
    if label is None:
        return _valid_name("/".join(parts[-2:]))
    if len(parts) > 2:
        return _valid_name(f"{parts[0]}/{parts[1]}:{label}")
    return _valid_name(parts[-1].removesuffix(".gguf"))


def _valid_name(name: str) -> str:
    return check_model_name(_FORBIDDEN.sub("-", name).strip("-./:@"))


def _engine(facts: ModelFacts, mode: Mode, overrides: ModelOverrides, nodes: tuple[Node, ...]) -> Guess:
    if overrides.engine is not None:
        return Guess(overrides.engine, _CHOSEN)
    if facts.format is Format.GGUF:
        return Guess(
            "auto", "a GGUF file runs in llama-server where a node has one, else in the embedded engine"
        )
    reason = f"it is a folder of safetensors for {mode}"
    if mode not in VECTOR_MODES:
        return Guess("vllm", reason)
    usable = {offer.engine for node in nodes for offer in node.engines if offer.problem is None}
    if "vllm" in usable and "sentence-transformers" not in usable:
        return Guess("vllm", f"{reason}, and no node has sentence-transformers")
    return Guess("sentence-transformers", reason)


def _context(facts: ModelFacts, mode: Mode, overrides: ModelOverrides, nodes: tuple[Node, ...]) -> Guess:
    if overrides.n_ctx is not None:
        return Guess(str(overrides.n_ctx), _CHOSEN)
    n_ctx_train = facts.n_ctx_train
    trained = (
        f"it was trained for {n_ctx_train}" if n_ctx_train else "its files do not state its trained context"
    )
    best = next((fit for fit in _fits(facts, mode, nodes) if fit.n_ctx is not None), None)
    if best is None:
        least = contexts(n_ctx_train, mode, on_cpu=True)[-1]
        return Guess(str(least), f"{trained}; no node fits it, so the context is small")
    return Guess(str(best.n_ctx), f"{trained}; it {best.sentence}")


def _fits(facts: ModelFacts, mode: Mode, nodes: tuple[Node, ...]) -> tuple[Fit, ...]:
    if facts.format is Format.GGUF and facts.header is None:
        return ()
    files = ModelSizes(facts.header, facts.size_bytes, facts.mmproj_bytes)
    requirements = partial(memory_requirements, files, mode)
    return fits(FitQuery(facts.format, mode, requirements, facts.n_ctx_train), nodes)


def _companions(facts: ModelFacts) -> dict[str, Guess]:
    guesses = {}
    if facts.mmproj is not None:
        guesses["mmproj"] = Guess(facts.mmproj, "it is beside the model")
    if facts.template is not None:
        guesses["chat_template"] = Guess(facts.template, "the model has none of its own; this is beside it")
    return guesses
