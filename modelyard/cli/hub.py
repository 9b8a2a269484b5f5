"""`yard search`, `yard offer` and `yard register`: models on the hub, and models of files in the store."""

import argparse
from collections.abc import Mapping

from modelyard.cli.arguments import Argument, add_fields, read_record
from modelyard.cli.output import print_json, print_line, table
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.text import format_age, format_size
from schemas import subjects
from schemas.hub import HubModel, Offer, OfferedChoice, SearchHub
from schemas.registering import Registered

_SEARCH = """
  yard search qwen3 --format gguf --sort trending
  yard offer Qwen/Qwen3-8B-GGUF
"""
_REGISTER = """
What is not given is guessed from the files: the mode, the engine, and the context that fits.

  yard register org/name/model-Q4_K_M.gguf --name small --dry-run
"""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def register(verbs: Mapping[str, VerbParser]) -> None:
    search = verbs["search"]
    search.describe(_SEARCH)
    search.add_argument("words", nargs="*", metavar="WORD", help="parts of the name")
    params = Argument(metavar="N", parse=parse_params)
    add_fields(search, SearchHub, omit=("words",), fields={"min_params": params, "max_params": params})
    online(search, _search, json="a JSON list")
    fields = {
        "reference": Argument(metavar="REPO", help="as for `yard pull`; a quant narrows the answer"),
        "n_ctx": Argument(metavar="TOKENS"),
    }
    command(verbs["offer"], subjects.HUB_OFFER, _show_offer, positional=("reference",), fields=fields)
    verbs["register"].describe(_REGISTER)
    fields = {
        "path": Argument(help="a GGUF file or a folder in the store, or an entry of the library"),
        "n_ctx": Argument(metavar="TOKENS"),
    }
    command(verbs["register"], subjects.FILES_REGISTER, _show_registered, positional=("path",), fields=fields)


def parse_params(text: str) -> int:
    """`8B` or `350M` as a number of weights."""
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    try:
        return int(float(text.removesuffix(text[-1:]) if unit else text) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of weights; write it like 8B") from None


def format_params(count: int | None) -> str:
    """Weights in the unit of model names: `8.2B`, `350M`."""
    if count is None:
        return "-"
    unit = next(unit for unit in "TBMK" if count >= _UNITS[unit] or unit == "K")
    return f"{count / _UNITS[unit]:.3g}{unit}"


async def _search(yard: Client, arguments: argparse.Namespace) -> None:
    words = " ".join(arguments.words)
    models = await yard.hub.search(read_record(arguments, SearchHub, words=words))
    if arguments.json:
        print_json(list(models))
    elif not models:
        print_line("The hub has nothing like that.")
    else:
        header = ("REPOSITORY", "TASK", ">PARAMS", ">DOWNLOADS", ">LIKES", "UPDATED", "NOTES")
        table(header, list(map(_model_row, models)))


def _model_row(model: HubModel) -> tuple[str, ...]:
    notes = [*map(str, model.formats), *(["gated"] if model.gated else []), model.license or ""]
    if model.models:
        notes.append(f"here as {', '.join(model.models)}")
    return (
        *(model.repo, model.task or "-", format_params(model.n_params)),
        "-" if model.downloads is None else f"{model.downloads:,}",
        "-" if model.likes is None else f"{model.likes:,}",
        format_age(model.updated_at) + " ago" if model.updated_at else "-",
        ", ".join(note for note in notes if note),
    )


def _show_offer(offer: Offer) -> None:
    print_line(_summary(offer))
    if offer.choices:
        table(("QUANT", ">SIZE", "FIT", "HERE"), [_choice_row(choice) for choice in offer.choices])
    if offer.mmprojs:
        first, *others = offer.mmprojs
        more = f"; there are {', '.join(other.path for other in others)} too" if others else ""
        size = format_size(first.size_bytes)
        print_line(f"{first.path} ({size}) is downloaded with it for images{more}: see `--mmproj`.")
    if offer.problem:
        print_line(offer.problem)
    default = next((choice for choice in offer.choices if choice.is_default), None)
    if default is not None:
        print_line(f"Download one: yard pull {default.reference}")


def _summary(offer: Offer) -> str:
    parts = [
        offer.repo,
        offer.architecture,
        f"for {offer.mode}" if offer.mode else None,
        f"{format_params(offer.n_params)} weights" if offer.n_params else None,
        f"trained for {offer.n_ctx_train:,} tokens" if offer.n_ctx_train else None,
        f"license {offer.license}" if offer.license else None,
        "gated" if offer.gated else None,
        "private" if offer.private else None,
    ]
    return ", ".join(part for part in parts if part)


def _choice_row(choice: OfferedChoice) -> tuple[str, ...]:
    return (
        f"{choice.label} *" if choice.is_default else choice.label,
        format_size(choice.size_bytes),
        "; ".join(fit.sentence for fit in choice.fits) or "-",
        ", ".join(choice.models) or ("on disk" if choice.is_here else ""),
    )


def _show_registered(done: Registered) -> None:
    spec = done.spec
    rows = [(guess.field, guess.value, guess.reason) for guess in done.reasons]
    table(("FIELD", "VALUE", "BECAUSE"), [("name", spec.name, spec.path), *rows])
    if done.kept:
        print_line(f"{spec.name} exists already; it keeps its own {', '.join(done.kept)}.")
    if done.revision is None:
        print_line("Nothing was changed. Without --dry-run it becomes a model.")
    else:
        print_line(f"{spec.name} is in the yard (revision {done.revision}).")
