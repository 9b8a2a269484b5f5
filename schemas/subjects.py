"""Every subject of the wire. A subject written anywhere else is a mistake."""

from schemas.alerts import (
    Alert,
    AlertList,
    AlertRuleRef,
    AlertRuleStored,
    AlertRuleTried,
    ListAlerts,
    PutAlertRule,
    Silence,
    SilenceAlerts,
    SilenceRef,
    TryAlertRule,
)
from schemas.audit import Audited
from schemas.batches import LineResult
from schemas.budgets import (
    BudgetList,
    BudgetRef,
    BudgetState,
    BudgetStored,
    ListBudgets,
    PutBudget,
    StoredBudget,
)
from schemas.devices import Device
from schemas.downloads import (
    AddDownloads,
    Download,
    DownloadRef,
    DownloadsAdded,
    LimitDownload,
    MoveDownload,
    StartDownload,
)
from schemas.frames import Check, Checked, Resend
from schemas.groups import Group, GroupList, GroupRef, GroupStored, ListGroups
from schemas.hub import AskOffer, HubFound, Offer, SearchHub
from schemas.instances import Accepted, ClearNode, Instance, NodeCleared, StartInstance, StopInstance
from schemas.library import (
    AskNode,
    CachedModels,
    CopyEntry,
    DeleteEntry,
    DescribeEntry,
    EntryDetails,
    FindFile,
    FoundFiles,
    ImportCached,
    JobRef,
    LibraryEntry,
    LibraryJob,
    LibraryRef,
    Restored,
    Scanned,
    TrashedEntry,
    TrashEmptied,
    TrashRef,
)
from schemas.logs import LogBatch, ServiceLogBatch
from schemas.metrics import (
    AskSamples,
    Exposition,
    HistoryChunk,
    InstanceMetrics,
    MetricsAnswer,
    MetricsQuery,
    Samples,
)
from schemas.models import ModelRef, ModelStarting, ModelStopping, ModelStored
from schemas.peers import AskEntry, AskFile, AskRepo, EntryFiles, FileOffer, RepoFiles
from schemas.placing import AskOptions, Cordon, Options, PlanAnswer, PlanQuery
from schemas.prices import (
    DeletePrice,
    ListPrices,
    PriceRef,
    PricesAnswer,
    PriceStored,
    PutPrice,
    Reprice,
    Repriced,
    StoredPrices,
)
from schemas.registering import Registered, RegisterFiles
from schemas.registry import (
    ApplyModels,
    DeleteModel,
    ListModels,
    ModelChanged,
    ModelDeleted,
    ModelHistory,
    ModelList,
    ModelRecord,
    ModelsApplied,
    PatchModel,
    PutModel,
    RenameModel,
    UndoModel,
)
from schemas.requests import RequestFinished, RequestQueued, RequestStarted
from schemas.roles import SERVICES, Role
from schemas.storage import AskStorage, RemoveUsage, StorageReport, UsageRemoved, Vacuum, Vacuumed
from schemas.subject import AnySubject, Command, R, Subject, T
from schemas.usage import (
    Forecast,
    ForecastQuery,
    ListReports,
    PutReport,
    RebuildUsage,
    RecordsPage,
    RecordsQuery,
    ReportList,
    ReportRef,
    ReportStored,
    StoredReport,
    UsageQuery,
    UsageRebuilt,
    UsageReport,
)
from schemas.webhooks import (
    ListWebhooks,
    PutWebhook,
    Webhook,
    WebhookList,
    WebhookRef,
    WebhookStored,
    WebhookTested,
)
from schemas.workers import StartWorker, WorkerStarted

_GATEWAY, _DOWNLOADER, _SUPERVISOR = Role.GATEWAY, Role.DOWNLOADER, Role.SUPERVISOR
_RUNNER, _MONITOR, _OPERATOR = Role.RUNNER, Role.MONITOR, Role.OPERATOR
_WATCHERS = (_GATEWAY, _OPERATOR)
_CALLERS = (_GATEWAY, _OPERATOR)
_AUDITING = (_DOWNLOADER, _SUPERVISOR, _MONITOR)
"""Who serves commands that change something."""
_LONG_S, _VERY_LONG_S = 30.0, 600.0
_DRAIN_S = 60.0
"""Commands that wait until instances are drained and stopped are answered within this time."""
_HUB_S = 60.0
"""Commands that ask the hub first."""
_DISK_S = 30.0
"""Commands that move many files are answered within this time."""

