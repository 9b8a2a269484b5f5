"""The lines of a batch: parsed, validated, and written with their results. Pure."""

import codecs
import re
from collections.abc import Iterable

import msgspec

from schemas.base import Record
from schemas.batches import LineError, LineResult
from schemas.errors import BadRequest

MAX_LINES = 50_000
MAX_ERRORS = 50
_WINDOW = re.compile(r"([1-9]\d{0,3})([hd])")
_SECONDS = {"h": 3600, "d": 86400}
_MAX_WINDOW_S = 30 * 86400


class Line(Record):
    number: int
    """The first is 1, as in editors."""
    custom_id: str
    model: str
    body: bytes


class _Body(Record):
    model: str


class _LineFields(Record):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_line, _body = msgspec.json.Decoder(_LineFields), msgspec.json.Decoder(_Body)


def window_s(text: str) -> float:
    """Seconds of a completion window such as `24h` or `7d`."""
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _MAX_WINDOW_S:
        raise BadRequest(
            f"completion_window {text!r} is not valid: use 1h to 720h, or 1d to 30d.",
            param="completion_window",
        )
    return float(seconds)


def read_lines(data: bytes, endpoint: str) -> tuple[list[Line], list[LineError]]:
    """The requests of a file, and its errors. An unknown model is an error of its line, and comes later."""
    lines, errors, seen = list[Line](), list[LineError](), set[str]()
    rows = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    texts = [(number, text) for number, text in enumerate(rows, 1) if text.strip()]
    if not texts:
        return [], [LineError(code="empty_file", message="The file has no lines.")]
    if len(texts) > MAX_LINES:
        message = f"The file has {len(texts)} lines; at most {MAX_LINES} are taken."
        return [], [LineError(code="too_many_lines", message=message)]
    for number, text in texts:
        line = _read_line(number, text, endpoint, seen)
        if isinstance(line, LineError):
            errors.append(line)
        else:
            lines.append(line)
        if len(errors) >= MAX_ERRORS:
            break
    return lines, errors


def _read_line(number: int, text: bytes, endpoint: str, seen: set[str]) -> Line | LineError:
    try:
        fields = _line.decode(text)
        model = _body.decode(fields.body).model
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return LineError(code="invalid_line", message=f"The line cannot be read: {error}.", line=number)
    except RecursionError:
        return LineError(code="invalid_line", message="The line is nested too deeply.", line=number)
    if fields.method != "POST" or fields.url != endpoint:
        message = f"The line has {fields.method} {fields.url}, its batch has POST {endpoint}."
        return LineError(code="mismatched_endpoint", message=message, line=number, param="url")
    if fields.custom_id in seen:
        message = f"custom_id {fields.custom_id!r} was there before."
        return LineError(code="duplicate_custom_id", message=message, line=number, param="custom_id")
    seen.add(fields.custom_id)
    return Line(number=number, custom_id=fields.custom_id, model=model, body=bytes(fields.body))


def write_results(batch: str, results: Iterable[LineResult]) -> tuple[bytes, bytes]:
    """The output file and the error file, in the order of the lines."""
    output, errors = list[bytes](), list[bytes]()
    for result in sorted(results, key=lambda result: result.line):
        response = {"status_code": result.status, "request_id": result.request, "body": result.body}
        line = {
            "id": f"{batch}-{result.line}",
            "custom_id": result.custom_id,
            "response": response,
            "error": None,
        }
        (output if result.status == 200 else errors).append(msgspec.json.encode(line) + b"\n")
    return b"".join(output), b"".join(errors)
