"""The hub: search, and the choices of one repository with their fit on this yard's nodes."""

from enum import StrEnum

from schemas.base import Format, Record
from schemas.models import Mode
from schemas.profiles import check_n_ctx

NO_MMPROJ = "none"
MAX_PATTERNS = 64
MAX_FOUND = 100


class Choice(Record):
    """Which files of a repository to take besides those of its quant. Patterns match the whole path.

    `*` stands for anything, `?` for one character, `folder/` for all that is in it.
    """

    include: tuple[str, ...] = ()
    """Exactly the files that match one of these; none: what makes up a model."""
    exclude: tuple[str, ...] = ()
    """Files to leave out; takes precedence over the others."""
    mmproj: str | None = None
    """The precision of the vision projector, such as `F16`; `none`: without; None: the best available."""

    def __post_init__(self) -> None:
        patterns = (*self.include, *self.exclude)
        if len(patterns) > MAX_PATTERNS:
            raise ValueError(f"at most {MAX_PATTERNS} patterns can be given")
        if not all(0 < len(pattern) <= 200 for pattern in patterns):
            raise ValueError("a pattern has between 1 and 200 characters")


class HubSort(StrEnum):
    """The sort order of a search; descending."""

    DOWNLOADS = "downloads"
    LIKES = "likes"
    TRENDING = "trending"
    UPDATED = "updated"
    CREATED = "created"


class SearchHub(Record):
    """Models on the hub by words in their names."""

    words: str = ""
    sort: HubSort = HubSort.DOWNLOADS
    """The order."""
    format: Format | None = None
    """Only models in this format."""
    mode: Mode | None = None
    """Models that the hub lists under a task for this mode."""
    task: str | None = None
    """A task of the hub, such as `text-generation`; takes precedence over `mode`."""
    author: str | None = None
    """Only models of this user or organization."""
    min_params: int | None = None
    """Minimum size of the weights; models of unknown size are excluded."""
    max_params: int | None = None
    """Maximum size of the weights."""
    limit: int = 20
    """How many, at most 100."""

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_FOUND:
            raise ValueError(f"limit must be between 1 and {MAX_FOUND}")
        if len(self.words) > 200:
            raise ValueError("words must be at most 200 characters")
        if min(self.min_params or 0, self.max_params or 0) < 0:
            raise ValueError("min_params and max_params must not be negative")


class HubModel(Record):
    """A repository in a search result. What the hub omits is None."""

    repo: str
    downloads: int | None = None
    """Downloads in the last 30 days."""
    likes: int | None = None
    updated_at: float | None = None
    """Unix seconds; so is the next."""
    created_at: float | None = None
    task: str | None = None
    """The hub's own word for what it does."""
    mode: Mode | None = None
    """The mode of that task; None: no engine serves it."""
    formats: tuple[Format, ...] = ()
    license: str | None = None
    gated: bool = False
    """Its terms must be accepted first."""
    private: bool = False
    n_params: int | None = None
    models: tuple[str, ...] = ()
    """Models of the registry that came from it."""


class HubSearchResults(Record):
    """Search results, in the requested order."""

    models: tuple[HubModel, ...]


class GetOffer(Record):
    """Requests the choices of a repository. A quant in `reference` (as in StartDownload) narrows them."""

    reference: str
    n_ctx: int | None = None
    """Estimate the fit with this context instead of the largest that fits."""

    def __post_init__(self) -> None:
        check_n_ctx(self.n_ctx)


class OfferedFile(Record):
    """A file as the hub lists it."""

    path: str
    size_bytes: int


class Fit(Record):
    """The estimated fit of a model on one node."""

    node: str
    sentence: str
    """All of it, for people."""
    devices: tuple[str, ...] = ()
    """On these; none: it does not fit, or no engine there serves it."""
    n_ctx: int | None = None
    """The context in tokens."""
    needs_bytes: int | None = None
    """Memory with that context; the minimum if it does not fit."""


class OfferedChoice(Record):
    """One model that a repository offers."""

    label: str
    """Its quant, or another distinguishing label."""
    reference: str
    """The reference for a download."""
    format: Format
    files: tuple[OfferedFile, ...]
    """Files of the model; shards in order."""
    size_bytes: int
    """Total size of these files."""
    is_default: bool = False
    """The default choice."""
    is_here: bool = False
    """All its files are in the store."""
    models: tuple[str, ...] = ()
    """Models of the registry that are made of it."""
    fits: tuple[Fit, ...] = ()
    """For every node, the best first; none: nothing could be estimated."""


class Offer(Record):
    """The choices of a repository and their fit on this yard's nodes."""

    repo: str
    revision: str
    """The commit, 40 hex digits."""
    choices: tuple[OfferedChoice, ...] = ()
    mmprojs: tuple[OfferedFile, ...] = ()
    """Vision parts, the one that is taken along first."""
    problem: str | None = None
    """Why nothing can be downloaded or estimated; a sentence."""
    architecture: str | None = None
    mode: Mode | None = None
    """The mode that it would be registered with."""
    task: str | None = None
    license: str | None = None
    gated: bool = False
    private: bool = False
    downloads: int | None = None
    likes: int | None = None
    updated_at: float | None = None
    n_params: int | None = None
    n_ctx_train: int | None = None
    """Tokens of context that it was trained for."""
    tags: tuple[str, ...] = ()
