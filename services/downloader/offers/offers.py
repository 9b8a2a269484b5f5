"""Answers hub searches, and what one repository offers."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec
from msgspec import Struct

from modelyard.bus.records import BucketCache
from modelyard.files.memory import ModelSizes, memory_requirements, scale_header
from modelyard.host.paths import resolve_inside
from modelyard.host.settings import Settings
from schemas.base import Format
from schemas.errors import BadRequest, DeadlineExceeded, UnreadableModel
from schemas.hub import (
    Fit,
    GetOffer,
    HubModel,
    HubSearchResults,
    Offer,
    OfferedChoice,
    OfferedFile,
    SearchHub,
)
from schemas.instances import Node
from schemas.models import Mode, ModelSpec
from services.downloader.errors import DownloadError, as_yard_error
from services.downloader.offers.remote_headers import RemoteHeaders, read_remote_card
from services.downloader.reference import Reference, parse_reference
from services.downloader.register.facts import ModelFacts
from services.downloader.register.fit import FitQuery, fits
from services.downloader.register.proposal import check_served, guess_mode
from services.downloader.selection import safetensors
from services.downloader.selection.choose import SAFETENSORS
from services.downloader.selection.files import RemoteFile, RepoListing, SelectionError, mode_of
from services.downloader.selection.gguf import GgufGroup, choose, group_models, mmprojs_of
from services.downloader.transfer.disk import file_bytes

_MAX_CHOICES = 200


class LocalModels(Struct, frozen=True, kw_only=True):
    """Registered models, and the folder of the repository in the store."""

    models: tuple[ModelSpec, ...]
    folder: Path

    def has(self, file: RemoteFile) -> bool:
        try:
            return file_bytes(resolve_inside(self.folder, file.path)) == file.size_bytes
        except (ValueError, OSError):
            return False


def gguf_choices(
    reference: Reference, files: Sequence[RemoteFile], local: LocalModels
) -> list[tuple[GgufGroup, OfferedChoice]]:
    """Complete GGUF models, smallest first; the referenced one if it has a quant or file."""
    groups = [group for group in group_models(files) if not group.missing]
    labels = Counter(group.label for group in groups)
    default = _default(reference, groups)
    if reference.quant or reference.file:
        groups = [group for group in groups if _matches(reference, group)]
    choices = []
    for group in sorted(groups, key=lambda group: (group.size_bytes, group.stem))[:_MAX_CHOICES]:
        # Models that share a label are distinguished by name.
        label = group.label if labels[group.label] == 1 else group.base_name
        offered = _offered(reference, label, Format.GGUF, group.in_order, local, group is default)
        choices.append((group, offered))
    return choices


def folder_choice(
    reference: Reference, files: Sequence[RemoteFile], local: LocalModels, is_default: bool
) -> OfferedChoice | None:
    """The safetensors model; None without one. SelectionError where no engine serves it."""
    safetensors.refuse_kind(reference.repo, files)
    if not safetensors.has_weights(files):
        return None
    chosen = safetensors.select(reference.repo, files)
    return _offered(reference, SAFETENSORS, Format.SAFETENSORS, chosen, local, is_default)


def offered_files(files: Iterable[RemoteFile]) -> tuple[OfferedFile, ...]:
    """Files as they are on the wire."""
    return tuple(OfferedFile(path=file.path, size_bytes=file.size_bytes) for file in files)


def _default(reference: Reference, groups: Sequence[GgufGroup]) -> GgufGroup | None:
    try:
        return choose(Reference(repo=reference.repo), groups) if groups else None
    except SelectionError:
        return None


def _matches(reference: Reference, group: GgufGroup) -> bool:
    if reference.file is not None:
        return any(file.path == reference.file for file in group.files.values())
    wanted = (reference.quant or "").upper()
    return wanted in (group.label.upper(), group.base_name.upper())


def _offered(
    reference: Reference,
    label: str,
    format_: Format,
    files: Sequence[RemoteFile],
    local: LocalModels,
    is_default: bool,
) -> OfferedChoice:
    is_folder = format_ is Format.SAFETENSORS
    paths = [reference.repo] if is_folder else [f"{reference.repo}/{file.path}" for file in files]
    selector = "" if is_folder and is_default else f":{label}"
    revision = f"@{reference.revision}" if reference.revision else ""
    return OfferedChoice(
        label=label,
        reference=f"{reference.repo}{selector}{revision}",
        format=format_,
        files=offered_files(files),
        size_bytes=sum(file.size_bytes for file in files),
        is_default=is_default,
        is_here=all(map(local.has, files)),
        models=tuple(sorted(model.name for model in local.models if model.path in paths)),
    )


R = TypeVar("R")

_HUB_TIMEOUT_S = 30.0
_PAUSES_S = (1.0,)
_MAX_RETRY_AFTER_S = 3.0
"""A person waits at a screen."""
_LISTED_FIELDS = ("task", "license", "gated", "private", "downloads", "likes", "updated_at", "tags")


class HubCommands:
    """Queries the hub in a thread, since its library blocks."""

    def __init__(self, settings: Settings, nodes: BucketCache[Node], models: BucketCache[ModelSpec]) -> None:
        self._settings = settings
        self._nodes = nodes
        self._models = models
        self._headers = RemoteHeaders()

    async def on_search(self, request: SearchHub) -> HubSearchResults:
        """Models on the hub, each with the registered models that came from it."""
        models = await _query_hub(lambda: _search(request))
        names: defaultdict[str, list[str]] = defaultdict(list)
        for spec in self._models.values.values():
            if spec.source:
                names[spec.source.repo].append(spec.name)
        return HubSearchResults(
            models=tuple(
                msgspec.structs.replace(model, models=tuple(sorted(names[model.repo]))) for model in models
            )
        )

    async def on_offer(self, request: GetOffer) -> Offer:
        """The models of a repository, or the one the reference names."""
        try:
            reference = parse_reference(request.reference)
        except ValueError as error:
            raise BadRequest(str(error), param="reference") from error
        listing = await _query_hub(lambda: _list_repo(reference))
        offer = Offer(
            repo=reference.repo,
            revision=listing.commit,
            mmprojs=offered_files(mmprojs_of(listing.files)),
            mode=mode_of(listing.task),
            **{field: getattr(listing, field) for field in _LISTED_FIELDS},
        )
        ggufs = gguf_choices(reference, listing.files, self._local(reference))
        if ggufs:
            offer = await self._with_ggufs(offer, ggufs, listing, request.n_ctx)
        return await self._with_folder(offer, reference, listing, request.n_ctx)

    async def _with_ggufs(
        self,
        offer: Offer,
        ggufs: Sequence[tuple[GgufGroup, OfferedChoice]],
        listing: RepoListing,
        n_ctx: int | None,
    ) -> Offer:
        """One header gives the shape of all quants, scaled by the sizes of their files."""
        default = next((group for group, choice in ggufs if choice.is_default), ggufs[0][0])
        choices = tuple(choice for _, choice in ggufs)
        header = await self._headers.read(offer.repo, offer.revision, default)
        if isinstance(header, str):
            return msgspec.structs.replace(offer, choices=choices, problem=header)
        mmproj = offer.mmprojs[0] if offer.mmprojs else None
        facts = ModelFacts(
            path=f"{offer.repo}/{default.in_order[0].path}",
            format=Format.GGUF,
            header=header,
            mmproj=mmproj.path if mmproj else None,
            task=listing.task,
        )
        mode, problem = _mode(facts)
        complete = default.shards == 1

        def fits_of(group: GgufGroup) -> tuple[Fit, ...]:
            exact = group is default and complete
            scaled = header if exact else scale_header(header, group.size_bytes, complete=complete)
            files = ModelSizes(scaled, mmproj_bytes=mmproj.size_bytes if mmproj else 0)
            return self._fits(Format.GGUF, mode, files, header.n_ctx_train or None, n_ctx)

        if problem is None:
            choices = await asyncio.to_thread(
                lambda: tuple(msgspec.structs.replace(choice, fits=fits_of(group)) for group, choice in ggufs)
            )
        return msgspec.structs.replace(
            offer,
            choices=choices,
            problem=problem,
            mode=mode,
            architecture=header.architecture,
            n_ctx_train=header.n_ctx_train or None,
            n_params=header.n_params if complete else None,
        )

    async def _with_folder(
        self, offer: Offer, reference: Reference, listing: RepoListing, n_ctx: int | None
    ) -> Offer:
        """The safetensors model, or why there is nothing at all."""
        wants_folder = (reference.quant or "").lower() == SAFETENSORS
        wants_other = not wants_folder and (reference.quant or reference.file)
        is_default, local = not group_models(listing.files), self._local(reference)
        try:
            folder = None if wants_other else folder_choice(reference, listing.files, local, is_default)
        except SelectionError as error:
            return offer if offer.choices else msgspec.structs.replace(offer, problem=str(error))
        if folder is None:
            return offer if offer.choices else _empty_offer(offer, reference, listing.files)
        card = await read_remote_card(offer.repo, offer.revision, listing.files)
        facts = ModelFacts(path=offer.repo, format=Format.SAFETENSORS, card=card, task=listing.task)
        mode, problem = _mode(facts)
        if problem is None:
            weights = [file for file in folder.files if PurePosixPath(file.path).suffix == ".safetensors"]
            files = ModelSizes(weights_bytes=sum(file.size_bytes for file in weights))
            nodes_fit = self._fits(Format.SAFETENSORS, mode, files, card.n_ctx_train, n_ctx)
            folder = msgspec.structs.replace(folder, fits=nodes_fit)
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

    def _fits(
        self, format_: Format, mode: Mode, files: ModelSizes, n_ctx_train: int | None, n_ctx: int | None
    ) -> tuple[Fit, ...]:
        requirements = partial(memory_requirements, files, mode)
        query = FitQuery(format_, mode, requirements, n_ctx_train, n_ctx)
        return fits(query, self._nodes.values.values())

    def _local(self, reference: Reference) -> LocalModels:
        models = tuple(self._models.values.values())
        return LocalModels(models=models, folder=self._settings.models / reference.repo)


def _mode(facts: ModelFacts) -> tuple[Mode, str | None]:
    """The mode it would be registered with, and why no engine serves it."""
    try:
        check_served(facts)
        return Mode(guess_mode(facts).value), None
    except UnreadableModel as error:
        return Mode.CHAT, error.message


def _empty_offer(offer: Offer, reference: Reference, files: Sequence[RemoteFile]) -> Offer:
    if reference.quant or reference.file:
        wanted = reference.quant or reference.file
        problem = f"{offer.repo} has no {wanted}; leave it out to see what it has."
    else:
        problem = str(safetensors.refuse_without_model(offer.repo, files))
    return msgspec.structs.replace(offer, problem=problem)


def _search(query: SearchHub) -> tuple[HubModel, ...]:
    # Imported in the thread that uses it: the hub's library is large and slow to load.
    from services.downloader.hub.repositories import search

    return search(query)


def _list_repo(reference: Reference) -> RepoListing:
    from services.downloader.hub.repositories import list_repo

    return list_repo(reference, pauses_s=_PAUSES_S, max_retry_after_s=_MAX_RETRY_AFTER_S)


async def _query_hub(query: Callable[[], R]) -> R:
    """The hub's answer, or its refusal as the caller's error. A thread that hangs is abandoned."""
    try:
        async with asyncio.timeout(_HUB_TIMEOUT_S):
            return await asyncio.to_thread(query)
    except DownloadError as error:
        raise as_yard_error(error) from error
    except TimeoutError:
        raise DeadlineExceeded(
            f"The hub did not answer within {_HUB_TIMEOUT_S:g} s; try again later."
        ) from None
