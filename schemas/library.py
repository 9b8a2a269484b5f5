"""The library: model files in the stores of the nodes."""

import hashlib
import re
from enum import StrEnum

import msgspec

from schemas.base import Record
from schemas.errors import ErrorDetail
from schemas.models import ModelSource

_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,64}\.[a-z0-9]{1,32}")


class EntryFormat(StrEnum):
    """The format of an entry."""

    GGUF = "gguf"
    """One model of llama.cpp's: a file, or all of its shards."""
    SAFETENSORS = "safetensors"
    """A folder with weights and their configuration, as the hub has it."""
    OTHER = "other"
    """A folder or file with weights of another kind."""
    LINK = "link"
    """A symbolic link. It is not followed: what it leads to is not the store's."""


class VerifyState(StrEnum):
    """The result of integrity checks."""

    VERIFIED = "verified"
    """Every file with weights was read and has the expected sha256."""
    UNVERIFIED = "unverified"
    """The sha256 is known; the bytes have not been read since they arrived or changed."""
    UNKNOWN = "unknown"
    """No expected sha256 is known; a verification records the present one."""
    DAMAGED = "damaged"
    """A file has another sha256 or size than it should have; it can be fetched again."""


class EntryFacts(Record):
    """Metadata from the files; absent fields are None."""

    architecture: str | None = None
    kind: str | None = None
    """`model`, `mmproj` or `adapter`."""
    name: str | None = None
    """The name that its makers gave it."""
    quant: str | None = None
    """For example `Q4_K_M`, `BF16` or `awq`."""
    n_params: int | None = None
    n_ctx_train: int | None = None
    """Tokens of context that it was trained for."""
    n_layer: int | None = None
    n_embd: int | None = None
    n_expert: int | None = None
    pooling: str | None = None
    has_chat_template: bool | None = None
    n_shards: int = 1


class LibraryEntry(Record):
    """One model on disk. Its key is `node.store.entry`; moved within a store it becomes another entry."""

    node: str
    store: str
    entry: str
    path: str
    """Relative to the store: a GGUF file (the first shard of several), or a folder; a model's `path`."""
    name: str
    """The path for display, without the extension of its format."""
    format: EntryFormat
    size_bytes: int
    """Size of all its files: the space that deleting it frees."""
    size: str
    """The same for people."""
    weights_bytes: int
    """Size of its files with weights."""
    n_files: int
    modified_at: float
    """When the newest of its weights was written."""
    downloaded_at: float | None = None
    """When they came from the hub; None for what was put there by hand."""
    facts: EntryFacts = EntryFacts()
    mmproj: str | None = None
    """The vision projector in the same folder, relative to the store."""
    source: ModelSource | None = None
    used_by: tuple[str, ...] = ()
    """The models of the registry that need it."""
    verified: VerifyState = VerifyState.UNKNOWN
    verified_at: float | None = None
    """When the file was read that was not read for the longest time."""
    damaged: tuple[str, ...] = ()
    """Its files that are not as they should be, relative to the store; the first 20."""
    description: str = ""
    """The content of description.txt in its folder; shared by all models of the folder."""
    description_revision: str = ""
    """Changes with the description; what compare-and-set refers to."""
    link: str | None = None
    """The target of a symbolic link."""
    problem: str | None = None
    """Why it will not do, in a sentence."""
    read_by: str = ""
    """The version of Modelyard that read the facts; another one reads them again."""

    @property
    def key(self) -> str:
        return f"{self.node}.{self.store}.{self.entry}"


class StoreSpace(Record):
    """One store of one node: where it is and what room it has. Its key lives as long as its downloader."""

    node: str
    store: str
    path: str
    """The folder, on its node."""
    default: bool
    """Downloads go there."""
    total_bytes: int = 0
    """Size of the disk."""
    free_bytes: int = 0
    used_bytes: int = 0
    """By everything in the store but the trash."""
    partial_bytes: int = 0
    """Part of used_bytes: incomplete files."""
    trash_bytes: int = 0
    entries: int = 0
    files: int = 0
    scanned_at: float | None = None
    scan_s: float | None = None
    """Duration of the last scan."""
    problem: str | None = None
    """Why it cannot be read, or which names in it are passed over."""


class LibraryRef(Record):
    """Which entry: `node.store.entry`."""

    entry: str


class EntryFile(Record):
    """One file of an entry."""

    path: str
    """Relative to the store."""
    size_bytes: int
    modified_at: float
    sha256: str | None = None
    """The expected sha256."""
    verified: VerifyState = VerifyState.UNKNOWN
    verified_at: float | None = None


class EntryDetails(Record):
    """An entry with its files, those with weights first; of very many the first 2000."""

    entry: LibraryEntry
    files: tuple[EntryFile, ...]
    missing: tuple[str, ...] = ()
    """Files that its folder should have by its own record."""


