"""One request at the door."""

import msgspec

from schemas.base import Record, new_id
from schemas.endpoints import Endpoint, endpoint_of
from schemas.errors import InvalidJson
from schemas.requests import Lane

JSON = "application/json"


class Asked(Record):
    """What the gateway reads of a body; the rest is the engine's."""

    model: str
    stream: bool | None = None


class Ask(Record):
    """A request for a model. `model` and `stream` as its body has them."""

    path: str
    body: bytes
    model: str
    stream: bool
    content_type: str = JSON
    lane: Lane = Lane.INTERACTIVE
    key: str | None = None
    traceparent: str | None = None
    request: str = msgspec.field(default_factory=new_id)

    @property
    def endpoint(self) -> Endpoint:
        return endpoint_of(self.path)


_asked = msgspec.json.Decoder(Asked)


def read_asked(body: bytes, path: str) -> Asked:
    """`model` and `stream` of a JSON body; InvalidJson says what is wrong with it."""
    try:
        return _asked.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidJson(f"The body is not what {path} takes: {error}.") from error
    except RecursionError as error:
        raise InvalidJson("The body is nested too deeply.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not valid JSON: {error}.") from error
