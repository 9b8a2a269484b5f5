"""Model names: valid ones, their keys, and conflicts between models."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import check_model_name, check_token, model_key, model_name
from schemas.models import ModelSpec, find_model
from services.supervisor.registry.ledger import name_conflict

ALPHABET = "abcXYZ019._:/@+-"


@given(st.text(ALPHABET, min_size=1, max_size=40))
def test_a_model_key_is_a_token_and_leads_back_to_its_name(name: str) -> None:
    try:
        check_model_name(name)
    except ValueError:
        return
    key = model_key(name)
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", key)
    assert check_token(key) == key
    assert model_name(key) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "/a", "a/", "a//b", "a..b", "../a", "a b", "a*", "a>", "é", "a\n", "a" * 201, "a=2F"]
)
def test_invalid_model_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a model name"):
        check_model_name(name)


@pytest.mark.parametrize("key", ["=", "=2", "=2f", "a.b", "=41", ""])
def test_an_invalid_model_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is not a model"):
        model_name(key)


def spec(name: str, *aliases: str) -> ModelSpec:
    return ModelSpec(name=name, path="x.gguf", aliases=aliases)


@pytest.mark.parametrize(
    ("new", "clash"),
    [
        (spec("c"), None),
        (spec("a"), None),
        (spec("a", "alias"), None),
        (spec("c", "a"), "'a'"),
        (spec("alias"), "'alias'"),
        (spec("c", "alias"), "'alias'"),
        (spec("b", "a"), "'a'"),
    ],
)
def test_a_name_belongs_to_one_model(new: ModelSpec, clash: str | None) -> None:
    models = {"a": spec("a", "alias"), "b": spec("b")}
    conflict = name_conflict(new, models)
    assert (conflict is None) == (clash is None)
    assert clash is None or clash in (conflict or "")


def test_a_model_is_found_by_name_first_and_then_by_alias() -> None:
    models = {"1": spec("a", "x"), "2": spec("b", "y")}
    assert find_model("b", models) == models["2"]
    assert find_model("x", models) == models["1"]
    assert find_model("z", models) is None
