"""What no model may say of itself, since no engine could be started so: refused where it is decoded."""

from typing import Any

import msgspec
import pytest

from schemas.models import ModelSpec
from schemas.profiles import Profile

DEEP = "[" * 40 + "]" * 40


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"start_budget_s": -1}, "start_budget_s"),
        ({"start_budget_s": 0}, "start_budget_s"),
        ({"start_budget_s": 1e300}, "start_budget_s"),
        ({"priority": 10**26}, "priority"),
        ({"engine": ""}, "no name for an engine"),
        ({"engine": "a b; rm"}, "no name for an engine"),
        ({"args": ["a\0b"]}, "NUL"),
        ({"env": {"A": "\0"}}, "NUL"),
        ({"env": {"": "x"}}, "env has the name"),
        ({"env": {"A=B": "x"}}, "env has the name"),
        ({"parameters": {"defaults": {"a": msgspec.json.decode(DEEP)}}}, "deep"),
        ({"parameters": {"forced": {"a": msgspec.json.decode(DEEP)}}}, "deep"),
        ({"profiles": [{"name": ""}]}, "profile"),
        ({"profiles": [{"n_ctx": -5}]}, "n_ctx"),
        ({"profiles": [{"n_ctx": 0}]}, "n_ctx"),
        ({"profiles": [{"n_parallel": 0}]}, "n_parallel"),
        ({"profiles": [{"n_parallel": 100_000}]}, "n_parallel"),
        ({"profiles": [{"args": ["a\0b"]}]}, "NUL"),
        ({"profiles": [{"env": {"A=B": "x"}}]}, "env has the name"),
        ({"profiles": [{"devices": [{"device": "cpu"}, {"device": "cpu"}]}]}, "cpu"),
    ],
)
def test_a_spec_that_no_engine_could_be_started_with_is_refused(
    fields: dict[str, Any], sentence: str
) -> None:
    document = msgspec.json.encode({"name": "m", "path": "m.gguf", **fields})
    with pytest.raises(msgspec.ValidationError, match=sentence):
        msgspec.json.decode(document, type=ModelSpec)


def test_two_cards_of_one_name_are_two_devices() -> None:
    card = {"device": "NVIDIA RTX 4090"}
    profile = msgspec.json.decode(msgspec.json.encode({"devices": [card, card]}), type=Profile)
    assert len(profile.devices) == 2
