"""Moving the bytes of a plan."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable

from modelyard.bus import logs
from services.downloader.progress import ProgressMeter
from services.downloader.selection import RemoteFile
from services.downloader.source import Source
from services.downloader.throttle import Throttle
from services.downloader.transfer import Options, fetch_file, open_session
from services.downloader.worker_messages import Distrust, Job, Progress, Received, Trouble, Verified
from services.downloader.worker_messages import WorkerMessage as Message
from services.downloader.worker_orders import Orders
from services.downloader.worker_plan import Plan, require_store


def fetch_all(job: Job, plan: Plan, orders: Orders, send: Callable[[Message], None]) -> None:
    """Return when every file is there."""
    logs.configure("info", to=sys.stderr)  # standard output is for messages
    asyncio.run(_fetch(job, plan, orders, send))


async def _fetch(job: Job, plan: Plan, orders: Orders, send: Callable[[Message], None]) -> None:
    """Fetch the files one after the other; what is complete already is passed over."""
    received: Counter[str] = Counter()

    def tell(progress: Progress) -> None:
        if job.nodes:
            send(Received(received=dict(received)))
        send(progress)

    meter, throttle = ProgressMeter(tell, plan.arrived_bytes), Throttle()
    orders.follow(throttle.limit)
    options = Options(
        segments=job.segments,
        margin_bytes=job.margin_bytes,
        throttle=throttle,
        on_trouble=lambda sentence: send(Trouble(message=sentence)),
        on_received=lambda source, count: received.update({source: count}),
        seek=orders.seek if job.nodes else None,
        on_lie=lambda source, nodes: send(Distrust(sha256=source.sha256 or "", nodes=nodes)),
    )
    async with open_session() as session:
        for file, place in zip(plan.resolved.files, plan.places, strict=True):
            meter.start_file(file.path)
            require_store(job)
            source = _hub_source(plan, file)
            await fetch_file(session, source, place, on_bytes=meter.on_bytes, options=options)
            meter.finish_file(file.size_bytes)
            send(Verified(file=file.path))


def _hub_source(plan: Plan, file: RemoteFile) -> Source:
    """The hub as the place where a file's bytes come from."""
    return Source(
        url=plan.answer.urls[file.path],
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        blob_sha1=file.blob_sha1,
        commit=plan.resolved.commit,
        authorization=plan.answer.authorization,
    )
