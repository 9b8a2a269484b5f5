"""`yard edit FIELD=VALUE`."""

import argparse
from typing import Any

import pytest

from modelyard.cli.registry import assignment


@pytest.mark.parametrize(
    ("text", "patch"),
    [
        ("n_ctx=4096", {"n_ctx": 4096}),
        ("replicas.max=2", {"replicas": {"max": 2}}),
        ("aliases=['a', 'b']", {"aliases": ["a", "b"]}),
        ("pinned=true", {"pinned": True}),
        ("engine=llama.cpp", {"engine": "llama.cpp"}),
        ("env.A=x=y", {"env": {"A": "x=y"}}),
        ("mmproj=", {"mmproj": None}),
        ("path=a b.gguf", {"path": "a b.gguf"}),
    ],
)
def test_a_field_and_its_value_are_a_patch(text: str, patch: dict[str, Any]) -> None:
    assert assignment(text) == patch


@pytest.mark.parametrize("text", ["n_ctx", "=1", "a..b=1", ""])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="FIELD=VALUE"):
        assignment(text)
