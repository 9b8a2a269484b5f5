"""Subjects: a template, a payload type, a kind, and the roles that may publish and subscribe."""

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypeVar, cast

import msgspec

from schemas.base import CALLERS, WATCHERS, Role, check_token

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class Kind(StrEnum):
    """The delivery of a message; the second token of the subject."""

    COMMAND = "command"
    """Request and reply, a NATS micro service."""
    EVENT = "event"
    """A fact in the past tense, stored in the EVENTS stream, with CloudEvents headers."""
    PROGRESS = "progress"
    """Core NATS, lossy, at most every 500 ms a subject; an error or an end goes at once."""
    METRIC = "metric"
    """A sample, stored for a day in the METRICS stream."""
    HISTORY = "history"
    """Samples downsampled to points of several seconds, stored for a day in the HISTORY stream."""
    LOG = "log"
    """Batches of log lines, stored in the LOGS stream."""
    INFER = "infer"
    """An inference request in the INFER work queue."""
    BODY = "body"
    """A chunk of a body too large for one message, stored in the BODIES stream until its request ends."""
    FILE = "file"
    """A chunk of an uploaded file, stored in the FILES stream."""
    RESULT = "result"
    """The answer to one line of a batch, stored in the RESULTS stream; duplicates are refused."""
    CANCEL = "cancel"
    """Core NATS: cancel this request."""
    RESEND = "resend"
    """Core NATS: resend lost frames of an answer."""
    REPLY = "reply"
    """Core NATS: the numbered frames of one answer, from a runner to the requesting gateway."""


class Subject(Generic[T]):
    """One subject of the contract. Build with `subject(id=...)`, match with `wildcard`, read with `parse`.

    By default the gateway and the operator may subscribe.
    """

    def __init__(
        self,
        template: str,
        payload: type[T],
        summary: str,
        *,
        publish: Iterable[Role],
        subscribe: Iterable[Role] = WATCHERS,
    ) -> None:
        self.template = template
        self.payload = payload
        self.publish = frozenset(publish)
        self.subscribe = frozenset(subscribe)
        self.summary = summary
        self.tokens = tuple(_PLACEHOLDER.findall(template))
        _, kind, self.noun, *_ = template.split(".")
        self.kind = Kind(kind)
        self.wildcard = _PLACEHOLDER.sub("*", template)

    def __call__(self, **tokens: str) -> str:
        """The subject with these tokens. ValueError if one is missing, unknown or not a valid token."""
        if set(tokens) != set(self.tokens):
            raise ValueError(f"{self.template} takes {self.tokens}, not {tuple(tokens)}")
        return self.template.format_map({name: check_token(token) for name, token in tokens.items()})

    def matching(self, **tokens: str) -> str:
        """The wildcard narrowed by some of the tokens, for a subscription."""
        return self.template.format_map(
            {name: check_token(tokens[name]) if name in tokens else "*" for name in self.tokens}
        )

    def parse(self, subject: str) -> dict[str, str]:
        """The tokens of a received subject; ValueError if it is another one."""
        match = self._pattern.fullmatch(subject)
        if match is None:
            raise ValueError(f"{subject} is not {self.template}")
        return match.groupdict()

    def token(self, subject: str, name: str) -> str:
        """One token of a matching subject, without validation: cheaper than `parse`."""
        return subject.split(".")[self._positions[name]]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {word[1:-1]: at for at, word in enumerate(self.template.split(".")) if word.startswith("{")}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(_PLACEHOLDER.sub(r"(?P<\1>[^.]+)", self.template.replace(".", r"\.")))

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[T]:
        return msgspec.json.Decoder(self.payload)

    def encode(self, payload: T) -> bytes:
        """Payload to wire: JSON, or the bytes as they are."""
        return payload if isinstance(payload, bytes) else msgspec.json.encode(payload)

    def decode(self, data: bytes) -> T:
        """Wire to payload; msgspec.ValidationError names the path that differs from the type."""
        if self.payload is bytes:
            return data  # type: ignore[return-value]  # T is bytes here
        try:
            return self._decoder.decode(data)
        except RecursionError:
            raise msgspec.DecodeError("JSON is nested too deeply") from None

    def event_type(self, subject: str) -> str:
        """CloudEvents `type` of a message on `subject`: the subject without its ids."""
        tokens = subject.split(".")
        return ".".join([*tokens[:3], tokens[-1]])

    def __repr__(self) -> str:
        return f"<Subject {self.template}>"


class Command(Subject[T], Generic[T, R]):
    """A subject that is answered with an `R`, or with an error in the one shape."""

    def __init__(
        self,
        template: str,
        payload: type[T],
        reply: type[R],
        summary: str,
        *,
        callers: Iterable[Role],
        server: Role,
        timeout_s: float,
        changes: str | None,
    ) -> None:
        super().__init__(template, payload, summary, publish=callers, subscribe=[server])
        self.reply = reply
        self.server = server
        self.changes = changes
        """The field or token that names what it changes, so that it is audited; empty: none does.

        None: a read.
        """
        self.timeout_s = timeout_s
        """Timeout of the reply."""
        self.name = ".".join(word for word in template.split(".")[2:] if not word.startswith("{"))
        """`model.put`: its noun and its verb."""

    @cached_property
    def _reply_decoder(self) -> msgspec.json.Decoder[R]:
        return msgspec.json.Decoder(self.reply)

    def encode_reply(self, reply: R) -> bytes:
        return reply if isinstance(reply, bytes) else msgspec.json.encode(reply)

    def decode_reply(self, data: bytes) -> R:
        if self.reply is bytes:
            return data  # type: ignore[return-value]  # R is bytes here
        return self._reply_decoder.decode(data)


class CommandOf(Command[T, R], Generic[P, T, R]):
    """A command whose payload is created with the arguments `P`."""


class CommandDeclarer:
    """Declares the commands that one service serves: `command("model.put", payload, reply, summary)`."""

    def __init__(self, server: Role, *, callers: Iterable[Role] = CALLERS, timeout_s: float = 5.0) -> None:
        self._server = server
        self._callers = callers
        self._timeout_s = timeout_s

    def __call__(
        self,
        name: str,
        payload: Callable[P, T],
        reply: type[R],
        summary: str,
        *,
        callers: Iterable[Role] | None = None,
        timeout_s: float | None = None,
        changes: str | None = None,
    ) -> CommandOf[P, T, R]:
        """The command `yard.command.` + `name`. `timeout_s`, `changes`: as in `Command`."""
        return CommandOf(
            f"yard.command.{name}",
            cast("type[T]", payload),
            reply,
            summary,
            callers=self._callers if callers is None else callers,
            server=self._server,
            timeout_s=timeout_s or self._timeout_s,
            changes=changes,
        )

    def change(
        self,
        name: str,
        payload: Callable[P, T],
        reply: type[R],
        summary: str,
        *,
        callers: Iterable[Role] | None = None,
        timeout_s: float | None = None,
    ) -> CommandOf[P, T, R]:
        """A command that changes what the first field of its payload names."""
        changes, *_ = cast("type[msgspec.Struct]", payload).__struct_fields__
        return self(name, payload, reply, summary, callers=callers, timeout_s=timeout_s, changes=changes)


AnySubject = Subject[Any]
