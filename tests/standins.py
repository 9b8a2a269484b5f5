"""Stand-ins for the four services: they reply to commands as the contract declares."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands, Request
from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.base import Role, model_key
from schemas.devices import Device, DeviceKind
from schemas.downloads import ENDED, Download, DownloadRef, DownloadState, StartDownload
from schemas.errors import BadRequest, EngineFailed, ErrorDetail, ModelNotFound, NotFound, QueueFull
from schemas.instances import Instance, InstanceState, Reason
from schemas.logs import LogBatch, LogLine
from schemas.models import Mode, ModelRef, ModelSpec, ModelStarting, ModelStopping
from schemas.usage import UsageQuery, UsageReport, UsageRow, UsageSums
from tests.support import Yard

TOTAL = 2_000_000


def instance(
    name: str, model: str, state: InstanceState, *, at: float = 1.0, error: str | None = None
) -> Instance:
    return Instance(
        instance=name,
        model=model,
        node="testnode",
        engine="stand-in",
        revision=1,
        state=state,
        reason=Reason.REQUESTED,
        changed_at=at,
        slots=4,
        error=error,
        load_s=2.0 if state is InstanceState.READY else None,
    )


def card(node: str, temperature_c: float) -> Device:
    return Device(
        node=node,
        device="GPU-1",
        kind=DeviceKind.GPU,
        name="card",
        memory_total_bytes=2,
        memory_used_bytes=1,
        memory_free_bytes=1,
        sampled_at=time.time(),
        temperature_c=temperature_c,
    )


class Supervisor:
    """Starts `demo`, fails to start `broken`, and keeps `slow` loading until `go_on` is set."""

    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self.bus = bus
        self.models = BucketStore(bus, buckets.MODELS)
        self.instances = BucketStore(bus, buckets.INSTANCES)
        self.loading = asyncio.Event()
        self.go_on = asyncio.Event()
        self.waiting: dict[str, str] = {}
        """Models whose next start has to wait, and for what."""
        self._tasks = tasks

    async def set_up(self, commands: Commands) -> None:
        await commands.add(subjects.MODEL_START, self.start)
        await commands.add(subjects.MODEL_STOP, self.stop)
        for spec in (
            ModelSpec(name="demo", path="demo.gguf", aliases=("d", "first")),
            ModelSpec(name="broken", path="broken.gguf"),
            ModelSpec(name="org/slow:Q4", path="slow.gguf", mode=Mode.EMBEDDING),
        ):
            await self.models.put(model_key(spec.name), spec)

    async def start(self, ref: ModelRef) -> ModelStarting:
        model = {"d": "demo"}.get(ref.model, ref.model)
        if model not in ("demo", "broken", "org/slow:Q4"):
            raise ModelNotFound(f"There is no model {model}.", param="model")
        if (reason := self.waiting.pop(model, None)) is not None:
            return ModelStarting(model=model, state="waiting", reason=reason)
        self._tasks.spawn(self._run(model), f"start {model}")
        return ModelStarting(model=model, instance=f"{model[:2]}1", state="starting")

    async def _run(self, model: str) -> None:
        name = f"{model[:2]}1"
        for state in (InstanceState.STARTING, InstanceState.LOADING):
            await self.put(instance(name, model, state))
        self.loading.set()
        if model == "broken":
            await self.put(
                instance(name, model, InstanceState.FAILED, error="The engine ended.\nout of memory")
            )
            return
        if model != "demo":
            await self.go_on.wait()
        await self.put(instance(name, model, InstanceState.READY, at=2.0))

    async def put(self, state: Instance) -> None:
        await self.instances.put(state.instance, state)
        await self.bus.emit(subjects.INSTANCE_CHANGED, state, instance=state.instance, state=state.state)

    async def stop(self, ref: ModelRef) -> ModelStopping:
        if ref.model not in ("demo", "broken"):
            raise ModelNotFound(f"There is no model {ref.model}.", param="model")
        return ModelStopping(model=ref.model, instances=("de1",) if ref.model == "demo" else ())


class Downloader:
    """`demo` finishes, `gone` fails, `long` runs until cancelled, `quiet` only writes its bucket."""

    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self.bus = bus
        self.downloads = BucketStore(bus, buckets.DOWNLOADS)
        self.cancelled = asyncio.Event()
        self._tasks = tasks

    async def set_up(self, commands: Commands) -> None:
        await commands.add(subjects.DOWNLOAD_START, self.start)
        await commands.add(subjects.DOWNLOAD_CANCEL, self.cancel)

    async def start(self, command: StartDownload) -> Download:
        first = Download(
            download=command.reference.partition("/")[2],
            reference=command.reference,
            model=command.name or command.reference,
            state=DownloadState.QUEUED,
            created_at=1.0,
            changed_at=1.0,
        )
        if first.download == "wrong":
            raise BadRequest(f"{command.reference} is not on the hub.", param="reference")
        await self.downloads.put(first.download, first)
        self._tasks.spawn(self._run(first), f"download {first.download}")
        return first

    async def _run(self, first: Download) -> None:
        moving = msgspec.structs.replace(first, state=DownloadState.TRANSFERRING, bytes_total=TOTAL)
        if first.download == "quiet":
            await self.downloads.put("quiet", self._ended(moving, DownloadState.FINISHED))
            return
        await self.put(moving)
        half = msgspec.structs.replace(moving, bytes_done=TOTAL // 2, speed_bytes_s=1e6, eta_s=1.0)
        await self.bus.publish(subjects.DOWNLOAD_PROGRESS, half, download=half.download)
        if first.download == "long":
            await self.cancelled.wait()
            await self.put(self._ended(half, DownloadState.CANCELLED))
        elif first.download == "gone":
            error = ErrorDetail(message="It is gone.", type=NotFound.type, code=NotFound.code)
            await self.put(msgspec.structs.replace(half, state=DownloadState.FAILED, error=error))
        else:
            await self.put(self._ended(half, DownloadState.FINISHED))

    def _ended(self, download: Download, state: DownloadState) -> Download:
        done = TOTAL if state is DownloadState.FINISHED else download.bytes_done
        return msgspec.structs.replace(download, state=state, bytes_done=done, speed_bytes_s=None, eta_s=None)

    async def put(self, download: Download) -> None:
        await self.downloads.put(download.download, download)
        assert (download.state in ENDED) or download.bytes_total
        await self.bus.emit(
            subjects.DOWNLOAD_CHANGED, download, download=download.download, state=download.state
        )

    async def cancel(self, ref: DownloadRef) -> Download:
        if ref.download != "long":
            raise NotFound(f"There is no download {ref.download}.")
        self.cancelled.set()
        return Download(
            download="long",
            reference="r",
            model="m",
            state=DownloadState.CANCELLED,
            created_at=1,
            changed_at=2,
        )


class Gateway:
    """Answers `Hello, <last message>!`; breaks off at `break`, is full for `full`, never ends `endless`."""

    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self.bus = bus
        self.bodies: list[dict[str, object]] = []
        self.requests: list[str] = []
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()

    async def set_up(self, commands: Commands) -> None:
        await commands.add_raw(subjects.OPENAI, self.chat, endpoint="chat")

        async def on_cancel(tokens: dict[str, str], _: bytes) -> None:
            self.cancelled.put_nowait(tokens["request"])

        await self.bus.subscribe(subjects.CANCEL, on_cancel)

    async def chat(self, request: Request) -> None:
        body = msgspec.json.decode(request.data)
        self.bodies.append(body)
        self.requests.append((request.headers or {})["Yard-Request"])
        prompt = body["messages"][-1]["content"].strip()
        if body["model"] not in ("demo", "d"):
            raise ModelNotFound(f"There is no model {body['model']}.", param="model")
        if prompt == "full":
            raise QueueFull("Too many requests wait.")
        stream = b": waiting\n\n" + b"".join(_chunk(text) for text in ("Hello, ", prompt, "!"))
        if prompt == "break":
            stream += b"data: " + EngineFailed("It broke off.").encode() + b"\n\n"
        if prompt == "nonsense":
            stream = b'{"error":{"message":"Too long.","type":"x","code":"exceed_context_size_error"}}'
        for begin in range(0, len(stream), 50):
            await request.respond(stream[begin : begin + 50])
        if prompt != "endless":
            if prompt not in ("cut", "nonsense"):
                await request.respond(b"data: [DONE]\n\n")
            await request.respond(b"")


def _chunk(text: str) -> bytes:
    return b"data: " + msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": text}}]}) + b"\n\n"


class Monitor:
    """Has the usage of one model."""

    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self.queries: list[UsageQuery] = []

    async def set_up(self, commands: Commands) -> None:
        await commands.add(subjects.USAGE_QUERY, self.query)

    async def query(self, query: UsageQuery) -> UsageReport:
        self.queries.append(query)
        if query.model not in (None, "demo"):
            return UsageReport(rows=(), total=UsageSums(), tz="UTC", currency="EUR")
        demo = UsageRow(
            model="demo",
            requests=12,
            failed=1,
            cancelled=2,
            prompt_tokens=3456,
            cached_tokens=7,
            completion_tokens=890,
            cost="1.5",
        )
        return UsageReport(rows=(demo,), total=UsageSums(requests=12), tz="UTC", currency="EUR")


class Services:
    """The four stand-ins."""

    def __init__(
        self, supervisor: Supervisor, downloader: Downloader, gateway: Gateway, monitor: Monitor
    ) -> None:
        self.supervisor = supervisor
        self.downloader = downloader
        self.gateway = gateway
        self.monitor = monitor


@asynccontextmanager
async def services(yard: Yard) -> AsyncIterator[Services]:
    """The stand-ins, serving inside the block."""
    async with Tasks() as tasks:
        started = []
        for role, kind in (
            (Role.SUPERVISOR, Supervisor),
            (Role.DOWNLOADER, Downloader),
            (Role.GATEWAY, Gateway),
            (Role.MONITOR, Monitor),
        ):
            bus = await yard.bus(role)
            service = kind(bus, tasks)
            await service.set_up(await Commands.start(bus, tasks, "stand-in"))
            await bus.flush_subscriptions()
            started.append(service)
        yield Services(*started)  # type: ignore[arg-type]  # one of each, in order


async def print_lines(yard: Yard, name: str, model: str, *texts: str) -> None:
    """Publish log lines of an instance with a runner's login."""
    runner = await yard.bus(Role.RUNNER)
    batch = LogBatch(model=model, lines=tuple(LogLine(at=1.0, text=text) for text in texts))
    await runner.emit(subjects.INSTANCE_LOG, batch, node="testnode", instance=name)
