"""Broker permissions per role, derived only from the contract's declarations."""

from dataclasses import dataclass

from schemas import buckets, streams, subjects
from schemas.base import SERVICES, Role, inbox_prefix
from schemas.subject import Command, Kind


@dataclass(frozen=True)
class Permissions:
    """In the form of the broker's configuration. `responds`: may reply to requests that it receives."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responds: bool


def permissions(role: Role) -> Permissions:
    """All permissions of `role`."""
    publish = [*_subjects_published(role), *_state(role), *_streams(role), *_setup(role)]
    subscribe = [f"{inbox_prefix(role)}.>", *_subjects_subscribed(role)]
    return Permissions(tuple(dict.fromkeys(publish)), tuple(dict.fromkeys(subscribe)), responds=_serves(role))


def _subjects_published(role: Role) -> list[str]:
    discovery = ["$SRV.>"] if role is Role.OPERATOR else []
    return [subject.wildcard for subject in subjects.ALL if role in subject.publish] + discovery


def _subjects_subscribed(role: Role) -> list[str]:
    discovery = ["$SRV.>"] if role in SERVICES else []
    kinds = [f"yard.{kind}.>" for kind in Kind if _may_hear_all(role, kind)]
    return [subject.wildcard for subject in subjects.ALL if role in subject.subscribe] + kinds + discovery


def _may_hear_all(role: Role, kind: Kind) -> bool:
    """A role that may subscribe to every subject of a kind may use one wildcard: `yard.event.>`."""
    of_kind = [subject for subject in subjects.ALL if subject.kind is kind]
    return kind is not Kind.COMMAND and all(role in subject.subscribe for subject in of_kind)


def _serves(role: Role) -> bool:
    """True for roles that serve commands."""
    return any(isinstance(subject, Command) and subject.server is role for subject in subjects.ALL)


def _state(role: Role) -> list[str]:
    written = [bucket.subject(">") for bucket in buckets.ALL if role in bucket.writers]
    readable = (bucket.stream for bucket in buckets.ALL if role in bucket.readers)
    return written + [rule for stream in readable for rule in _reading(stream)]


def _streams(role: Role) -> list[str]:
    rules = [rule for stream in streams.ALL if role in stream.readers for rule in _reading(stream.name)]
    rules += [rule for stream in streams.ALL if role in stream.workers for rule in _working(stream.name)]
    for one in streams.ALL:
        if role in one.fetchers:
            rules += [f"$JS.API.DIRECT.GET.{one.name}.>", f"$JS.API.STREAM.INFO.{one.name}"]
        if role in one.purgers:
            rules.append(f"$JS.API.STREAM.PURGE.{one.name}")
    if role is Role.GATEWAY:
        rules.append(f"$JS.API.STREAM.MSG.DELETE.{streams.INFER.name}")
    if role in (Role.GATEWAY, Role.SUPERVISOR, Role.RUNNER, Role.OPERATOR):
        rules.append(f"$JS.API.STREAM.INFO.{streams.INFER.name}")
    if role is Role.OPERATOR:
        rules.append(f"$JS.API.STREAM.INFO.{streams.BODIES.name}")
    return rules


def _reading(stream: str) -> list[str]:
    return [
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}.>",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.API.CONSUMER.DELETE.{stream}.*",
        f"$JS.FC.{stream}.>",
    ]


def _working(stream: str) -> list[str]:
    return [
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*",
        f"$JS.ACK.{stream}.>",
    ]


def _setup(role: Role) -> list[str]:
    """The four services create what is missing. Streams in use are deleted by no role.

    They are updated only by the writer of a bucket with history and by the migrating role of a stream: an
    earlier version may have created a shorter one.
    """
    if role not in SERVICES:
        return []
    names = [stream.name for stream in streams.ALL] + [bucket.stream for bucket in buckets.ALL]
    longer = [bucket.stream for bucket in buckets.ALL if bucket.history > 1 and role in bucket.writers]
    longer += [stream.name for stream in streams.ALL if stream.migrated_by is role]
    return [
        "$JS.API.INFO",
        *(f"$JS.API.STREAM.{verb}.{name}" for name in names for verb in ("INFO", "CREATE")),
        *(f"$JS.API.STREAM.UPDATE.{name}" for name in longer),
        *(f"$JS.API.STREAM.DELETE.{name}" for name in buckets.RETIRED_STREAMS if role is Role.SUPERVISOR),
    ]
