"""The library: model files in the stores of the nodes, and transfers between nodes."""

from schemas.base import CALLERS, DISK_S, DOWNLOADER, FETCHERS, WATCHERS
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
from schemas.subject import Command, Subject

LIBRARY_SHOW = Command(
    "yard.command.library.show",
    LibraryRef,
    EntryDetails,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="One entry of the library with its files and their sha256.",
)
LIBRARY_DESCRIBE = Command(
    "yard.command.library.describe",
    DescribeEntry,
    LibraryEntry,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Write the description of an entry into its folder.",
    changes="entry",
)
LIBRARY_VERIFY = Command(
    "yard.command.library.verify",
    LibraryRef,
    LibraryJob,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Read all bytes of an entry and compare their sha256.",
    changes="entry",
)
LIBRARY_REPAIR = Command(
    "yard.command.library.repair",
    LibraryRef,
    LibraryJob,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Download damaged and missing files of an entry again, and no others.",
    changes="entry",
)
LIBRARY_CANCEL = Command(
    "yard.command.library.cancel",
    JobRef,
    LibraryJob,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Cancel a library job; what it has completed remains.",
    changes="job",
)
LIBRARY_DELETE = Command(
    "yard.command.library.delete",
    DeleteEntry,
    TrashedEntry,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Move an entry to the trash of its store, for a day.",
    timeout_s=DISK_S,
    changes="entry",
)
LIBRARY_RESTORE = Command(
    "yard.command.library.restore",
    TrashRef,
    EntryRestored,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Restore an item of the trash to its place.",
    timeout_s=DISK_S,
    changes="item",
)
LIBRARY_PURGE = Command(
    "yard.command.library.purge",
    TrashRef,
    TrashEmptied,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Delete an item of the trash permanently.",
    timeout_s=DISK_S,
    changes="item",
)
LIBRARY_EMPTY = Command(
    "yard.command.library.empty",
    FindOnNode,
    TrashEmptied,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Empty the trash of a node permanently.",
    timeout_s=DISK_S,
    changes="node",
)
LIBRARY_CACHED = Command(
    "yard.command.library.cached",
    FindOnNode,
    CachedModels,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="The models in the Hub's own cache on a node.",
    timeout_s=DISK_S,
)
LIBRARY_IMPORT = Command(
    "yard.command.library.import",
    ImportCached,
    LibraryJob,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Import a model from the Hub's own cache into a store.",
    timeout_s=DISK_S,
    changes="repo",
)
LIBRARY_COPY = Command(
    "yard.command.library.copy",
    CopyEntry,
    LibraryJob,
    callers=FETCHERS,
    server=DOWNLOADER,
    summary="Copy an entry to another node, from the nodes that have its files, without the hub.",
    timeout_s=DISK_S,
    changes="entry",
)
LIBRARY_FIND = Command(
    "yard.command.library.find",
    FindFile,
    FileLocations,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="All nodes and paths with a file of this sha256.",
)
LIBRARY_SCAN = Command(
    "yard.command.library.scan",
    FindOnNode,
    StoresScanned,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Scan the stores of a node now.",
    timeout_s=DISK_S,
)
LIBRARY_AT_NODE = Command(
    "yard.command.library.{node}.{verb}",
    bytes,
    bytes,
    callers=(DOWNLOADER,),
    server=DOWNLOADER,
    summary="A command of the library, forwarded to the node in charge: the same JSON.",
    timeout_s=DISK_S,
)
PEER_OFFER = Command(
    "yard.command.peer.{node}.offer",
    RequestFile,
    FileOffer,
    callers=(DOWNLOADER,),
    server=DOWNLOADER,
    summary="The address of a complete file on this node, and a short-lived token for it.",
)
PEER_ENTRY = Command(
    "yard.command.peer.{node}.entry",
    ListEntryFiles,
    EntryFiles,
    callers=(DOWNLOADER,),
    server=DOWNLOADER,
    summary="The files of an entry of this node with their sha256, computed where unknown.",
)
PEER_REPO = Command(
    "yard.command.peer.{node}.repo",
    ListRepoFiles,
    RepoFiles,
    callers=(DOWNLOADER,),
    server=DOWNLOADER,
    summary="Files of a repository on this node, for a node that cannot reach the hub.",
)
LIBRARY_CHANGED = Subject(
    "yard.event.library.{entry}.{change}",
    LibraryEntry,
    publish=(DOWNLOADER,),
    subscribe=WATCHERS,
    summary="An entry was deleted, restored or found damaged.",
)
LIBRARY_JOB_CHANGED = Subject(
    "yard.event.job.{job}.{state}",
    LibraryJob,
    publish=(DOWNLOADER,),
    subscribe=WATCHERS,
    summary="A library job changed its state.",
)
LIBRARY_JOB_PROGRESS = Subject(
    "yard.progress.job.{job}",
    LibraryJob,
    publish=(DOWNLOADER,),
    subscribe=WATCHERS,
    summary="Progress of a library job, at most every 500 ms.",
)