class DescribeEntry(Record):
    """Write an entry's description.txt; an empty one is taken away.

    `revision`: the `description_revision` that the writer saw; it is refused if there is another by now.
    """

    entry: str
    description: str
    revision: str | None = None

    def __post_init__(self) -> None:
        if len(self.description.encode()) > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"a description has at most {MAX_DESCRIPTION_BYTES} bytes")


MAX_DESCRIPTION_BYTES = 64 * 1024


class DeleteEntry(Record):
    """Put an entry into the trash of its store.

    Refused while a model of the registry needs it or an instance runs from it, unless `force`.
    """

    entry: str
    force: bool = False


class TrashedEntry(Record):
    """A deleted entry that can be restored, under `node.store.item`."""

    node: str
    store: str
    item: str
    path: str
    """Its former path, relative to the store."""
    name: str
    format: EntryFormat
    size_bytes: int
    size: str
    n_files: int
    trashed_at: float
    expires_at: float
    """When it is deleted for good."""

    @property
    def key(self) -> str:
        return f"{self.node}.{self.store}.{self.item}"


class TrashRef(Record):
    """Which item of a trash: `node.store.item`."""

    item: str


class EntryRestored(Record):
    """Its path before deletion."""

    path: str
    n_files: int


class TrashEmptied(Record):
    """How many items were deleted permanently."""

    items: int
    size_bytes: int


class JobKind(StrEnum):
    """The kind of a long-running library operation."""

    VERIFY = "verify"
    """Read every byte of an entry and compare its sha256."""
    REPAIR = "repair"
    """Fetch an entry's damaged and missing files again."""
    IMPORT = "import"
    """Take a model in from the Hub's cache."""
    COPY = "copy"
    """Fetch an entry from another node."""


class JobState(StrEnum):
    """The state of a job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB_ENDED = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELLED})


class LibraryJob(Record):
    """One job. It survives its downloader, which resumes it after a restart."""

    job: str
    kind: JobKind
    node: str
    store: str
    subject: str
    """Its object: an entry's path, or a repository."""
    state: JobState
    created_at: float
    changed_at: float
    revision: str | None = None
    """The commit that is imported."""
    source: str | None = None
    """The entry that is copied: `node.store.entry`."""
    bytes_total: int = 0
    bytes_done: int = 0
    file: str | None = None
    """Which file it is at."""
    damaged: tuple[str, ...] = ()
    """Problems found; the first 20."""
    linked: int = 0
    """Imported files that need no additional space: hard links and reflinks."""
    received: dict[str, int] = msgspec.field(default_factory=dict)
    """Bytes that came over the network, from the `hub` or from a node by its name."""
    error: ErrorDetail | None = None


class JobRef(Record):
    """Which job."""

    job: str


class FindOnNode(Record):
    """About one node; None is the only one there is."""

    node: str | None = None


class CachedModel(Record):
    """A model in the Hub's own cache on a node."""

    repo: str
    revision: str
    size_bytes: int
    size: str
    n_files: int
    modified_at: float
    imported: bool
    """All of its files are in the library of this node."""


class CachedModels(Record):
    """The contents of the Hub's cache on a node."""

    node: str
    folder: str
    models: tuple[CachedModel, ...]


class ImportCached(Record):
    """Take a model from the Hub's cache into a store: by hard link, else by reflink, else by copy."""

    repo: str
    revision: str | None = None
    """None: the newest item."""
    node: str | None = None
    store: str | None = None
    """None: the store that downloads go to."""


class CopyEntry(Record):
    """Bring an entry to another node, to the same path: from the nodes that have it, without the hub."""

    entry: str
    node: str
    """The target node."""
    store: str | None = None
    """None: the store that downloads go to."""


class FindFile(Record):
    """Which nodes have a file with this sha256?"""

    sha256: str
    node: str | None = None
    """Only on this node."""


class FileLocation(Record):
    """A matching file, with the size and time at which its sha256 was read."""

    node: str
    store: str
    path: str
    size_bytes: int
    verified: VerifyState


class FileLocations(Record):
    """All places of such a file on the nodes that are online."""

    files: tuple[FileLocation, ...]


class StoresScanned(Record):
    """The stores of a node as they are now."""

    stores: tuple[StoreSpace, ...]


def node_of(key: str) -> str:
    """The node in a key `node.store.entry`; ValueError if it is none."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not an entry of the library; it looks like node.store.0123456789abcdef")
    return key.partition(".")[0]


def entry_id(path: str) -> str:
    """The token of the entry at `path`: the same in every store."""
    return hashlib.sha256(path.encode()).hexdigest()[:16]
