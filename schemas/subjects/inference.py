"""Inference requests, from a client to an engine and back."""

from schemas.base import GATEWAY, MONITOR, OPERATOR, RUNNER, SUPERVISOR, WATCHERS
from schemas.batches import LineResult
from schemas.frames import AnswerCheck, AnswerCheckReply, Resend
from schemas.requests import RequestFinished, RequestQueued, RequestStarted
from schemas.subject import CommandDeclarer, Subject

_command = CommandDeclarer(GATEWAY)

ANSWER_CHECK = _command(
    "gateway.{gateway}.check",
    AnswerCheck,
    AnswerCheckReply,
    "A runner checks which of its answers still have a waiting client.",
    callers=(RUNNER,),
)
OPENAI = _command(
    "openai.{endpoint}",
    bytes,
    bytes,
    "Inference over NATS: the same JSON; the answer in several replies, an empty one last.",
    callers=(OPERATOR,),
)
REQUEST_QUEUED = Subject(
    "yard.event.request.{model}.{request}.queued",
    RequestQueued,
    "An inference request is queued for a slot.",
    publish=(GATEWAY,),
    subscribe=(*WATCHERS, SUPERVISOR, RUNNER),
)
REQUEST_STARTED = Subject(
    "yard.event.request.{model}.{request}.started",
    RequestStarted,
    "A runner took the request.",
    publish=(RUNNER,),
)
REQUEST_FINISHED = Subject(
    "yard.event.request.{model}.{request}.finished",
    RequestFinished,
    "The request ended; this is its usage record.",
    publish=(GATEWAY, RUNNER),
    subscribe=(*WATCHERS, MONITOR),
)
INFER = Subject(
    "yard.infer.{model}.{lane}.{key}",
    bytes,
    "An inference request with the client's body. One queue per key, served in turns.",
    publish=(GATEWAY,),
    subscribe=(),
)
BODY = Subject(
    "yard.body.{request}.{part}",
    bytes,
    "A chunk of a request body too large for one message: 0, 1, 2, ….",
    publish=(GATEWAY,),
    subscribe=(),
)
FILE = Subject(
    "yard.file.{file}.{part}", bytes, "A chunk of a file: 0, 1, 2, ….", publish=(GATEWAY,), subscribe=()
)
RESULT = Subject(
    "yard.result.{batch}.{line}",
    LineResult,
    "The answer to one line of a batch.",
    publish=(GATEWAY,),
    subscribe=(),
)
CANCEL = Subject(
    "yard.cancel.{request}",
    bytes,
    "Cancel a request.",
    publish=(GATEWAY, OPERATOR),
    subscribe=(GATEWAY, RUNNER),
)
RESEND = Subject(
    "yard.resend.{request}",
    Resend,
    "Resend lost frames of an answer.",
    publish=(GATEWAY,),
    subscribe=(RUNNER,),
)
ANSWER = Subject(
    "yard.reply.{gateway}.{request}.frame",
    bytes,
    "One frame of an answer: a line of JSON that numbers it, then bytes of the answer.",
    publish=(RUNNER,),
    subscribe=(GATEWAY,),
)
STORED = Subject(
    "yard.reply.{gateway}.{request}.stored",
    bytes,
    "The broker's acknowledgement of a queued request, or its refusal.",
    publish=(),
    subscribe=(GATEWAY,),
)