MODEL_PUT = Command(
    "yard.command.model.put",
    PutModel,
    ModelStored,
    callers=(*_CALLERS, _DOWNLOADER),
    server=_SUPERVISOR,
    summary="Put a model into the registry, new or changed.",
    changes="name",
)
MODEL_GET = Command(
    "yard.command.model.get",
    ModelRef,
    ModelRecord,
    callers=(*_CALLERS, _DOWNLOADER),
    server=_SUPERVISOR,
    summary="One model of the registry, by name or alias.",
)
MODEL_LIST = Command(
    "yard.command.model.list",
    ListModels,
    ModelList,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Every model of the registry.",
)
MODEL_PATCH = Command(
    "yard.command.model.patch",
    PatchModel,
    ModelStored,
    callers=(*_CALLERS, _DOWNLOADER),
    server=_SUPERVISOR,
    summary="Change some fields of a model.",
    changes="model",
)
MODEL_RENAME = Command(
    "yard.command.model.rename",
    RenameModel,
    ModelStored,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Give a model another name.",
    timeout_s=_DRAIN_S,
    changes="model",
)
MODEL_DELETE = Command(
    "yard.command.model.delete",
    DeleteModel,
    ModelDeleted,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Take a model out of the registry; its files stay.",
    timeout_s=_DRAIN_S,
    changes="model",
)
MODEL_APPLY = Command(
    "yard.command.model.apply",
    ApplyModels,
    ModelsApplied,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Put and delete many models, all of them or none.",
    timeout_s=_DRAIN_S,
    changes="models",
)
MODEL_HISTORY = Command(
    "yard.command.model.history",
    ModelRef,
    ModelHistory,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="The last revisions of a model, deleted or not.",
)
MODEL_UNDO = Command(
    "yard.command.model.undo",
    UndoModel,
    ModelStored,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Bring an earlier revision of a model back, deleted or not.",
    changes="model",
)
MODEL_START = Command(
    "yard.command.model.start",
    ModelRef,
    ModelStarting,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Start a model, or say that it is there already.",
    changes="model",
)
MODEL_STOP = Command(
    "yard.command.model.stop",
    ModelRef,
    ModelStopping,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Drain and stop every instance of a model.",
    changes="model",
)
MODEL_PLAN = Command(
    "yard.command.model.plan",
    PlanQuery,
    PlanAnswer,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="What would happen if a model were asked for now; nothing is done.",
)
GROUP_PUT = Command(
    "yard.command.group.put",
    Group,
    GroupStored,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Let models run together, or never at the same time.",
    changes="name",
)
GROUP_DELETE = Command(
    "yard.command.group.delete",
    GroupRef,
    GroupStored,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Take a group away; its models stay.",
    changes="name",
)
GROUP_LIST = Command(
    "yard.command.group.list",
    ListGroups,
    GroupList,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Every group of models.",
)
NODE_OPTIONS = Command(
    "yard.command.node.{node}.options",
    AskOptions,
    Options,
    callers=(_SUPERVISOR,),
    server=_SUPERVISOR,
    summary="The ways in which a node could run a model, and the memory that each takes.",
)
NODE_CORDON = Command(
    "yard.command.node.{node}.cordon",
    Cordon,
    Accepted,
    callers=_CALLERS,
    server=_SUPERVISOR,
    summary="Take no new starts on this node, or take them again; with `drain` what runs there ends.",
    changes="node",
)
NODE_START = Command(
    "yard.command.node.{node}.start",
    StartInstance,
    Accepted,
    callers=(_SUPERVISOR,),
    server=_SUPERVISOR,
    summary="The scheduler proposes a start; the node takes it or refuses.",
)
NODE_STOP = Command(
    "yard.command.node.{node}.stop",
    StopInstance,
    Accepted,
    callers=(_SUPERVISOR,),
    server=_SUPERVISOR,
    summary="Drain and stop one instance on this node.",
)
NODE_WORKER = Command(
    "yard.command.node.{node}.worker",
    StartWorker,
    WorkerStarted,
    callers=(_RUNNER,),
    server=_SUPERVISOR,
    summary="Hold a part of a model for an instance, which may be on another node.",
    timeout_s=20.0,
)
NODE_CLEAR = Command(
    "yard.command.node.{node}.clear",
    ClearNode,
    NodeCleared,
    callers=(_OPERATOR,),
    server=_SUPERVISOR,
    summary="Stop every instance on this node, and take no start after it; answered when they are gone.",
    changes="node",
)


