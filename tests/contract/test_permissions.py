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
def test_nobody_may_do_everything(role: Role) -> None:
    allowed = permissions(role)
    for rule in (*allowed.publish, *allowed.subscribe):
        assert rule not in {">", "yard.>", "$JS.API.>", "$JS.>", "$KV.>", "_INBOX.>"} or (
            rule == "_INBOX.>" and role is Role.OPERATOR
        )
        # Bodies of requests that have ended are nobody's history.
        purged = {f"$JS.API.STREAM.PURGE.{stream.name}" for stream in streams.ALL if role in stream.purgers}
        # The registry's writer lengthens the history that a broker of before keeps.
        longer = {"$JS.API.STREAM.UPDATE.KV_models"} if role is Role.SUPERVISOR else set()
        # Who samples lengthens the stream of samples that a broker of before keeps.
        longer |= {"$JS.API.STREAM.UPDATE.METRICS"} if role is Role.MONITOR else set()
        assert rule in purged | longer or not rule.startswith(
            ("$JS.API.STREAM.UPDATE", "$JS.API.STREAM.DELETE", "$JS.API.STREAM.PURGE", "$SYS")
        )


@EVERY_ROLE
def test_only_writers_write_a_bucket_and_only_readers_read_it(role: Role) -> None:
    allowed = permissions(role).publish
    for bucket in buckets.ALL:
        assert (bucket.subject(">") in allowed) == (role in bucket.writers)
        assert (f"$JS.API.CONSUMER.CREATE.{bucket.stream}" in allowed) == (role in bucket.readers)


@EVERY_ROLE
def test_only_callers_call_and_only_the_server_serves(role: Role) -> None:
    allowed = permissions(role)
    for command in subjects.COMMANDS:
        assert (command.wildcard in allowed.publish) == (role in command.publish)
        assert (command.wildcard in allowed.subscribe) == (role is command.server)


@EVERY_ROLE
def test_only_services_create_streams_and_only_servers_answer(role: Role) -> None:
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


def test_prompts_and_answers_are_for_gateway_and_runner_alone() -> None:
    for role in Role:
        heard = permissions(role).subscribe
        assert subjects.INFER.wildcard not in heard
        assert (subjects.ANSWER.wildcard in heard) == (role is Role.GATEWAY)


def test_the_broker_takes_the_configuration_of_a_home_with_any_name(tmp_path: Path) -> None:
    home = tmp_path / 'Mein "Höme" $HOME ☃'
    home.mkdir()
    ensure_seeds(home / "keys")
    config = home / "nats.conf"
    made = configuration(home / "keys", home / "store", host="127.0.0.1", port=4222)
    config.write_text(made, encoding="utf-8")
    checked = subprocess.run([str(find_server()), "-t", "-c", str(config)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_broker_makes_room_for_every_stream_however_full_the_disk_is(tmp_path: Path) -> None:
    ensure_seeds(tmp_path / "keys")
    config = json.loads(configuration(tmp_path / "keys", tmp_path, host="127.0.0.1", port=4222))
    # One that is there already is counted again when the next service ensures it.
    sizes = [stream.max_bytes for stream in streams.ALL]
    assert config["jetstream"]["max_file_store"] > sum(sizes) + max(sizes)
