"""`/metrics` for Prometheus; `/api/metrics`, its history and `/api/devices` for programs."""

import zlib

import msgspec
from aiohttp import web

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from schemas import subjects
from schemas.devices import Device
from schemas.errors import BadRequest
from schemas.metrics import AskSamples, Exposition, MetricsQuery

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS_ASKED = "application/openmetrics-text"
_OPENMETRICS = f"{_OPENMETRICS_ASKED}; version=1.0.0; charset=utf-8"
_RESERVED = frozenset({"name", "names", "since", "until", "step_s"})


class Metrics:
    """Handlers. The monitor has the numbers; here they only change their dress."""

    def __init__(self, bus: Bus, devices: BucketCache[Device]) -> None:
        self._bus = bus
        self._devices = devices

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/metrics", self.on_scrape),
            web.get("/api/metrics", self.on_now),
            web.get("/api/metrics/history", self.on_history),
            web.get("/api/devices", self.on_devices),
        ]

    async def on_scrape(self, request: web.Request) -> web.Response:
        """Nothing is measured for it: it is what the monitor gathered in the last second."""
        openmetrics = _OPENMETRICS_ASKED in request.headers.get("Accept", "")
        text = await self._bus.call(subjects.METRICS_EXPOSE, Exposition(openmetrics=openmetrics))
        return web.Response(
            body=zlib.decompress(text), headers={"Content-Type": _OPENMETRICS if openmetrics else _TEXT}
        )

    async def on_now(self, request: web.Request) -> web.Response:
        """Every metric, or those of `?names=a,b`."""
        samples = await self._bus.call(subjects.METRICS_NOW, AskSamples(names=_names(request)))
        return _json(samples)

    async def on_history(self, request: web.Request) -> web.Response:
        """`?names=a,b&since=…&until=…&step_s=…`; every other parameter is a label with its value."""
        query = MetricsQuery(
            names=_names(request),
            labels={name: value for name, value in request.query.items() if name not in _RESERVED},
            since=_number(request, "since"),
            until=_number(request, "until"),
            step_s=_number(request, "step_s"),
        )
        answer = await self._bus.call(subjects.METRICS_QUERY, query)
        return _json(answer)

    async def on_devices(self, _request: web.Request) -> web.Response:
        """The newest sample of every device of every node."""
        devices = sorted(self._devices.values.values(), key=lambda one: (one.node, one.device))
        return _json({"devices": devices})


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _names(request: web.Request) -> tuple[str, ...]:
    named = [*request.query.getall("names", []), *request.query.getall("name", [])]
    return tuple(name for part in named for name in part.split(",") if name)


def _number(request: web.Request, name: str) -> float | None:
    if (text := request.query.get(name)) is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"{name} must be a number of seconds.", param=name) from None