def _download(verb: str, payload: type[T], reply: type[R], summary: str, changes: str) -> Command[T, R]:
    return Command(
        f"yard.command.download.{verb}",
        payload,
        reply,
        callers=_CALLERS,
        server=_DOWNLOADER,
        summary=summary,
        timeout_s=15.0,
        changes=changes,
    )


DOWNLOAD_START = _download(
    "start",
    StartDownload,
    Download,
    "Fetch a model from the hub; a second asker joins a running download.",
    "reference",
)
DOWNLOAD_ADD = _download(
    "add",
    AddDownloads,
    DownloadsAdded,
    "Fetch all models that a text names; each is taken or refused alone.",
    "text",
)
DOWNLOAD_PAUSE = _download(
    "pause", DownloadRef, Download, "Let a download rest until it is resumed.", "download"
)
DOWNLOAD_RESUME = _download(
    "resume", DownloadRef, Download, "Have a paused download go on where it was.", "download"
)
DOWNLOAD_CANCEL = _download(
    "cancel", DownloadRef, Download, "End a download; what is on disk stays for a later one.", "download"
)
DOWNLOAD_RETRY = _download(
    "retry", DownloadRef, Download, "Try a failed or cancelled download again.", "download"
)
DOWNLOAD_MOVE = _download(
    "move", MoveDownload, Download, "Give a waiting download another place in the queue.", "download"
)
DOWNLOAD_LIMIT = _download(
    "limit", LimitDownload, Download, "Change what a download may take of the network.", "download"
)
DOWNLOAD_FORGET = _download(
    "forget", DownloadRef, Download, "Take an ended download off the list.", "download"
)
DOWNLOAD_AT_NODE = Command(
    "yard.command.download.{node}.{verb}",
    bytes,
    bytes,
    callers=(_DOWNLOADER,),
    server=_DOWNLOADER,
    summary="A command about downloads on its way to the node that it is about: the same JSON.",
    timeout_s=10.0,
)
HUB_SEARCH = Command(
    "yard.command.hub.search",
    SearchHub,
    HubFound,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Find models on the hub by name, most downloaded first or otherwise.",
    timeout_s=_HUB_S,
)
HUB_OFFER = Command(
    "yard.command.hub.offer",
    AskOffer,
    Offer,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="What a repository offers: quants, sizes, and what fits which node; nothing is fetched.",
    timeout_s=_HUB_S,
)
FILES_REGISTER = Command(
    "yard.command.files.register",
    RegisterFiles,
    Registered,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Make a model of files that are in the store; what nobody says is guessed from them.",
    timeout_s=_DRAIN_S,
    changes="path",
)
LIBRARY_SHOW = Command(
    "yard.command.library.show",
    LibraryRef,
    EntryDetails,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="One entry of the library with its files and their sha256.",
)
LIBRARY_DESCRIBE = Command(
    "yard.command.library.describe",
    DescribeEntry,
    LibraryEntry,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Write the description of an entry into its folder.",
    changes="entry",
)
LIBRARY_VERIFY = Command(
    "yard.command.library.verify",
    LibraryRef,
    LibraryJob,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Read all bytes of an entry and compare their sha256.",
    changes="entry",
)
LIBRARY_REPAIR = Command(
    "yard.command.library.repair",
    LibraryRef,
    LibraryJob,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Fetch an entry's damaged and missing files again, and no others.",
    changes="entry",
)
LIBRARY_CANCEL = Command(
    "yard.command.library.cancel",
    JobRef,
    LibraryJob,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="End a job of the library; what it has done stays.",
    changes="job",
)
LIBRARY_DELETE = Command(
    "yard.command.library.delete",
    DeleteEntry,
    TrashedEntry,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Put an entry into the trash of its store, for a day.",
    timeout_s=_DISK_S,
    changes="entry",
)
LIBRARY_RESTORE = Command(
    "yard.command.library.restore",
    TrashRef,
    Restored,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Put an item of the trash back where it was.",
    timeout_s=_DISK_S,
    changes="item",
)
LIBRARY_PURGE = Command(
    "yard.command.library.purge",
    TrashRef,
    TrashEmptied,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Delete an item of the trash for good.",
    timeout_s=_DISK_S,
    changes="item",
)
LIBRARY_EMPTY = Command(
    "yard.command.library.empty",
    AskNode,
    TrashEmptied,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Delete everything in the trash of a node for good.",
    timeout_s=_DISK_S,
    changes="node",
)
LIBRARY_CACHED = Command(
    "yard.command.library.cached",
    AskNode,
    CachedModels,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="The models in the Hub's own cache on a node.",
    timeout_s=_DISK_S,
)
LIBRARY_IMPORT = Command(
    "yard.command.library.import",
    ImportCached,
    LibraryJob,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Take a model from the Hub's own cache into a store.",
    timeout_s=_DISK_S,
    changes="repo",
)
LIBRARY_COPY = Command(
    "yard.command.library.copy",
    CopyEntry,
    LibraryJob,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Bring an entry to another node, from the nodes that have its files; the hub is not asked.",
    timeout_s=_DISK_S,
    changes="entry",
)
LIBRARY_FIND = Command(
    "yard.command.library.find",
    FindFile,
    FoundFiles,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Every node and place that has a file with this sha256.",
)
LIBRARY_SCAN = Command(
    "yard.command.library.scan",
    AskNode,
    Scanned,
    callers=_CALLERS,
    server=_DOWNLOADER,
    summary="Look at the stores of a node now instead of in a moment.",
    timeout_s=_DISK_S,
)
LIBRARY_AT_NODE = Command(
    "yard.command.library.{node}.{verb}",
    bytes,
    bytes,
    callers=(_DOWNLOADER,),
    server=_DOWNLOADER,
    summary="A command of the library on its way to the node that it is about: the same JSON.",
    timeout_s=_DISK_S,
)
PEER_OFFER = Command(
    "yard.command.peer.{node}.offer",
    AskFile,
    FileOffer,
    callers=(_DOWNLOADER,),
    server=_DOWNLOADER,
    summary="Where a whole file is on this node, and a short-lived token for it.",
)
PEER_ENTRY = Command(
    "yard.command.peer.{node}.entry",
    AskEntry,
    EntryFiles,
    callers=(_DOWNLOADER,),
    server=_DOWNLOADER,
    summary="The files of an entry of this node with their sha256, which are read where nobody knows them.",
)
PEER_REPO = Command(
    "yard.command.peer.{node}.repo",
    AskRepo,
    RepoFiles,
    callers=(_DOWNLOADER,),
    server=_DOWNLOADER,
    summary="What this node has of a repository, for one that cannot ask the hub.",
)
USAGE_QUERY = Command(
    "yard.command.usage.query",
    UsageQuery,
    UsageReport,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Sum up usage and cost, by what is asked for.",
    timeout_s=_LONG_S,
)
USAGE_RECORDS = Command(
    "yard.command.usage.records",
    RecordsQuery,
    RecordsPage,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Single usage records with their costs, in pages.",
    timeout_s=_LONG_S,
)
USAGE_REBUILD = Command(
    "yard.command.usage.rebuild",
    RebuildUsage,
    UsageRebuilt,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Read the usage records of the event stream again and sum everything up anew.",
    timeout_s=_VERY_LONG_S,
    changes="",
)
USAGE_FORECAST = Command(
    "yard.command.usage.forecast",
    ForecastQuery,
    Forecast,
    callers=_CALLERS,
    server=_MONITOR,
    summary="What a period will have seen at its end, by the days before it.",
    timeout_s=_LONG_S,
)
USAGE_REMOVE = Command(
    "yard.command.usage.remove",
    RemoveUsage,
    UsageRemoved,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Take the usage of a model that left the registry away for good.",
    timeout_s=_VERY_LONG_S,
    changes="model",
)
PRICE_PUT = Command(
    "yard.command.price.put",
    PutPrice,
    PriceStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Give a model a price from a moment on.",
    timeout_s=_VERY_LONG_S,
    changes="model",
)
PRICE_GET = Command(
    "yard.command.price.get",
    PriceRef,
    StoredPrices,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Every price of a model, and which is valid now.",
)
PRICE_LIST = Command(
    "yard.command.price.list",
    ListPrices,
    PricesAnswer,
    callers=_CALLERS,
    server=_MONITOR,
    summary="The prices of all models.",
)
PRICE_DELETE = Command(
    "yard.command.price.delete",
    DeletePrice,
    PriceStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Take a price of a model away, or all of them.",
    changes="model",
)
PRICE_REPRICE = Command(
    "yard.command.price.reprice",
    Reprice,
    Repriced,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Count the costs of a period anew, with the prices there are now.",
    timeout_s=_VERY_LONG_S,
    changes="model",
)
BUDGET_PUT = Command(
    "yard.command.budget.put",
    PutBudget,
    BudgetStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Say how much may be used in a day, a week or a month.",
    changes="budget",
)
BUDGET_GET = Command(
    "yard.command.budget.get",
    BudgetRef,
    StoredBudget,
    callers=_CALLERS,
    server=_MONITOR,
    summary="One budget, and how much of it is used.",
)
BUDGET_LIST = Command(
    "yard.command.budget.list",
    ListBudgets,
    BudgetList,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Every budget, and how much of it is used.",
)
BUDGET_DELETE = Command(
    "yard.command.budget.delete",
    BudgetRef,
    BudgetStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Take a budget away.",
    changes="budget",
)
REPORT_PUT = Command(
    "yard.command.report.put",
    PutReport,
    ReportStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Keep a question about usage under a name.",
    changes="report",
)
REPORT_GET = Command(
    "yard.command.report.get",
    ReportRef,
    StoredReport,
    callers=_CALLERS,
    server=_MONITOR,
    summary="A kept question.",
)
REPORT_LIST = Command(
    "yard.command.report.list",
    ListReports,
    ReportList,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Every kept question.",
)
REPORT_DELETE = Command(
    "yard.command.report.delete",
    ReportRef,
    ReportStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Forget a question.",
    changes="report",
)
REPORT_RUN = Command(
    "yard.command.report.run",
    ReportRef,
    UsageReport,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Ask a kept question now.",
    timeout_s=_LONG_S,
)
STORAGE_REPORT = Command(
    "yard.command.storage.report",
    AskStorage,
    StorageReport,
    callers=_CALLERS,
    server=_MONITOR,
    summary="What is kept, in every stream, bucket and table.",
    timeout_s=_LONG_S,
)
STORAGE_VACUUM = Command(
    "yard.command.storage.vacuum",
    Vacuum,
    Vacuumed,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Apply what retention rules, and give free space back to the disk.",
    timeout_s=_VERY_LONG_S,
    changes="",
)
ALERT_LIST = Command(
    "yard.command.alert.list",
    ListAlerts,
    AlertList,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Alert rules, what they found, and silences.",
)
ALERT_PUT = Command(
    "yard.command.alert.put",
    PutAlertRule,
    AlertRuleStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Put an alert rule, new or changed; also one that was shipped.",
    changes="name",
)
ALERT_DELETE = Command(
    "yard.command.alert.delete",
    AlertRuleRef,
    AlertRuleStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Take an alert rule away; those shipped are switched off instead.",
    changes="name",
)
ALERT_RESET = Command(
    "yard.command.alert.reset",
    AlertRuleRef,
    AlertRuleStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Have a shipped alert rule as it was shipped.",
    changes="name",
)
ALERT_SILENCE = Command(
    "yard.command.alert.silence",
    SilenceAlerts,
    Silence,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Do not tell some alerts for a while, and say why.",
    changes="rule",
)
ALERT_UNSILENCE = Command(
    "yard.command.alert.unsilence",
    SilenceRef,
    Silence,
    callers=_CALLERS,
    server=_MONITOR,
    summary="End a silence now.",
    changes="silence",
)
ALERT_TEST = Command(
    "yard.command.alert.test",
    TryAlertRule,
    AlertRuleTried,
    callers=_CALLERS,
    server=_MONITOR,
    summary="What a rule would find now; nothing is done.",
)
WEBHOOK_PUT = Command(
    "yard.command.webhook.put",
    PutWebhook,
    WebhookStored,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Have a URL told what happens; its secret is in the answer, this once.",
    changes="name",
)
WEBHOOK_LIST = Command(
    "yard.command.webhook.list",
    ListWebhooks,
    WebhookList,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Who is told what happens, and how well.",
)
WEBHOOK_DELETE = Command(
    "yard.command.webhook.delete",
    WebhookRef,
    Webhook,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Tell a URL nothing more.",
    changes="name",
)
WEBHOOK_TEST = Command(
    "yard.command.webhook.test",
    WebhookRef,
    WebhookTested,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Tell a hook something now, and say how that went.",
    timeout_s=20.0,
)
METRICS_QUERY = Command(
    "yard.command.metrics.query",
    MetricsQuery,
    MetricsAnswer,
    callers=_CALLERS,
    server=_MONITOR,
    summary="The history of metrics, at most a day, thinned to min, avg and max a step.",
)
METRICS_NOW = Command(
    "yard.command.metrics.now",
    AskSamples,
    Samples,
    callers=_CALLERS,
    server=_MONITOR,
    summary="Every metric as it is now.",
)
METRICS_EXPOSE = Command(
    "yard.command.metrics.expose",
    Exposition,
    bytes,
    callers=(_GATEWAY,),
    server=_MONITOR,
    summary="Every metric as Prometheus reads it, compressed by zlib.",
)
ANSWER_CHECK = Command(
    "yard.command.gateway.{gateway}.check",
    Check,
    Checked,
    callers=(_RUNNER,),
    server=_GATEWAY,
    summary="A runner asks which of its answers somebody still waits for.",
)
OPENAI = Command(
    "yard.command.openai.{endpoint}",
    bytes,
    bytes,
    callers=(_OPERATOR,),
    server=_GATEWAY,
    summary="Inference over NATS: the same JSON; the answer in several replies, an empty one last.",
)

