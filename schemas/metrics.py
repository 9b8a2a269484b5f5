"""One number about the yard at one moment, under its Prometheus name."""

import msgspec

from schemas.record import Record


class Sample(Record):
    """`name` is the documented metric name, with its unit (`yard_device_temperature_celsius`)."""

    name: str
    value: float
    labels: dict[str, str] = msgspec.field(default_factory=dict)
