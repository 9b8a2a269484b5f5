"""What a person says about files to fetch and the model to make of them: options that verbs share."""

import argparse
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from schemas.downloads import AddDownloads, StartDownload
    from schemas.hub import Choice
    from schemas.registering import ModelOverrides

R = TypeVar("R")

_MODES = ("chat", "completion", "embedding", "rerank", "transcription")


def add_wishes(parser: argparse.ArgumentParser) -> None:
    """Options about the model; what is not given is guessed from its files."""
    parser.add_argument("--alias", action="append", default=[], help="another name; may be repeated")
    parser.add_argument("--mode", choices=_MODES, help="what it is for (default: guessed)")
    parser.add_argument("--ctx", type=int, metavar="TOKENS", help="its context (default: what fits)")
    parser.add_argument("--engine", help="what runs it (default: by its format)")


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Options about the files."""
    parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="exactly the files that match"
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="not the files that match"
    )
    parser.add_argument(
        "--mmproj", metavar="PRECISION", help="which vision part goes along, such as F16; `none`: without"
    )
    parser.add_argument("--no-register", action="store_true", help="fetch the files, make no model of them")


def order_of(reference: str, arguments: argparse.Namespace) -> "StartDownload":
    """The download that the options ask for; BadRequest where they make no sense."""
    from schemas.downloads import StartDownload

    return StartDownload(
        reference=reference,
        name=arguments.name,
        choice=_choice_of(arguments),
        register=not arguments.no_register,
        overrides=wishes_of(arguments),
        node=arguments.node,
        limit_bytes_s=arguments.limit,
    )


def orders_of(text: str, arguments: argparse.Namespace) -> "AddDownloads":
    """The downloads of all that a text names, by the same options."""
    from schemas.downloads import AddDownloads

    return AddDownloads(
        text=text,
        choice=_choice_of(arguments),
        register=not arguments.no_register,
        node=arguments.node,
        limit_bytes_s=arguments.limit,
    )


def _choice_of(arguments: argparse.Namespace) -> "Choice":
    from schemas.hub import Choice

    return checked(
        Choice,
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        mmproj=arguments.mmproj,
    )


def says_wishes(arguments: argparse.Namespace) -> bool:
    """Whether something is said about one model."""
    return any((arguments.alias, arguments.mode, arguments.ctx, arguments.engine))


def wishes_of(arguments: argparse.Namespace) -> "ModelOverrides":
    """What is said about the model."""
    from schemas.registering import ModelOverrides

    return checked(
        ModelOverrides,
        aliases=tuple(arguments.alias),
        mode=arguments.mode,
        n_ctx=arguments.ctx,
        engine=arguments.engine,
    )


def checked(kind: type[R], **fields: Any) -> R:
    """A record of what was typed; BadRequest where it breaks the record's rules."""
    import msgspec

    from schemas.errors import BadRequest

    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"This cannot be asked: {str(error).partition(' - at')[0]}.") from error
