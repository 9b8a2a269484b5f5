"""One request for a model: its body as it came, and the fields of it that the gateway reads."""

import asyncio

import aiohttp
import msgspec
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDictProxy

from schemas.base import Record, new_id
from schemas.errors import BadRequest, InvalidJson
from schemas.requests import Endpoint, Lane, endpoint_of

JSON = "application/json"
_NAME_BYTES = 1024
_LINE_BYTES = 2**16


class InferRequest(Record):
    """A request for a model. `model` and `stream` as its body has them."""

    path: str
    body: bytes
    model: str
    stream: bool
    content_type: str = JSON
    lane: Lane = Lane.INTERACTIVE
    key: str | None = None
    """The id of the client's API key."""
    traceparent: str | None = None
    id: str = msgspec.field(default_factory=new_id)

    @property
    def endpoint(self) -> Endpoint:
        return endpoint_of(self.path)


class RequestFields(Record):
    """The fields of a body that the gateway reads; the others are for the engine."""

    model: str
    stream: bool | None = None


_fields = msgspec.json.Decoder(RequestFields)


def read_fields(body: bytes, path: str) -> RequestFields:
    """The fields of a JSON body; InvalidJson with the reason."""
    try:
        return _fields.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidJson(f"The body is not what {path} takes: {error}.") from error
    except RecursionError as error:
        raise InvalidJson("The body is nested too deeply.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not valid JSON: {error}.") from error


async def model_of_form(headers: CIMultiDictProxy[str], body: bytes) -> str:
    """The field `model` of a multipart body; BadRequest if there is none or the form is broken."""
    # The whole body is here: with this limit the reader never pauses its protocol.
    content = aiohttp.StreamReader(_Protocol(), limit=max(len(body), _LINE_BYTES))
    content.feed_data(body)
    content.feed_eof()
    try:
        async for part in aiohttp.MultipartReader(headers, content):
            if isinstance(part, aiohttp.BodyPartReader) and part.name == "model":
                return bytes(await part.read_chunk(_NAME_BYTES)).decode()
    except (ValueError, aiohttp.ClientError, HttpProcessingError) as error:
        raise BadRequest(f"The form cannot be read: {error}.") from error
    raise BadRequest("The form has no field `model`.", param="model")


class _Protocol(aiohttp.base_protocol.BaseProtocol):
    """What a stream reader pauses when it is full; there is no connection to pause here."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
