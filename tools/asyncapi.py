"""The wire as an AsyncAPI 3.0 document, derived from the contract: `python -m tools.asyncapi`."""

import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

import modelyard
from schemas import buckets, streams, subjects
from schemas.base import Role
from schemas.buckets import Bucket
from schemas.errors import ErrorBody
from schemas.frames import Frame
from schemas.requests import INFER_HEADER, InferHeaders
from schemas.streams import Stream
from schemas.subject import AnySubject, Command, Kind

Json = dict[str, Any]

_JSON = "application/json"
_BYTES = "application/octet-stream"
_SCHEMAS = "#/components/schemas/"
_CLOUD_EVENT = ("Nats-Msg-Id", "ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time")
_INFER = ("Nats-Msg-Id", INFER_HEADER)
_HEADERS = {Kind.EVENT: _CLOUD_EVENT, Kind.INFER: _INFER}


def document() -> Json:
    """Everything that crosses the wire, in the order in which the contract declares it."""
    channels: Json = {}
    operations: Json = {}
    for name, subject in _named_subjects():
        channels |= _channels(name, subject)
        operations |= _operations(name, subject)
    for bucket in buckets.ALL:
        name = f"bucket_{bucket.name}"
        channels[name] = _bucket_channel(bucket)
        operations |= _pair(name, bucket.writers, bucket.readers)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Modelyard",
            "version": modelyard.__version__,
            "description": "Every message between the services of Modelyard, its runners and its users.",
        },
        "defaultContentType": _JSON,
        "channels": channels,
        "operations": operations,
        "components": {"schemas": _schemas()},
        "x-streams": {stream.name: _stream(stream) for stream in streams.ALL},
    }


def text() -> str:
    """The document as it lies in `docs/asyncapi.json`."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def payloads() -> tuple[type, ...]:
    """Every type that is JSON on the wire, each once."""
    found: list[type] = []
    for subject in subjects.ALL:
        found += [subject.payload, *([subject.reply] if isinstance(subject, Command) else [])]
    found += [*(bucket.value for bucket in buckets.ALL), Frame, InferHeaders, ErrorBody]
    return tuple(dict.fromkeys(payload for payload in found if payload is not bytes))


def _named_subjects() -> Iterator[tuple[str, AnySubject]]:
    names = {id(value): name.lower() for name, value in vars(subjects).items()}
    for subject in subjects.ALL:
        yield names[id(subject)], subject


def _channels(name: str, subject: AnySubject) -> Json:
    """The channel of a subject, and for a command the one on which it is answered."""
    message = {"summary": subject.summary, **_content(subject.payload), **_headers(subject.kind)}
    if subject is subjects.ANSWER:
        message["x-first-line"] = {"$ref": _SCHEMAS + Frame.__name__}
    channel = {
        "address": subject.template,
        "summary": subject.summary,
        "messages": {"message": message},
        **_parameters(subject.tokens),
        "x-kind": subject.kind.value,
    }
    if (stream := streams.BY_KIND.get(subject.kind)) is not None:
        channel["x-stream"] = stream.name
    if not isinstance(subject, Command):
        return {name: channel}
    replies = {"reply": _content(subject.reply), "error": _content(ErrorBody)}
    return {
        name: channel,
        f"{name}_reply": {
            "address": None,
            "description": "The reply subject of the request: an inbox of the caller.",
            "messages": replies,
        },
    }


def _operations(name: str, subject: AnySubject) -> Json:
    receivers = set(subject.subscribe)
    if (stream := streams.BY_KIND.get(subject.kind)) is not None:
        receivers |= stream.readers | stream.workers | stream.fetchers
    operations = _pair(name, subject.publish, receivers)
    if isinstance(subject, Command):
        for operation in operations.values():
            operation["reply"] = {"channel": {"$ref": f"#/channels/{name}_reply"}}
    return operations


def _pair(channel: str, senders: Iterable[Role], receivers: Iterable[Role]) -> Json:
    """Sending and receiving any message of the channel, each with the roles that may."""
    return {
        f"{action}_{channel}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "x-roles": sorted(role.value for role in roles),
        }
        for action, roles in (("send", senders), ("receive", receivers))
    }


def _bucket_channel(bucket: Bucket[Any]) -> Json:
    return {
        "address": bucket.subject("{key}"),
        "summary": f"The bucket {bucket.name}: {_first_line(bucket.value)}",
        "messages": {"value": _content(bucket.value)},
        **_parameters(("key",)),
        "x-stream": bucket.stream,
        "x-expires": bucket.expires,
        "x-history": bucket.history,
    }


def _parameters(tokens: Iterable[str]) -> Json:
    parameters = {token: {"description": "One token: letters, digits, `_`, `=`, `-`."} for token in tokens}
    return {"parameters": parameters} if parameters else {}


def _content(payload: type) -> Json:
    if payload is bytes:
        return {"contentType": _BYTES, "payload": {"type": "string", "format": "binary"}}
    return {"contentType": _JSON, "payload": {"$ref": _SCHEMAS + payload.__name__}}


def _headers(kind: Kind) -> Json:
    names = _HEADERS.get(kind)
    if names is None:
        return {}
    properties: Json = {name: {"type": "string"} for name in names}
    if INFER_HEADER in properties:
        properties[INFER_HEADER] |= {
            "contentMediaType": _JSON,
            "contentSchema": {"$ref": _SCHEMAS + InferHeaders.__name__},
        }
    return {"headers": {"type": "object", "properties": properties, "required": list(names)}}


def _stream(stream: Stream) -> Json:
    return {
        "subject": stream.subject,
        "max_age_s": stream.max_age_s,
        "max_bytes": stream.max_bytes,
        "work_queue": stream.work_queue,
        "readers": sorted(role.value for role in stream.readers),
        "workers": sorted(role.value for role in stream.workers),
    }


def _schemas() -> Json:
    _, schemas = msgspec.json.schema_components(payloads(), ref_template=_SCHEMAS + "{name}")
    return {name: _with_clean_descriptions(schema) for name, schema in sorted(schemas.items())}


def _with_clean_descriptions(schema: Any) -> Any:
    """Docstrings without their indentation, whatever the version of msgspec makes of them."""
    if isinstance(schema, list):
        return [_with_clean_descriptions(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: inspect.cleandoc(part)
        if key == "description" and isinstance(part, str)
        else _with_clean_descriptions(part)
        for key, part in schema.items()
    }


def _first_line(payload: type) -> str:
    return (payload.__doc__ or "").strip().partition("\n")[0]


if __name__ == "__main__":
    sys.stdout.write(text())
