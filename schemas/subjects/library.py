"""The library: model files in the stores of the nodes, and transfers between nodes."""

from schemas.base import DISK_S, DOWNLOADER, FETCHERS
from schemas.library import (
    CachedModels,
    CopyEntry,
    DeleteEntry,
    DescribeEntry,
    EntryDetails,
    EntryRestored,
    FileLocations,
    FindFile,
    FindOnNode,
    ImportCached,
    JobRef,
    LibraryEntry,
    LibraryJob,
    LibraryRef,
    StoresScanned,
    TrashedEntry,
    TrashEmptied,
    TrashRef,
)
from schemas.peers import EntryFiles, FileOffer, ListEntryFiles, ListRepoFiles, RepoFiles, RequestFile
from schemas.subject import CommandDeclarer, Subject

_command = CommandDeclarer(DOWNLOADER)
_between_nodes = CommandDeclarer(DOWNLOADER, callers=(DOWNLOADER,))
_on_disk = CommandDeclarer(DOWNLOADER, timeout_s=DISK_S)

LIBRARY_SHOW = _command(
    "library.show", LibraryRef, EntryDetails, "One entry of the library with its files and their sha256."
)
LIBRARY_DESCRIBE = _command.change(
    "library.describe", DescribeEntry, LibraryEntry, "Write the description of an entry into its folder."
)
LIBRARY_VERIFY = _command.change(
    "library.verify", LibraryRef, LibraryJob, "Read all bytes of an entry and compare their sha256."
)
LIBRARY_REPAIR = _command.change(
    "library.repair",
    LibraryRef,
    LibraryJob,
    "Download damaged and missing files of an entry again, and no others.",
)
LIBRARY_CANCEL = _command.change(
    "library.cancel", JobRef, LibraryJob, "Cancel a library job; what it has completed remains."
)
LIBRARY_DELETE = _on_disk.change(
    "library.delete", DeleteEntry, TrashedEntry, "Move an entry to the trash of its store, for a day."
)
LIBRARY_RESTORE = _on_disk.change(
    "library.restore", TrashRef, EntryRestored, "Restore an item of the trash to its place."
)
LIBRARY_PURGE = _on_disk.change(
    "library.purge", TrashRef, TrashEmptied, "Delete an item of the trash permanently."
)
LIBRARY_EMPTY = _on_disk.change(
    "library.empty", FindOnNode, TrashEmptied, "Empty the trash of a node permanently."
)
LIBRARY_CACHED = _on_disk(
    "library.cached", FindOnNode, CachedModels, "The models in the Hub's own cache on a node."
)
LIBRARY_IMPORT = _on_disk.change(
    "library.import", ImportCached, LibraryJob, "Import a model from the Hub's own cache into a store."
)
LIBRARY_COPY = _on_disk.change(
    "library.copy",
    CopyEntry,
    LibraryJob,
    "Copy an entry to another node, from the nodes that have its files, without the hub.",
    callers=FETCHERS,
)
LIBRARY_FIND = _command(
    "library.find", FindFile, FileLocations, "All nodes and paths with a file of this sha256."
)
LIBRARY_SCAN = _on_disk("library.scan", FindOnNode, StoresScanned, "Scan the stores of a node now.")
LIBRARY_AT_NODE = _on_disk(
    "library.{node}.{verb}",
    bytes,
    bytes,
    "A command of the library, forwarded to the node in charge: the same JSON.",
    callers=(DOWNLOADER,),
)
PEER_OFFER = _between_nodes(
    "peer.{node}.offer",
    RequestFile,
    FileOffer,
    "The address of a complete file on this node, and a short-lived token for it.",
)
PEER_ENTRY = _between_nodes(
    "peer.{node}.entry",
    ListEntryFiles,
    EntryFiles,
    "The files of an entry of this node with their sha256, computed where unknown.",
)
PEER_REPO = _between_nodes(
    "peer.{node}.repo",
    ListRepoFiles,
    RepoFiles,
    "Files of a repository on this node, for a node that cannot reach the hub.",
)
LIBRARY_CHANGED = Subject(
    "yard.event.library.{entry}.{change}",
    LibraryEntry,
    "An entry was deleted, restored or found damaged.",
    publish=(DOWNLOADER,),
)
LIBRARY_JOB_CHANGED = Subject(
    "yard.event.job.{job}.{state}", LibraryJob, "A library job changed its state.", publish=(DOWNLOADER,)
)
LIBRARY_JOB_PROGRESS = Subject(
    "yard.progress.job.{job}",
    LibraryJob,
    "Progress of a library job, at most every 500 ms.",
    publish=(DOWNLOADER,),
)
