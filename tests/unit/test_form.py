"""The field `model` of a multipart form, at any position."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from schemas.errors import BadRequest
from services.gateway.inference.request import model_of_form

HEADERS = CIMultiDictProxy(CIMultiDict({"Content-Type": "multipart/form-data; boundary=xx"}))
MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\nears'


def form(*parts: bytes) -> bytes:
    return b"".join(b"--xx\r\n" + part + b"\r\n" for part in parts) + b"--xx--\r\n"


def sound(size: int, line: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + line * size


@pytest.mark.parametrize(("size", "line"), [(1, b"RIFF"), (3_000_000, b"x"), (300_000, b"a\r\n-"), (0, b"")])
async def test_the_model_is_found_before_and_after_a_file_of_any_size(size: int, line: bytes) -> None:
    """A file of more than 128 KiB before the name was an internal error."""
    for parts in ((sound(size, line), MODEL), (MODEL, sound(size, line))):
        assert await model_of_form(HEADERS, form(*parts)) == "ears"


@pytest.mark.parametrize(
    "body",
    [
        form(sound(3, b"x")),
        b"",
        b"--xx",
        form(sound(3, b"x"))[:-12],
        form(b"no header"),
        form(MODEL + b"\xff"),
    ],
)
async def test_a_form_without_a_model_or_that_is_cut_off_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="form"):
        await model_of_form(HEADERS, body)
