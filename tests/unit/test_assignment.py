"""`yard edit FIELD=VALUE`."""

import argparse
from typing import Any

import pytest

from modelyard.cli.models import parse_assignment


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
def test_an_assignment_is_a_merge_patch(text: str, patch: dict[str, Any]) -> None:
    assert parse_assignment(text) == patch


@pytest.mark.parametrize("text", ["n_ctx", "=1", "a..b=1", ""])
def test_a_text_that_is_not_an_assignment_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="FIELD=VALUE"):
        parse_assignment(text)
