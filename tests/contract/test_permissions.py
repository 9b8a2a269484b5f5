"""What a role may do follows from the contract, and is no more than it needs."""

import json
import subprocess
from pathlib import Path

import pytest

from modelyard.host.broker import configuration, find_server
from modelyard.host.credentials import ensure_seeds
from schemas import buckets, streams, subjects
from schemas.base import SERVICES, Role
from schemas.permissions import permissions

EVERY_ROLE = pytest.mark.parametrize("role", list(Role))


@EVERY_ROLE
def test_no_role_has_wildcard_permissions(role: Role) -> None:
    allowed = permissions(role)
    for rule in (*allowed.publish, *allowed.subscribe):
        assert rule not in {">", "yard.>", "$JS.API.>", "$JS.>", "$KV.>", "_INBOX.>"} or (
            rule == "_INBOX.>" and role is Role.OPERATOR
        )
        # Bodies are purged when their request has ended.
        purged = {f"$JS.API.STREAM.PURGE.{stream.name}" for stream in streams.ALL if role in stream.purgers}
        # The registry's writer extends the history of a bucket from an earlier version.
        longer = {"$JS.API.STREAM.UPDATE.KV_models"} if role is Role.SUPERVISOR else set()
        # The monitor extends the stream of samples of an earlier version.
        longer |= {"$JS.API.STREAM.UPDATE.METRICS"} if role is Role.MONITOR else set()
        retired = {
            f"$JS.API.STREAM.DELETE.{name}" for name in buckets.RETIRED_STREAMS if role is Role.SUPERVISOR
        }
        assert rule in purged | longer | retired or not rule.startswith(
            ("$JS.API.STREAM.UPDATE", "$JS.API.STREAM.DELETE", "$JS.API.STREAM.PURGE", "$SYS")
        )


@EVERY_ROLE
def test_buckets_are_written_by_writers_and_read_by_readers_only(role: Role) -> None:
    allowed = permissions(role).publish
    for bucket in buckets.ALL:
        assert (bucket.subject(">") in allowed) == (role in bucket.writers)
        assert (f"$JS.API.CONSUMER.CREATE.{bucket.stream}" in allowed) == (role in bucket.readers)


@EVERY_ROLE
def test_commands_are_sent_by_callers_and_served_by_their_server_only(role: Role) -> None:
    allowed = permissions(role)
    for command in subjects.COMMANDS:
        assert (command.wildcard in allowed.publish) == (role in command.publish)
        assert (command.wildcard in allowed.subscribe) == (role is command.server)


@EVERY_ROLE
def test_only_services_create_streams_and_only_servers_reply(role: Role) -> None:
    allowed = permissions(role)
    creating = [rule for rule in allowed.publish if rule.startswith("$JS.API.STREAM.CREATE")]
    assert bool(creating) == (role in SERVICES)
    assert allowed.responds == any(command.server is role for command in subjects.COMMANDS)


@EVERY_ROLE
def test_replies_to_one_role_cannot_be_read_by_another(role: Role) -> None:
    inboxes = {
        other: next(r for r in permissions(other).subscribe if r.startswith("_INBOX")) for other in Role
    }
    assert len(set(inboxes.values())) == len(Role)
    assert all(inboxes[role] not in permissions(other).subscribe for other in Role if other is not role)


def test_prompts_and_answers_are_visible_to_gateway_and_runner_only() -> None:
    for role in Role:
        heard = permissions(role).subscribe
        assert subjects.INFER.wildcard not in heard
        assert (subjects.ANSWER.wildcard in heard) == (role is Role.GATEWAY)


def test_the_broker_accepts_the_configuration_of_a_home_with_unusual_characters(tmp_path: Path) -> None:
    home = tmp_path / 'Mein "Höme" $HOME ☃'
    home.mkdir()
    ensure_seeds(home / "keys")
    config = home / "nats.conf"
    made = configuration(home / "keys", home / "store", host="127.0.0.1", port=4222)
    config.write_text(made, encoding="utf-8")
    checked = subprocess.run([str(find_server()), "-t", "-c", str(config)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_broker_reserves_room_for_every_stream(tmp_path: Path) -> None:
    ensure_seeds(tmp_path / "keys")
    config = json.loads(configuration(tmp_path / "keys", tmp_path, host="127.0.0.1", port=4222))
    # One that is there already is counted again when the next service ensures it.
    sizes = [stream.max_bytes for stream in streams.ALL]
    assert config["jetstream"]["max_file_store"] > sum(sizes) + max(sizes)
