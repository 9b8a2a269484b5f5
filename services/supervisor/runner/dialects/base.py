"""What every style of answer has in common: how it is asked for, read as it passes, and put together."""

from typing import Any, ClassVar

import msgspec

from schemas.base import Record
from schemas.errors import EngineFailed, ErrorDetail
from schemas.models import ParameterPolicy
from services.supervisor.runner.dialects.sse import event_data
from services.supervisor.runner.metering import Meter

Fields = dict[str, msgspec.Raw]

_fields = msgspec.json.Decoder(Fields)
TRUE, FALSE = msgspec.Raw(b"true"), msgspec.Raw(b"false")
ROUTING = frozenset(
    {"api_base", "base_url", "api_key", "api_version", "custom_llm_provider", "extra_headers"}
)
"""Names by which other gateways let a body choose where it goes. Ours goes where the model is."""


class Dialect:
    """Reads one answer. `done` only if it is whole."""

    streams: ClassVar[bool] = True
    """Whether the engine is asked for events: a closed connection that does not stream goes unnoticed."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.done = False
        self.error: ErrorDetail | None = None

    def ask(self, body: bytes, policy: ParameterPolicy) -> bytes:
        """The body for the engine; msgspec.DecodeError if it is no JSON object."""
        fields = apply_policy(_fields.decode(body), policy)
        self.prepare(fields)
        return msgspec.json.encode(fields)

    def prepare(self, fields: Fields) -> None:
        """Change what the engine is asked so that we can read its answer."""
        if self.streams:
            fields["stream"] = TRUE

    def see(self, event: bytes) -> bytes:
        """Take one event; what of it the client gets to see."""
        if (data := event_data(event)) is None:
            return event
        return event if self.read(data) else b""

    def read(self, data: bytes) -> bool:
        """Take the data of one event; whether the client should see it."""
        raise NotImplementedError

    def keep(self, event: bytes) -> None:
        """Take one event for a client that wants the whole answer at once."""
        if (data := event_data(event)) is not None:
            self.read(data)
            self.collect(data)

    def collect(self, data: bytes) -> None:
        """Add one event's data to the whole answer."""
        raise NotImplementedError

    def whole(self) -> bytes:
        """The answer that a client who does not stream expects."""
        raise NotImplementedError


def apply_policy(fields: Fields, policy: ParameterPolicy) -> Fields:
    """A body as its model's owner wants it: names dropped, defaults filled in, values forced."""
    kept = {
        name: value for name, value in fields.items() if name not in ROUTING and name not in policy.dropped
    }
    defaults = {name: _raw(value) for name, value in policy.defaults.items() if name not in kept}
    forced = {name: _raw(value) for name, value in policy.forced.items()}
    return {**kept, **defaults, **forced}


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


class _EngineErrorDetail(Record):
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: int | str | None = None


class _EngineErrorBody(Record):
    error: _EngineErrorDetail


def engine_error(data: bytes, status: int) -> ErrorDetail:
    """An engine's own error in the one shape: its words, its type as the code."""
    try:
        given = msgspec.json.decode(data, type=_EngineErrorBody).error
    except msgspec.DecodeError:
        text = data[:300].decode(errors="replace").strip() or "nothing"
        return EngineFailed(f"The engine answered {status}: {text}.").body().error
    kind = given.type or ("invalid_request_error" if status < 500 else "server_error")
    code = given.code if isinstance(given.code, str) else kind
    return ErrorDetail(
        message=given.message or f"The engine answered {status}.", type=kind, param=given.param, code=code
    )
