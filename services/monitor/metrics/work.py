"""Samples of nodes, of the work queue and of downloads."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from schemas.downloads import ENDED, Download
from schemas.instances import Node
from schemas.metrics import Sample


def node_samples(nodes: Mapping[str, Node], expected: Iterable[str]) -> Iterator[Sample]:
    """Of every machine of the yard: up is 1 if its record lives, 0 if it should."""
    for name in sorted({*expected, *nodes}):
        yield Sample(name="yard_node_up", value=float(name in nodes), labels={"node": name})
    for node in nodes.values():
        labels = {"node": node.node}
        yield Sample(name="yard_node_info", value=1.0, labels={**labels, "version": node.version})
        yield Sample(name="yard_node_cordoned", value=float(node.cordoned), labels=labels)


def queue_samples(queue: Mapping[tuple[str, str], int]) -> Iterator[Sample]:
    for (model, lane), count in queue.items():
        labels = {"model": model, "lane": lane}
        yield Sample(name="yard_model_queue", value=float(count), labels=labels)


def download_samples(downloads: Iterable[Download]) -> Iterator[Sample]:
    states: Counter[str] = Counter()
    for download in downloads:
        states[download.state.value] += 1
        if download.state in ENDED:
            continue
        labels = {"model": download.model}
        yield Sample(name="yard_download_bytes", value=float(download.bytes_done), labels=labels)
        if download.bytes_total is not None:
            total = float(download.bytes_total)
            yield Sample(name="yard_download_total_bytes", value=total, labels=labels)
        if download.speed_bytes_s is not None:
            speed = download.speed_bytes_s
            yield Sample(name="yard_download_bytes_per_second", value=speed, labels=labels)
    for state, count in states.items():
        yield Sample(name="yard_downloads", value=float(count), labels={"state": state})
