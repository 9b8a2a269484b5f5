"""Golden files: what was once written must be read for ever. A type never changes, it only gains fields."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tools.asyncapi import payloads

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("payload", payloads(), ids=lambda payload: payload.__name__)
def test_every_golden_file_round_trips(payload: type) -> None:
    path = GOLDEN / f"{payload.__name__}.json"
    assert path.exists(), f"write an example of {payload.__name__} with every field set into {path}"
    text = path.read_bytes()
    value = msgspec.json.decode(text, type=payload)
    assert json.loads(msgspec.json.encode(value)) == json.loads(text), "a field was renamed, or lost"
    fields = {field.encode_name for field in msgspec.structs.fields(payload)}
    missing = fields - json.loads(text).keys()
    assert not missing, f"{path.name} shows every field; add {sorted(missing)}"


@pytest.mark.parametrize("payload", payloads(), ids=lambda payload: payload.__name__)
def test_fields_of_a_newer_peer_are_ignored(payload: type) -> None:
    example: dict[str, Any] = json.loads((GOLDEN / f"{payload.__name__}.json").read_bytes())
    newer = msgspec.json.encode({**example, "from_the_future": {"a": 1}})
    today = msgspec.json.encode(example)
    assert msgspec.json.decode(newer, type=payload) == msgspec.json.decode(today, type=payload)


def test_no_golden_file_is_orphaned() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == {payload.__name__ for payload in payloads()}
