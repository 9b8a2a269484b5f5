"""From facts to a proposal: a whole model, and for each field that was guessed the reason. Pure."""

from collections.abc import Iterable

from msgspec import Struct

from schemas.base import Format
from schemas.instances import Node
from schemas.models import Mode, ModelSpec
from schemas.registering import GuessedField, ModelOverrides
from services.downloader.fitting.appetite import Appetite, gguf_appetite, torch_appetite
from services.downloader.fitting.contexts import contexts
from services.downloader.fitting.fit import Wanted, fits
from services.downloader.registering.facts import Facts
from services.downloader.registering.modes import Guess, check_served, guess_mode

_SAID = "somebody said so"
_VECTORS = (Mode.EMBEDDING, Mode.RERANK)


class Proposal(Struct, frozen=True, kw_only=True):
    """A model to be. `reasons` are in the order in which a person wants to read them."""

    spec: ModelSpec
    reasons: tuple[GuessedField, ...]
    said: frozenset[str]
    """The fields that a person chose."""


def guess(facts: Facts, name: str, overrides: ModelOverrides, nodes: Iterable[Node] = ()) -> Proposal:
    """What these files are as a model; UnreadableModel where they are none that an engine serves."""
    check_served(facts)
    mode = Guess(overrides.mode, _SAID) if overrides.mode else guess_mode(facts)
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
    guesses = {"mode": mode, "engine": engine, "n_ctx": n_ctx, **_parts(facts)}
    reasons = tuple(
        GuessedField(field=field, value=one.value, reason=one.reason) for field, one in guesses.items()
    )
    said = {field for field in ("mode", "engine", "n_ctx", "aliases") if getattr(overrides, field)}
    return Proposal(spec=spec, reasons=reasons, said=frozenset(said))


def _engine(facts: Facts, mode: Mode, overrides: ModelOverrides, nodes: tuple[Node, ...]) -> Guess:
    if overrides.engine is not None:
        return Guess(overrides.engine, _SAID)
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


def _context(facts: Facts, mode: Mode, overrides: ModelOverrides, nodes: tuple[Node, ...]) -> Guess:
    if overrides.n_ctx is not None:
        return Guess(str(overrides.n_ctx), _SAID)
    trained = facts.n_ctx_train
    told = f"it was trained for {trained}" if trained else "its files do not say what it was trained for"
    best = next(iter(_fitting(facts, mode, nodes)), None)
    if best is None:
        ladder = contexts(trained, mode, on_cpu=True)
        return Guess(str(ladder[-1]), f"{told}; nothing is known about where it fits, so it is little")
    n_ctx, sentence = best
    return Guess(str(n_ctx), f"{told}; it {sentence}")


def _fitting(facts: Facts, mode: Mode, nodes: tuple[Node, ...]) -> list[tuple[int, str]]:
    if (appetite := _appetite(facts, mode)) is None:
        return []
    wanted = Wanted(facts.format, mode, appetite, facts.n_ctx_train)
    return [(fit.n_ctx, fit.sentence) for fit in fits(wanted, nodes) if fit.n_ctx is not None]


def _appetite(facts: Facts, mode: Mode) -> Appetite | None:
    if facts.format is Format.SAFETENSORS:
        return torch_appetite(facts.size_bytes)
    return gguf_appetite(facts.header, mode, facts.mmproj_bytes) if facts.header else None


def _parts(facts: Facts) -> dict[str, Guess]:
    found = {}
    if facts.mmproj is not None:
        found["mmproj"] = Guess(facts.mmproj, "it lies beside the model")
    if facts.template is not None:
        found["chat_template"] = Guess(facts.template, "the model has none of its own; this lies beside it")
    return found
