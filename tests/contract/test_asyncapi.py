"""The published description of the wire is the wire."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas import buckets, subjects
from schemas.subject import Command
from tools.asyncapi import document, text

PUBLISHED = Path(__file__).parents[2] / "docs" / "asyncapi.json"


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from references(child)


def test_the_published_document_is_current() -> None:
    assert PUBLISHED.read_text() == text(), (
        "docs/asyncapi.json is not current; renew it with `python -m tools.asyncapi > docs/asyncapi.json`"
    )


def test_every_reference_resolves(described: dict[str, Any]) -> None:
    found = set(references(described))
    assert found
    for reference in found:
        node: Any = described
        for step in reference.removeprefix("#/").split("/"):
            assert step in node, reference
            node = node[step]


def test_every_subject_and_bucket_is_a_channel(described: dict[str, Any]) -> None:
    addresses = [channel["address"] for channel in described["channels"].values() if channel["address"]]
    expected = [subject.template for subject in subjects.ALL] + [b.subject("{key}") for b in buckets.ALL]
    assert sorted(addresses) == sorted(expected)


def test_the_parameters_of_a_channel_are_those_of_its_address(described: dict[str, Any]) -> None:
    for channel in described["channels"].values():
        for parameter in channel.get("parameters", {}):
            assert f"{{{parameter}}}" in channel["address"]
        assert (channel["address"] or "").count("{") == len(channel.get("parameters", {}))


def test_every_channel_has_a_sender_and_a_receiver(described: dict[str, Any]) -> None:
    for name, operation in described["operations"].items():
        assert operation["x-roles"] or name == "send_stored", name
        assert name.startswith(operation["action"])


def test_every_command_describes_its_reply(described: dict[str, Any]) -> None:
    answered = [name for name, operation in described["operations"].items() if "reply" in operation]
    commands = sum(isinstance(subject, Command) for subject in subjects.ALL)
    assert len(answered) == 2 * commands
    reply = described["channels"]["model_start_reply"]
    assert set(reply["messages"]) == {"reply", "error"}


def test_byte_payloads_are_not_described_as_json(described: dict[str, Any]) -> None:
    message = described["channels"]["infer"]["messages"]["message"]
    assert message["contentType"] == "application/octet-stream"
    assert "Yard-Infer" in message["headers"]["required"]
