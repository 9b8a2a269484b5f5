"""Audit events: differing fields, hidden secrets, verified actors."""

import msgspec
import pytest

from modelyard.bus import audit
from modelyard.bus.audit import actor_headers, verified_actor
from schemas.audit import Actor
from schemas.base import Role
from schemas.models import ModelSpec

SPEC = ModelSpec(name="m", path="m.gguf", env={"HF_TOKEN": "hf_abc", "A": "b"})


def noted(before: ModelSpec | None, after: ModelSpec | None) -> dict[str, object]:
    changes = audit.begin()
    audit.changed("model m", before, after)
    (change,) = changes
    document: dict[str, object] = msgspec.to_builtins(change)
    return document


def test_only_differing_fields_are_recorded() -> None:
    after = msgspec.structs.replace(SPEC, n_ctx=4096)
    shown = noted(SPEC, after)
    assert (shown["before"], shown["after"]) == ({"n_ctx": SPEC.n_ctx}, {"n_ctx": 4096})
    assert noted(None, SPEC)["before"] is None
    assert noted(SPEC, None)["after"] is None


def test_nothing_is_recorded_outside_of_a_command() -> None:
    audit._changes.set(None)
    audit.changed("model m", SPEC, None)
    assert audit._changes.get() is None


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"env": {"A": "b"}}, {"env": {"A": audit.HIDDEN}}),
        ({"api_key": "x", "max_tokens": 7}, {"api_key": audit.HIDDEN, "max_tokens": 7}),
        ({"hf_token": "x"}, {"hf_token": audit.HIDDEN}),
        ({"secret": {"a": "x"}}, {"secret": audit.HIDDEN}),
        ({"args": ["--api-key", "x", "-c", "1"]}, {"args": ["--api-key", audit.HIDDEN, "-c", "1"]}),
        ({"args": ["--api-key=x"]}, {"args": [f"--api-key={audit.HIDDEN}"]}),
        ({"args": ["--hf-token", "--verbose"]}, {"args": ["--hf-token", "--verbose"]}),
        ({"profiles": [{"env": {"A": "b"}}]}, {"profiles": [{"env": {"A": audit.HIDDEN}}]}),
        ({"source": "https://me:pw@h/x"}, {"source": f"https://{audit.HIDDEN}@h/x"}),
        ({"password": None, "name": "key"}, {"password": None, "name": "key"}),
    ],
)
def test_secrets_are_hidden(given: dict[str, object], shown: dict[str, object]) -> None:
    assert audit.without_secrets(given) == shown


def test_a_large_value_is_recorded_by_its_size() -> None:
    shown = noted(SPEC, msgspec.structs.replace(SPEC, chat_template="x" * 100_000))
    assert shown["after"] == {"too_large_bytes": pytest.approx(100_000, rel=0.01)}


FORGED = actor_headers(Actor(role=Role.OPERATOR, key="k1", address="1.2.3.4", user="root", node="n"))


def test_the_key_is_accepted_from_the_gateway_only_and_the_user_from_the_others() -> None:
    assert verified_actor(Role.GATEWAY, FORGED) == Actor(
        role=Role.GATEWAY, key="k1", address="1.2.3.4", node="n"
    )
    assert verified_actor(Role.OPERATOR, FORGED) == Actor(role=Role.OPERATOR, user="root", node="n")
    assert verified_actor(Role.DOWNLOADER, None) == Actor(role=Role.DOWNLOADER)


@pytest.mark.parametrize("header", ["", "nonsense", '{"role": "god"}', '{"role": 3}'])
def test_an_undecodable_actor_header_is_ignored(header: str) -> None:
    assert verified_actor(Role.OPERATOR, {"Yard-Actor": header}) == Actor(role=Role.OPERATOR)
