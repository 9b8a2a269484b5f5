"""Reading the model's name out of a form with a file in it."""

import asyncio

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDictProxy

from schemas.errors import BadRequest

_NAME_BYTES = 1024
_LINE_BYTES = 2**16


async def model_of_form(headers: CIMultiDictProxy[str], body: bytes) -> str:
    """The field `model` of a multipart body; BadRequest if there is none or the form is broken."""
    # All is here already: with this limit the reader never asks anybody to hold back.
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
    """What a stream reader wants to hold back: there is nothing to hold back here."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
