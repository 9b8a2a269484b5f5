"""Answers what the hub has: a search, and the offer of one repository."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from modelyard.bus.records import BucketCache
from modelyard.host.paths import resolve_inside
from modelyard.host.settings import Settings
from schemas.base import Format
from schemas.errors import BadRequest, DeadlineExceeded, UnreadableModel
from schemas.hub import AskOffer, Fit, HubFound, HubModel, Offer, OfferedChoice, SearchHub
from schemas.instances import Node
from schemas.models import Mode, ModelSpec
from services.downloader.errors import DownloadError, as_yard_error
from services.downloader.fitting.appetite import gguf_appetite, of_size, torch_appetite
from services.downloader.fitting.fit import Wanted, fits
from services.downloader.hub.metadata import RepoListing, mode_of
from services.downloader.offering.choices import (
    Shelf,
    folder_choice,
    gguf_choices,
    offered_files,
    weights_of,
)
from services.downloader.offering.estimates import Headers, read_remote_card
from services.downloader.reference import Reference, parse_reference
from services.downloader.registering.facts import Facts
from services.downloader.registering.modes import check_served, guess_mode
from services.downloader.selection.choose import SAFETENSORS
from services.downloader.selection.files import RemoteFile, SelectionError
from services.downloader.selection.gguf import Group, group_models
from services.downloader.selection.mmproj import mmprojs_of
from services.downloader.selection.safetensors import pickles_of, refuse_pickles

R = TypeVar("R")

_SEARCH_S = 30.0
_PAUSES_S = (1.0,)
_TIMEOUT_S = 3.0
"""Somebody waits at a screen."""


class Offers:
    """Asks the hub in a thread, since its library blocks."""

    def __init__(self, settings: Settings, nodes: BucketCache[Node], models: BucketCache[ModelSpec]) -> None:
        self._settings = settings
        self._nodes = nodes
        self._models = models
        self._headers = Headers()

    async def on_search(self, asked: SearchHub) -> HubFound:
        """Models on the hub, with those of the registry that came from them."""
        found = await _blocking(lambda: _search(asked))
        return HubFound(models=tuple(map(self._with_ours, found)))

    async def on_offer(self, asked: AskOffer) -> Offer:
        """Everything that a repository offers, or what the reference narrows it to."""
        try:
            reference = parse_reference(asked.reference)
        except ValueError as error:
            raise BadRequest(str(error), param="reference") from error
        listing = await _blocking(lambda: _list_repo(reference))
        offer = Offer(
            repo=reference.repo,
            revision=listing.commit,
            mmprojs=offered_files(mmprojs_of(listing.files)),
            mode=mode_of(listing.task),
            **_told(listing),
        )
        ggufs = gguf_choices(reference, listing.files, self._shelf(reference))
        if ggufs:
            offer = await self._with_ggufs(offer, ggufs, listing, asked.n_ctx)
        return await self._with_folder(offer, reference, listing, asked.n_ctx)

    async def _with_ggufs(
        self,
        offer: Offer,
        ggufs: Sequence[tuple[Group, OfferedChoice]],
        listing: RepoListing,
        n_ctx: int | None,
    ) -> Offer:
        """One header tells the shape of all quants; the sizes of their files tell the rest."""
        chosen = next((group for group, offered in ggufs if offered.is_default), ggufs[0][0])
        choices = tuple(offered for _, offered in ggufs)
        read = await self._headers.read(offer.repo, offer.revision, chosen)
        if (header := read.header) is None:
            return msgspec.structs.replace(offer, choices=choices, problem=read.problem)
        mmproj = offer.mmprojs[0] if offer.mmprojs else None
        facts = Facts(
            path=f"{offer.repo}/{chosen.in_order[0].path}",
            format=Format.GGUF,
            header=header,
            mmproj=mmproj.path if mmproj else None,
            task=listing.task,
        )
        mode, problem = _mode(facts)
        whole = chosen.shards == 1

        def fits_of(group: Group) -> tuple[Fit, ...]:
            sized = header if group is chosen and whole else of_size(header, group.size_bytes, whole=whole)
            appetite = gguf_appetite(sized, mode, mmproj.size_bytes if mmproj else 0)
            return self._fits(Wanted(Format.GGUF, mode, appetite, header.n_ctx_train or None, n_ctx))

        if problem is None:
            fitting = await asyncio.to_thread(lambda: [fits_of(group) for group, _ in ggufs])
            choices = tuple(
                msgspec.structs.replace(offered, fits=fit)
                for offered, fit in zip(choices, fitting, strict=True)
            )
        return msgspec.structs.replace(
            offer,
            choices=choices,
            problem=problem,
            mode=mode,
            architecture=header.architecture,
            n_ctx_train=header.n_ctx_train or None,
            n_params=header.n_params if whole else None,
        )

    async def _with_folder(
        self, offer: Offer, reference: Reference, listing: RepoListing, n_ctx: int | None
    ) -> Offer:
        """The folder of safetensors, or why there is nothing at all."""
        if not _wants_folder(reference) and (reference.quant or reference.file):
            return offer if offer.choices else _nothing(offer, reference, listing.files)
        try:
            folder = folder_choice(
                reference, listing.files, self._shelf(reference), is_default=not group_models(listing.files)
            )
        except SelectionError as error:
            return offer if offer.choices else msgspec.structs.replace(offer, problem=str(error))
        if folder is None:
            return offer if offer.choices else _nothing(offer, reference, listing.files)
        card = await read_remote_card(offer.repo, offer.revision, listing.files)
        facts = Facts(path=offer.repo, format=Format.SAFETENSORS, card=card, task=listing.task)
        mode, problem = _mode(facts)
        if problem is None:
            appetite = torch_appetite(weights_of(folder))
            wanted = Wanted(Format.SAFETENSORS, mode, appetite, card.n_ctx_train, n_ctx)
            folder = msgspec.structs.replace(folder, fits=self._fits(wanted))
        if offer.choices:
            return msgspec.structs.replace(offer, choices=(*offer.choices, folder))
        return msgspec.structs.replace(
            offer,
            choices=(folder,),
            problem=problem,
            mode=mode,
            architecture=next(iter(card.architectures), None),
            n_ctx_train=card.n_ctx_train,
        )

    def _fits(self, wanted: Wanted) -> tuple[Fit, ...]:
        return fits(wanted, self._nodes.values.values())

    def _with_ours(self, found: HubModel) -> HubModel:
        specs = self._models.values.values()
        ours = sorted(spec.name for spec in specs if spec.source and spec.source.repo == found.repo)
        return msgspec.structs.replace(found, models=tuple(ours))

    def _shelf(self, reference: Reference) -> Shelf:
        folder = self._settings.models / reference.repo

        def is_here(file: RemoteFile) -> bool:
            return _size_of(folder, file.path) == file.size_bytes

        return Shelf(models=tuple(self._models.values.values()), is_here=is_here)


def _wants_folder(reference: Reference) -> bool:
    return (reference.quant or "").lower() == SAFETENSORS


def _mode(facts: Facts) -> tuple[Mode, str | None]:
    """What it would be registered for, or why no engine serves it."""
    try:
        check_served(facts)
        return Mode(guess_mode(facts).value), None
    except UnreadableModel as error:
        return Mode.CHAT, error.message


def _nothing(offer: Offer, reference: Reference, files: Sequence[RemoteFile]) -> Offer:
    """Why nothing is offered."""
    if reference.quant or reference.file:
        wanted = reference.quant or reference.file
        problem = f"{offer.repo} has no {wanted}; ask without it to see what it has."
    elif pickles := pickles_of(files):
        problem = str(refuse_pickles(offer.repo, pickles))
    else:
        problem = f"{offer.repo} has no .gguf and no .safetensors model files; look for a GGUF version of it."
    return msgspec.structs.replace(offer, problem=problem)


def _told(listing: RepoListing) -> dict[str, Any]:
    fields = ("task", "license", "gated", "private", "downloads", "likes", "updated_at", "tags")
    return {field: getattr(listing, field) for field in fields}


def _size_of(folder: Path, path: str) -> int | None:
    try:
        place = resolve_inside(folder, path)
        return place.stat().st_size if place.is_file() else None
    except (ValueError, OSError):
        return None


def _search(query: SearchHub) -> tuple[HubModel, ...]:
    # Imported in the thread that uses it: the hub's library is large and slow to load.
    from services.downloader.hub.search import search

    return search(query)


def _list_repo(reference: Reference) -> RepoListing:
    from services.downloader.hub.repositories import list_repo

    return list_repo(reference, pauses_s=_PAUSES_S, max_retry_after_s=_TIMEOUT_S)


async def _blocking(ask: Callable[[], R]) -> R:
    """What the hub says; its refusal as the caller's error. A thread that hangs is left behind."""
    try:
        async with asyncio.timeout(_SEARCH_S):
            return await asyncio.to_thread(ask)
    except DownloadError as error:
        raise as_yard_error(error) from error
    except TimeoutError:
        raise DeadlineExceeded(f"The hub did not answer within {_SEARCH_S:g} s; try again later.") from None
