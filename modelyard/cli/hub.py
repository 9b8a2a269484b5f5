"""`yard search` and `yard offer`: what the hub has, before anything is fetched."""

import argparse
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import ago, spell_size
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.hub import HubModel, Offer, OfferedChoice

_MORE = """

  yard search qwen3 --format gguf --sort trending
  yard offer Qwen/Qwen3-8B-GGUF
"""
_SORTS = ("downloads", "likes", "trending", "updated", "created")
_MODES = ("chat", "completion", "embedding", "rerank", "transcription")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def register(verbs: Verbs) -> None:
    search = verbs.add("search", "Search the hub for models.", _search, json="a JSON list")
    search.description = f"{search.description}{_MORE}"
    search.add_argument("words", nargs="*", metavar="WORD", help="parts of the name")
    search.add_argument("--sort", choices=_SORTS, default="downloads", help="what comes first")
    search.add_argument("--format", choices=("gguf", "safetensors"), help="only models in this format")
    search.add_argument("--mode", choices=_MODES, help="only models for this")
    search.add_argument("--task", help="only models under this task of the hub, such as text-generation")
    search.add_argument("--author", help="only models of this user or organization")
    search.add_argument("--min-params", type=parameters, metavar="N", help="weights at least, such as 3B")
    search.add_argument("--max-params", type=parameters, metavar="N", help="weights at most, such as 8B")
    search.add_argument("--limit", type=int, default=20, help="how many (default: 20, at most 100)")
    offer = verbs.add("offer", "Show what a repository offers, and what fits which node.", _offer)
    offer.add_argument("reference", metavar="REPO", help="as for `yard pull`; a quant narrows the answer")
    offer.add_argument("--ctx", type=int, metavar="TOKENS", help="tell what fits with this context")


def parameters(text: str) -> int:
    """`8B` or `350M` as a number of weights; an argparse error for anything else."""
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    try:
        return int(float(text.removesuffix(text[-1:]) if unit else text) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of weights; write it like 8B") from None


def spell_params(count: int | None) -> str:
    """Weights as models are called by them: `8.2B`, `350M`."""
    if count is None:
        return "-"
    unit = next(unit for unit in "TBMK" if count >= _UNITS[unit] or unit == "K")
    return f"{count / _UNITS[unit]:.3g}{unit}"


async def _search(yard: "Client", arguments: argparse.Namespace) -> None:
    from modelyard.cli.choosing import checked
    from schemas.hub import SearchHub

    asked = checked(
        SearchHub,
        words=" ".join(arguments.words),
        sort=arguments.sort,
        format=arguments.format,
        mode=arguments.mode,
        task=arguments.task,
        author=arguments.author,
        min_params=arguments.min_params,
        max_params=arguments.max_params,
        limit=arguments.limit,
    )
    found = await yard.hub.search(asked)
    if arguments.json:
        emit(list(found))
    elif not found:
        say("The hub has nothing like that.")
    else:
        table(
            ("REPOSITORY", "TASK", ">PARAMS", ">DOWNLOADS", ">LIKES", "UPDATED", "NOTES"),
            list(map(_row, found)),
        )


def _row(model: "HubModel") -> tuple[str, ...]:
    notes = [*map(str, model.formats), *(["gated"] if model.gated else []), model.license or ""]
    if model.models:
        notes.append(f"here as {', '.join(model.models)}")
    return (
        model.repo,
        model.task or "-",
        spell_params(model.n_params),
        "-" if model.downloads is None else f"{model.downloads:,}",
        "-" if model.likes is None else f"{model.likes:,}",
        ago(model.updated_at) + " ago" if model.updated_at else "-",
        ", ".join(note for note in notes if note),
    )


async def _offer(yard: "Client", arguments: argparse.Namespace) -> None:
    offer = await yard.hub.offer(arguments.reference, arguments.ctx)
    if arguments.json:
        emit(offer)
        return
    say(_about(offer))
    if offer.choices:
        table(("QUANT", ">SIZE", "FIT", "HERE"), [_choice(choice) for choice in offer.choices])
    if offer.mmprojs:
        first, *others = offer.mmprojs
        beside = f"; there are {', '.join(other.path for other in others)} too" if others else ""
        say(f"{first.path} ({spell_size(first.size_bytes)}) goes along for images{beside}: see `--mmproj`.")
    if offer.problem:
        say(offer.problem)
    default = next((choice for choice in offer.choices if choice.is_default), None)
    if default is not None:
        say(f"Fetch one: yard pull {default.reference}")


def _about(offer: "Offer") -> str:
    parts = [
        offer.repo,
        offer.architecture,
        f"for {offer.mode}" if offer.mode else None,
        f"{spell_params(offer.n_params)} weights" if offer.n_params else None,
        f"trained for {offer.n_ctx_train:,} tokens" if offer.n_ctx_train else None,
        f"license {offer.license}" if offer.license else None,
        "gated" if offer.gated else None,
        "private" if offer.private else None,
    ]
    return ", ".join(part for part in parts if part)


def _choice(choice: "OfferedChoice") -> tuple[str, ...]:
    return (
        f"{choice.label} *" if choice.is_default else choice.label,
        spell_size(choice.size_bytes),
        "; ".join(fit.sentence for fit in choice.fits) or "-",
        ", ".join(choice.models) or ("on disk" if choice.is_here else ""),
    )