MODEL_CHANGED = Subject(
    "yard.event.model.{model}.{change}",
    ModelChanged,
    publish=(_SUPERVISOR,),
    subscribe=(*_WATCHERS, _RUNNER),
    summary="A model was put, deleted or renamed; `model` is the name it had before.",
)
INSTANCE_CHANGED = Subject(
    "yard.event.instance.{instance}.{state}",
    Instance,
    publish=(_SUPERVISOR, _RUNNER),
    subscribe=(*_WATCHERS, _MONITOR),
    summary="An instance reached a state.",
)
DOWNLOAD_CHANGED = Subject(
    "yard.event.download.{download}.{state}",
    Download,
    publish=(_DOWNLOADER,),
    subscribe=_WATCHERS,
    summary="A download reached a state.",
)
LIBRARY_CHANGED = Subject(
    "yard.event.library.{entry}.{change}",
    LibraryEntry,
    publish=(_DOWNLOADER,),
    subscribe=_WATCHERS,
    summary="An entry was deleted, restored or found damaged.",
)
LIBRARY_JOB_CHANGED = Subject(
    "yard.event.job.{job}.{state}",
    LibraryJob,
    publish=(_DOWNLOADER,),
    subscribe=_WATCHERS,
    summary="A job of a library reached a state.",
)
REQUEST_QUEUED = Subject(
    "yard.event.request.{model}.{request}.queued",
    RequestQueued,
    publish=(_GATEWAY,),
    subscribe=(*_WATCHERS, _SUPERVISOR, _RUNNER),
    summary="An inference request waits for a slot.",
)
REQUEST_STARTED = Subject(
    "yard.event.request.{model}.{request}.started",
    RequestStarted,
    publish=(_RUNNER,),
    subscribe=_WATCHERS,
    summary="A runner took the request.",
)
REQUEST_FINISHED = Subject(
    "yard.event.request.{model}.{request}.finished",
    RequestFinished,
    publish=(_GATEWAY, _RUNNER),
    subscribe=(*_WATCHERS, _MONITOR),
    summary="The request ended; this is its usage record.",
)
ALERT_CHANGED = Subject(
    "yard.event.alert.{alert}.{state}",
    Alert,
    publish=(_MONITOR,),
    subscribe=_WATCHERS,
    summary="An alert is pending, fires, or is over.",
)
AUDITED = Subject(
    "yard.event.audit.{command}.{outcome}",
    Audited,
    publish=_AUDITING,
    subscribe=_WATCHERS,
    summary="A command changed something, or was refused; `command` is its noun and verb.",
)
BUDGET_CROSSED = Subject(
    "yard.event.budget.{budget}.{level}",
    BudgetState,
    publish=(_MONITOR,),
    subscribe=_WATCHERS,
    summary="So much of a budget is used that a warning is due, or all of it; `within`: a new period began.",
)
DOWNLOAD_PROGRESS = Subject(
    "yard.progress.download.{download}",
    Download,
    publish=(_DOWNLOADER,),
    subscribe=_WATCHERS,
    summary="How far a download is, at most every 500 ms.",
)
LIBRARY_JOB_PROGRESS = Subject(
    "yard.progress.job.{job}",
    LibraryJob,
    publish=(_DOWNLOADER,),
    subscribe=_WATCHERS,
    summary="How far a job of a library is, at most every 500 ms.",
)
DEVICE_METRIC = Subject(
    "yard.metric.device.{node}.{device}",
    Device,
    publish=(_MONITOR,),
    subscribe=_WATCHERS,
    summary="One sample of one device, once a second.",
)
INSTANCE_METRIC = Subject(
    "yard.metric.instance.{node}.{instance}",
    InstanceMetrics,
    publish=(_RUNNER,),
    subscribe=(*_WATCHERS, _MONITOR),
    summary="What one instance does, once a second.",
)
HISTORY = Subject(
    "yard.history.{step}.{part}",
    HistoryChunk,
    publish=(_MONITOR,),
    subscribe=(),
    summary="Thinned metrics, every five minutes; `step` is the seconds of a point.",
)
INSTANCE_LOG = Subject(
    "yard.log.{node}.{instance}",
    LogBatch,
    publish=(_RUNNER,),
    subscribe=_WATCHERS,
    summary="What an engine printed.",
)
SERVICE_LOG = Subject(
    "yard.log.{node}.service.{service}",
    ServiceLogBatch,
    publish=SERVICES,
    subscribe=_WATCHERS,
    summary="What a service logged.",
)
INFER = Subject(
    "yard.infer.{model}.{lane}.{key}",
    bytes,
    publish=(_GATEWAY,),
    subscribe=(),
    summary="An inference request: the client's body as it came. A queue for each key, served in turns.",
)
BODY = Subject(
    "yard.body.{request}.{part}",
    bytes,
    publish=(_GATEWAY,),
    subscribe=(),
    summary="A piece of a request's body that is too large for one message: 0, 1, 2, ….",
)
FILE = Subject(
    "yard.file.{file}.{part}",
    bytes,
    publish=(_GATEWAY,),
    subscribe=(),
    summary="A piece of a file: 0, 1, 2, ….",
)
RESULT = Subject(
    "yard.result.{batch}.{line}",
    LineResult,
    publish=(_GATEWAY,),
    subscribe=(),
    summary="The answer to one line of a batch.",
)
CANCEL = Subject(
    "yard.cancel.{request}",
    bytes,
    publish=(_GATEWAY, _OPERATOR),
    subscribe=(_GATEWAY, _RUNNER),
    summary="Nobody waits for this request any more.",
)
RESEND = Subject(
    "yard.resend.{request}",
    Resend,
    publish=(_GATEWAY,),
    subscribe=(_RUNNER,),
    summary="Frames of an answer were lost; send them again.",
)
ANSWER = Subject(
    "yard.reply.{gateway}.{request}.frame",
    bytes,
    publish=(_RUNNER,),
    subscribe=(_GATEWAY,),
    summary="One frame of an answer: a line of JSON that numbers it, then bytes of the answer.",
)
STORED = Subject(
    "yard.reply.{gateway}.{request}.stored",
    bytes,
    publish=(),
    subscribe=(_GATEWAY,),
    summary="The broker's own word that it has the request, or why it has not.",
)

ALL: tuple[AnySubject, ...] = tuple(value for value in globals().values() if isinstance(value, Subject))
COMMANDS: tuple[Command, ...] = tuple(subject for subject in ALL if isinstance(subject, Command))  # type: ignore[type-arg]
