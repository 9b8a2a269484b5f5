"""The lines of a batch, and the size of their results."""

import codecs
import json

import msgspec
import pytest

from schemas.batches import LineResult
from schemas.errors import BadRequest
from services.gateway.batches.lines import MAX_ERRORS, MAX_LINES, read_lines, window_s, write_results
from services.gateway.batches.storage import fit_result

CHAT = "/v1/chat/completions"


def line(name: str, **changes: object) -> bytes:
    given = {"custom_id": name, "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}
    return json.dumps(given | changes).encode()


def test_lines_are_numbered_from_one_and_blank_lines_are_skipped() -> None:
    lines, errors = read_lines(line("a") + b"\n\n  \n" + line("b") + b"\r\n", CHAT)
    assert not errors
    assert [(parsed.number, parsed.custom_id, parsed.model) for parsed in lines] == [
        (1, "a", "m"),
        (4, "b", "m"),
    ]
    assert json.loads(lines[0].body) == {"model": "m", "messages": []}


def test_a_byte_order_mark_is_skipped() -> None:
    lines, errors = read_lines(codecs.BOM_UTF8 + line("a"), CHAT)
    assert ([parsed.custom_id for parsed in lines], errors) == (["a"], [])


def test_a_result_that_is_too_large_is_stored_as_an_error() -> None:
    """Dropped, its line was retried without end."""
    body = msgspec.Raw(msgspec.json.encode({"data": "x" * 2000}))
    result = LineResult(line=3, custom_id="c", request="r", status=200, body=body)
    assert fit_result(result, 3000) is result
    stored = fit_result(result, 1000)
    assert (stored.line, stored.custom_id, stored.status) == (3, "c", 413)
    assert json.loads(bytes(stored.body))["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("data", "code", "at"),
    [
        (b"", "empty_file", None),
        (b"\n \n", "empty_file", None),
        (b"x\n" * (MAX_LINES + 1), "too_many_lines", None),
        (line("a") + b"\n{", "invalid_line", 2),
        (b'{"custom_id":"a"}', "invalid_line", 1),
        (line("a", body={"messages": []}), "invalid_line", 1),
        (b"\xff\xfe", "invalid_line", 1),
        (line("a").replace(b"[]", b"[" * 5000 + b"]" * 5000), "invalid_line", 1),
        (line("a", url="/v1/embeddings"), "mismatched_endpoint", 1),
        (line("a", method="GET"), "mismatched_endpoint", 1),
        (line("a") + b"\n" + line("a"), "duplicate_custom_id", 2),
    ],
)
def test_an_error_names_its_line(data: bytes, code: str, at: int | None) -> None:
    _, errors = read_lines(data, CHAT)
    assert [(error.code, error.line) for error in errors] == [(code, at)]


def test_the_number_of_errors_is_bounded() -> None:
    assert len(read_lines(b"x\n" * 1000, CHAT)[1]) == MAX_ERRORS


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86400), ("1h", 3600), ("7d", 604800)])
def test_completion_windows(text: str, seconds: float) -> None:
    assert window_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0h", "24", "h", "-1h", "31d", "99999h", "1.5h", "24h "])
def test_an_invalid_completion_window_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="completion_window"):
        window_s(text)


def test_results_are_written_in_the_order_of_lines_to_output_or_errors() -> None:
    def result(number: int, status: int) -> LineResult:
        return LineResult(
            line=number, custom_id=f"c{number}", request="r", status=status, body=msgspec.Raw(b'{"x":1}')
        )

    output, errors = write_results("b", [result(3, 200), result(1, 200), result(2, 404)])
    assert [json.loads(text)["custom_id"] for text in output.splitlines()] == ["c1", "c3"]
    (only,) = errors.splitlines()
    assert json.loads(only)["response"] == {"status_code": 404, "request_id": "r", "body": {"x": 1}}
