"""`/metrics` for Prometheus; `/api/metrics`, its history and `/api/devices` as JSON."""

import zlib

from aiohttp import web

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from schemas import subjects
from schemas.devices import Device
from schemas.errors import BadRequest
from schemas.metrics import Exposition, GetSamples, MetricsQuery
from services.gateway.http import json_response

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS_TYPE = "application/openmetrics-text"
_OPENMETRICS = f"{_OPENMETRICS_TYPE}; version=1.0.0; charset=utf-8"
_RESERVED = frozenset({"name", "names", "since", "until", "step_s"})


class MetricsApi:
    """Handlers. The monitor has the values; they are only encoded here."""

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
        """The exposition of the monitor, which is at most a second old."""
        openmetrics = _OPENMETRICS_TYPE in request.headers.get("Accept", "")
        text = await self._bus.call(subjects.METRICS_EXPOSE, Exposition(openmetrics=openmetrics))
        headers = {"Content-Type": _OPENMETRICS if openmetrics else _TEXT}
        return web.Response(body=zlib.decompress(text), headers=headers)

    async def on_now(self, request: web.Request) -> web.Response:
        """All metrics, or those of `?names=a,b`."""
        samples = await self._bus.call(subjects.METRICS_NOW, GetSamples(names=_names(request)))
        return json_response(samples)

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
        return json_response(answer)

    async def on_devices(self, _request: web.Request) -> web.Response:
        devices = sorted(self._devices.values.values(), key=lambda device: (device.node, device.device))
        return json_response({"devices": devices})


def _names(request: web.Request) -> tuple[str, ...]:
    lists = [*request.query.getall("names", []), *request.query.getall("name", [])]
    return tuple(name for names in lists for name in names.split(",") if name)


def _number(request: web.Request, name: str) -> float | None:
    if (text := request.query.get(name)) is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"{name} must be a number of seconds.", param=name) from None
