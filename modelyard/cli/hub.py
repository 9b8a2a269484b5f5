"""`yard search`, `yard offer` and `yard register`: models on the hub, and models of files in the store."""

import argparse
from collections.abc import Mapping

from modelyard.cli.arguments import Argument, add_fields, read_record
from modelyard.cli.output import print_line
from modelyard.cli.parser import VerbParser
from modelyard.cli.tables import Column, print_list, print_rows, table
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.text import format_age, format_size
from schemas import subjects
from schemas.hub import HubModel, Offer, SearchHub
from schemas.registry import Registered

_SEARCH = """
  yard search qwen3 --format gguf --sort trending
  yard offer Qwen/Qwen3-8B-GGUF
"""
_REGISTER = """
What is not given is guessed from the files: the mode, the engine, and the context that fits.

  yard register org/name/model-Q4_K_M.gguf --name small --dry-run
"""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def _notes(model: HubModel) -> str:
    here = f"here as {', '.join(model.models)}" if model.models else None
    notes = (*model.formats, "gated" if model.gated else None, model.license, here)
    return ", ".join(filter(None, notes))


_MODELS: dict[str, Column] = {
    "REPOSITORY": "repo",
    "TASK": lambda model: model.task or "-",
    ">PARAMS": lambda model: format_params(model.n_params),
    ">DOWNLOADS": lambda model: None if model.downloads is None else f"{model.downloads:,}",
    ">LIKES": lambda model: None if model.likes is None else f"{model.likes:,}",
    "UPDATED": lambda model: f"{format_age(model.updated_at)} ago" if model.updated_at else "-",
    "NOTES": _notes,
}
_CHOICES: dict[str, Column] = {
    "QUANT": lambda choice: f"{choice.label} *" if choice.is_default else choice.label,
    ">SIZE": lambda choice: format_size(choice.size_bytes),
    "FIT": lambda choice: "; ".join(fit.sentence for fit in choice.fits) or "-",
    "HERE": lambda choice: choice.models or ("on disk" if choice.is_here else ""),
}


def register(verbs: Mapping[str, VerbParser]) -> None:
    search = verbs["search"]
    search.describe(_SEARCH)
    search.add_argument("words", nargs="*", metavar="WORD", help="parts of the name")
    params = Argument(metavar="N", parse=parse_params)
    add_fields(search, SearchHub, omit=("words",), fields={"min_params": params, "max_params": params})
    online(search, _search, json="a JSON list")
    repo = {"reference": Argument(metavar="REPO", help="as for `yard pull`; a quant narrows the answer")}
    command(verbs["offer"], subjects.HUB_OFFER, _show_offer, fields=repo)
    verbs["register"].describe(_REGISTER)
    path = {"path": Argument(help="a GGUF file or a folder in the store, or an entry of the library")}
    command(verbs["register"], subjects.FILES_REGISTER, _show_registered, fields=path)


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
    query = read_record(arguments, SearchHub, words=" ".join(arguments.words))
    models = await yard.hub.search(query)
    print_list(models, _MODELS, empty="The hub has nothing like that.", arguments=arguments)


def _show_offer(offer: Offer) -> None:
    print_line(_summary(offer))
    if offer.choices:
        print_rows(_CHOICES, offer.choices)
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
