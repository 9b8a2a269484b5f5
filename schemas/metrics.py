"""One number about the yard at one moment, under its Prometheus name."""

from schemas.record import Record


class Sample(Record):
    """`name` is the documented metric name, with its unit (`yard_device_temperature_celsius`)."""

    name: str
    value: float
    labels: dict[str, str] = {}
