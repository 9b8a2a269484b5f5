"""How the broker does, as one of its clients sees it, and what the monitor itself costs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from schemas.base import Record
from schemas.metrics import Sample


class KeptInStream(Record):
    """What one stream holds; `limit_bytes` is None where there is none."""

    messages: int
    stored_bytes: int
    limit_bytes: int | None = None


@dataclass
class BrokerHealth:
    """What was last seen."""

    round_trip_s: float | None = None
    """None: nobody asked yet. While it does not answer, how long it has not."""
    reconnects: int = 0
    streams: Mapping[str, KeptInStream] = field(default_factory=dict)


def broker_samples(broker: BrokerHealth) -> Iterator[Sample]:
    if broker.round_trip_s is not None:
        yield Sample(name="yard_broker_round_trip_seconds", value=broker.round_trip_s)
    yield Sample(name="yard_broker_reconnects_total", value=float(broker.reconnects))
    for name, kept in broker.streams.items():
        labels = {"stream": name}
        yield Sample(name="yard_broker_stream_messages", value=float(kept.messages), labels=labels)
        yield Sample(name="yard_broker_stream_bytes", value=float(kept.stored_bytes), labels=labels)
        if kept.limit_bytes is not None:
            limit = float(kept.limit_bytes)
            yield Sample(name="yard_broker_stream_limit_bytes", value=limit, labels=labels)
