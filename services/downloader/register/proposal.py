"""From facts to a model proposal: its name, its spec, and a reason for each guessed field. Pure."""

import re
from collections.abc import Iterable
from functools import partial

from msgspec import Struct

from modelyard.files.memory import ModelSizes, memory_requirements
from schemas.base import Format, check_model_name
from schemas.hub import Fit
from schemas.instances import Node
from schemas.models import Mode, ModelSpec
from schemas.registering import GuessedField, ModelOverrides
from services.downloader.reference import Reference
from services.downloader.register.facts import ModelFacts
from services.downloader.register.fit import FitQuery, contexts, fits
from services.downloader.register.modes import Guess, check_served, guess_mode
from services.downloader.selection.gguf_names import label_of_file

_CHOSEN = "you chose it"
_VECTORS = (Mode.EMBEDDING, Mode.RERANK)
_DEFAULT_BRANCH = "main"
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._:/@+-]+")


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
    known = tuple(nodes)
    engine = _engine(facts, Mode(mode.value), overrides, known)
    n_ctx = _context(facts, Mode(mode.value), overrides, known)
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
    if mode not in _VECTORS:
        return Guess("vllm", f"it is a folder of safetensors for {mode}")
    usable = {offer.engine for node in nodes for offer in node.engines if offer.problem is None}
    if "vllm" in usable and "sentence-transformers" not in usable:
        return Guess(
            "vllm", f"it is a folder of safetensors for {mode}, and no node has sentence-transformers"
        )
    return Guess("sentence-transformers", f"it is a folder of safetensors for {mode}")


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
        return Guess(str(least), f"{trained}; no node is known to fit it, so the context is small")
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
